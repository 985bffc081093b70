"""A layout: the names, shapes and dtypes of a checkpoint's tensors, in the order of its file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from harness.checkpoints.safetensors_file import BY_TORCH

ITEM_BYTES = {name: dtype.bits * dtype.packed // 8 for name, dtype in BY_TORCH.items()} | {
    "complex128": 16,
    "complex32": 4,
}
"""Size in bytes of one element, as torch counts them, of each dtype that a checkpoint can hold."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a layout."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the content in bytes."""
        return ITEM_BYTES[self.dtype] * self.elements


@dataclass(frozen=True)
class Layout:
    """A checkpoint's tensors in file order.

    One with `shard_bytes` is stored as shards of at most that size with an index.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    shard_bytes: int | None = None
    heads: int | None = None
    """Attention heads, key and value heads where those are fewer: what tensor-parallel ranks share
    out.
    """

    pipeline: bool = False
    """Whether it is several networks, each in files of its own: nobody keeps it as one flat
    checkpoint.
    """

    @property
    def bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.bytes for tensor in self.tensors)

    def shards(self) -> list[tuple[TensorSpec, ...]]:
        """Return the tensors of each shard: filled in file order, a new one begun where the next
        tensor would not fit.
        """
        if self.shard_bytes is None:
            return [self.tensors]
        shards: list[list[TensorSpec]] = [[]]
        used = 0
        for tensor in self.tensors:
            if shards[-1] and used + tensor.bytes > self.shard_bytes:
                shards.append([])
                used = 0
            shards[-1].append(tensor)
            used += tensor.bytes
        return [tuple(shard) for shard in shards]


Entries = Iterator[tuple[str, tuple[int, ...]]]
"""Names and shapes, in file order."""
