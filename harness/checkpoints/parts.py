"""Parts of a checkpoint: which pieces of which tensors are asked for.

Needs the standard library alone, since pieces are also cut inside an environment under test.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.checkpoints.layout import TensorSpec
from harness.errors import WeighbridgeError, unknown_name

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_ORDER_SEED = 0
_EIGHTH = 4
"""Which eighth of eight is asked for: one in the middle, where neither a file's beginning nor its
end helps.
"""


@dataclass(frozen=True)
class Piece:
    """A whole tensor (`axis` None), or the indices from `start` up to `stop` of one of its axes."""

    tensor: str
    axis: int | None = None
    start: int = 0
    stop: int = 0

    @property
    def index(self) -> tuple[slice, ...]:
        """The piece as an index into its tensor; empty for the whole of it."""
        return (
            () if self.axis is None else (*[slice(None)] * self.axis, slice(self.start, self.stop))
        )

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the piece as a view of its tensor."""
        return (
            tensor
            if self.axis is None
            else tensor.narrow(self.axis, self.start, self.stop - self.start)
        )


def part(name: str, checkpoint: str, tensors: Sequence[TensorSpec]) -> tuple[Piece, ...]:
    """Return the pieces of a named part of a checkpoint, in file order.

    Raises `WeighbridgeError`, in one line, for a part that does not exist or that these tensors do
    not have.
    """
    known = PARTS | ORDERS
    if name not in known:
        raise unknown_name("part", name, known)
    pieces = known[name](tensors)
    if not pieces:
        raise WeighbridgeError(f"{checkpoint} has no part {name}: {_WHY_NOT[name]}")
    return tuple(pieces)


def _one_tensor(tensors: Sequence[TensorSpec]) -> list[Piece]:
    among = _middle_layer(tensors) or tensors
    return [Piece(max(among, key=lambda tensor: tensor.elements).name)] if among else []


def _one_layer(tensors: Sequence[TensorSpec]) -> list[Piece]:
    return [Piece(tensor.name) for tensor in _middle_layer(tensors)]


def _middle_layer(tensors: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the tensors whose first number in the name is the middle one of all such numbers."""
    numbered = [
        (int(match[1]), tensor) for tensor in tensors if (match := _LAYER.search(tensor.name))
    ]
    numbers = sorted({number for number, _ in numbered})
    return [tensor for number, tensor in numbered if number == numbers[len(numbers) // 2]]


def _every_eighth_tensor(tensors: Sequence[TensorSpec]) -> list[Piece]:
    return [Piece(tensor.name) for tensor in tensors[_EIGHTH::8]] if len(tensors) >= 8 else []


def _eighth(axis: int) -> Callable[[Sequence[TensorSpec]], list[Piece]]:
    def pieces(tensors: Sequence[TensorSpec]) -> list[Piece]:
        """Return an eighth of every matrix along the axis.

        One that is too short to hold one is left out.
        """
        cut = []
        for tensor in tensors:
            if len(tensor.shape) == 2:
                start, stop = (share * tensor.shape[axis] // 8 for share in (_EIGHTH, _EIGHTH + 1))
                if stop > start and tensor.elements:
                    cut.append(Piece(tensor.name, axis, start, stop))
        return cut

    return pieces


def _in_file_order(tensors: Sequence[TensorSpec]) -> list[Piece]:
    return [Piece(tensor.name) for tensor in tensors]


def _in_random_order(tensors: Sequence[TensorSpec]) -> list[Piece]:
    pieces = _in_file_order(tensors)
    random.Random(_ORDER_SEED).shuffle(pieces)  # noqa: S311  # the same order every time
    return pieces


PARTS: dict[str, Callable[[Sequence[TensorSpec]], list[Piece]]] = {
    "one-tensor": _one_tensor,
    "one-layer": _one_layer,
    "every-8th-tensor": _every_eighth_tensor,
    "eighth-rows": _eighth(0),
    "eighth-columns": _eighth(1),
}
"""Every part by name: the largest tensor of the middle layer; that layer; every eighth tensor; an
eighth of the rows of every matrix, each a contiguous slice; an eighth of the columns of every
matrix, each a strided one.
"""


_WHY_NOT = {
    "one-tensor": "it has no tensor",
    "one-layer": "no tensor's name holds the number of a layer",
    "every-8th-tensor": "it has fewer than 8 tensors",
    "eighth-rows": "it has no matrix of enough rows",
    "eighth-columns": "it has no matrix of enough columns",
}
ORDERS: dict[str, Callable[[Sequence[TensorSpec]], list[Piece]]] = {
    "in-file-order": _in_file_order,
    "in-random-order": _in_random_order,
}
"""Everything, tensor by tensor: what the scenario of storage asks for."""
