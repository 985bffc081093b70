"""The ceiling of a part: a parallel read of exactly the bytes asked for.

The kernel is told to read nothing ahead, so what storage gives is the least that any read through
the page cache can ask of it: the pages that hold those bytes. They are all announced before the
first is read, so that a disk has every request at once; one after the other, the scattered pages of
a strided slice took several times as long. Contiguous runs are then read, strided ones copied out
of a mapping.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.parts import Piece
from harness.checkpoints.safetensors_file import Entry, read_header
from harness.loaders import Ceiling, Selection
from harness.loaders.ceiling import (
    as_described,
    held_memory,
    hold,
    read_into,
    started_threads,
    threads,
    view,
)

if TYPE_CHECKING:
    import torch

    from harness.loaders import Tensors

_PAGE = mmap.PAGESIZE
_BLOCK = 1 << 20
_ALIGNED = 64


@dataclass(frozen=True)
class _Region:
    """A piece in its file: `runs` runs of `length` bytes, from byte `first`, each `distance` after
    the one before, and its place in memory.
    """

    entry: Entry
    shape: tuple[int, ...]
    first: int
    runs: int
    distance: int
    length: int
    place: int

    @property
    def bytes(self) -> int:
        return self.runs * self.length


@dataclass(frozen=True)
class _Plan:
    """What is read of one file: its pieces by name, the pages that hold them, and the blocks of
    those that are contiguous.
    """

    pieces: dict[str, _Region]
    pages: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[int, int, int], ...]
    """(first byte, bytes, place in memory)"""
    strided: tuple[_Region, ...]
    bytes: int


_Prepared = tuple[dict[str, "torch.Tensor"], ThreadPoolExecutor]


def _reserve(selections: Sequence[Selection]) -> None:
    """Hold memory for the bytes and find out where they are, both in the process that samples are
    forked from.
    """
    hold(sum(_plan(file, tuple(pieces)).bytes for file, pieces in selections))


def _prepare(selections: Sequence[Selection], _device: str) -> _Prepared:
    """Return held memory for each file's bytes, and threads that have started."""
    plans = {file: _plan(file, tuple(pieces)) for file, pieces in selections}
    memory = held_memory(sum(plan.bytes for plan in plans.values()))
    buffers, start = {}, 0
    for file, plan in plans.items():
        buffers[file] = memory[start : start + plan.bytes]
        start += plan.bytes
    return buffers, started_threads()


def _read(selections: Sequence[Selection], _device: str, prepared: _Prepared) -> Tensors:
    buffers, pool = prepared
    for file, pieces in selections:
        plan, memory, fd = (
            _plan(file, tuple(pieces)),
            view(buffers[file]),
            os.open(file, os.O_RDONLY),
        )
        try:
            _together(pool, plan.pages, lambda pages, fd=fd: _announce(fd, pages))
            _together(
                pool,
                plan.blocks,
                lambda blocks, fd=fd, memory=memory: _read_blocks(fd, memory, blocks),
            )
            if plan.strided:
                _copy(fd, buffers[file], plan.strided, pool)
        finally:
            os.close(fd)
    return buffers


def _together(pool: ThreadPoolExecutor, work: Sequence[Any], do: Any) -> None:
    """Have every thread do its share of the work: every n-th item."""
    if work:
        list(pool.map(lambda first: do(work[first :: threads()]), range(threads())))


def _announce(fd: int, pages: Sequence[tuple[int, int]]) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        for start, stop in pages:
            os.posix_fadvise(fd, start, stop - start, os.POSIX_FADV_WILLNEED)


def _read_blocks(fd: int, memory: memoryview, blocks: Sequence[tuple[int, int, int]]) -> None:
    for start, length, place in blocks:
        read_into(fd, memory[place : place + length], start)


def _copy(
    fd: int, memory: torch.Tensor, strided: Sequence[_Region], pool: ThreadPoolExecutor
) -> None:
    import torch

    mapping = mmap.mmap(
        fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
    )  # never written: torch wants writable memory
    if hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_RANDOM)
    whole = torch.frombuffer(mapping, dtype=torch.uint8)  # the mapping goes with it

    def copy(pieces: Sequence[_Region]) -> None:
        for region in pieces:
            runs = whole.as_strided(
                (region.runs, region.length), (region.distance, 1), region.first
            )
            memory[region.place : region.place + region.bytes].view(
                region.runs, region.length
            ).copy_(runs)

    _together(pool, strided, copy)


def _name_tensors(buffers: Tensors, selections: Sequence[Selection]) -> Tensors:
    return {
        name: as_described(
            buffers[file][region.place : region.place + region.bytes], region.entry, region.shape
        )
        for file, pieces in selections
        for name, region in _plan(file, tuple(pieces)).pieces.items()
    }


@cache
def _plan(file: str, pieces: tuple[Piece, ...]) -> _Plan:
    """Return where the pieces lie in a safetensors file."""
    header = read_header(Path(file))
    region: dict[str, _Region] = {}
    place = 0
    for piece in pieces:
        region[piece.tensor] = _find(header.tensors[piece.tensor], piece, header.data, place)
        place += -(-region[piece.tensor].bytes // _ALIGNED) * _ALIGNED
    contiguous = [part for part in region.values() if part.runs == 1]
    blocks = (
        (part.first + at, min(_BLOCK, part.length - at), part.place + at)
        for part in contiguous
        for at in range(0, part.length, _BLOCK)
    )
    return _Plan(
        region,
        tuple(_pages(region.values())),
        tuple(blocks),
        tuple(part for part in region.values() if part.runs > 1),
        place,
    )


def _find(entry: Entry, piece: Piece, data: int, place: int) -> _Region:
    shape = list(entry.torch_shape)
    start, stop = data + entry.start, data + entry.end
    if piece.axis is None:
        return _Region(entry, tuple(shape), start, 1, stop - start, stop - start, place)
    runs = prod(shape[: piece.axis])
    distance = (stop - start) // max(runs, 1)
    step = distance // shape[piece.axis]
    shape[piece.axis] = piece.stop - piece.start
    return _Region(
        entry,
        tuple(shape),
        start + piece.start * step,
        runs,
        distance,
        shape[piece.axis] * step,
        place,
    )


def _pages(pieces: Iterable[_Region]) -> Iterator[tuple[int, int]]:
    """Yield (first byte, end) of the pages that hold any run, in order and none twice, those that
    touch taken together up to a block.
    """
    runs = sorted(
        (at // _PAGE, -(-(at + region.length) // _PAGE))
        for region in pieces
        if region.length
        for at in (region.first + run * region.distance for run in range(region.runs))
    )
    first = end = runs[0][0] if runs else 0
    for start, stop in [*runs, (1 << 62, 1 << 62)]:
        if start > end:
            yield from (
                (at * _PAGE, min(at + _BLOCK // _PAGE, end) * _PAGE)
                for at in range(first, end, _BLOCK // _PAGE)
            )
            first = start
        end = max(end, stop)


PART_LOADERS = (
    Ceiling(
        "ceiling-read",
        "safetensors",
        _read,
        preallocate=_reserve,
        setup=_prepare,
        as_tensors=_name_tensors,
        whole=False,
    ),
)
