"""Tensors that share memory: which are one, which overlap, and whose name is kept.

Needs the standard library and torch alone, since `convert_file` also runs inside an environment
under test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from harness.checkpoints.mapped_files import extent

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sharing:
    """Which tensors of a checkpoint share memory: the one that is kept by the name of each
    other.
    """

    same: dict[str, str]
    """Names for the very same tensor."""
    parts: dict[str, str]
    """Names for a tensor that overlaps another, at another place or in another shape."""


def sharing(tensors: Tensors, discard: Callable[[], Collection[str]] = tuple) -> Sharing:
    """Return who shares memory with whom, as the hub's converter decides it.

    Kept is a tensor that covers its whole storage where there is one, else one that overlaps it;
    among several the first by name that is not among those that `discard` returns. It is asked only
    where memory is shared.
    """
    groups: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in tensors.items():
        if tensor.nbytes:
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(
                (*_span(tensor), name)
            )
    sharing = Sharing({}, {})
    for group in groups.values():
        for together in _overlapping(sorted(group)):
            if len(together) > 1:
                _share(tensors, together, set(discard()), sharing)
    return sharing


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.untyped_storage().data_ptr() + extent(tensor)


def _overlapping(spans: list[tuple[int, int, str]]) -> list[list[str]]:
    groups: list[list[str]] = []
    reached = 0
    for start, stop, name in spans:
        if start >= reached:
            groups.append([])
        groups[-1].append(name)
        reached = max(reached, stop)
    return groups


def _share(tensors: Tensors, names: list[str], discard: set[str], sharing: Sharing) -> None:
    """Put the names of one overlapping group into `found`."""

    def rank(name: str) -> tuple[bool, bool, str]:
        tensor = tensors[name]
        whole = tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()
        return not whole, name in discard, name

    ordered = sorted(names, key=rank)
    first: dict[tuple[object, ...], str] = {}
    for name in ordered:
        tensor = tensors[name]
        view = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if view in first:
            sharing.same[name] = first[view]
        else:
            first[view] = name
            if name != ordered[0]:
                sharing.parts[name] = ordered[0]
