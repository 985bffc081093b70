"""The ceilings of memory and of the way to a GPU: copies of the same bytes, from memory that holds
them to memory that is there.

They read no file while the clock runs; the file's bytes are fetched before. `ceiling-copy` copies
with as many threads as `ceiling-read` reads with; `ceiling-to-device` copies from pinned memory,
which the GPU fetches by itself, `ceiling-to-device-pageable` from any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.loaders import Ceiling
from harness.loaders.ceiling import (
    held_memory,
    hold,
    name_tensors,
    needed,
    prepare,
    read_in_turns,
    room,
    started_threads,
    threads,
)
from harness.scenarios import CACHE_STATES

if TYPE_CHECKING:
    import torch

    from harness.loaders import Tensors

_BLOCK = 8 << 20


def _reserve_twice(files: Sequence[str]) -> None:
    hold(2 * needed(files))


def _prepare_copy(
    files: Sequence[str], _device: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], ThreadPoolExecutor]:
    """Return the files' bytes, held memory of the same sizes, and threads that have started."""
    size, start = needed(files), 0
    memory = held_memory(2 * size)
    sources, targets = {}, {}
    for file in files:
        length = Path(file).stat().st_size
        sources[file], targets[file] = (
            memory[start : start + length],
            memory[size + start : size + start + length],
        )
        start += room(file)
    pool = started_threads()
    read_in_turns(files, (sources, pool))
    return sources, targets, pool


def _copy(
    files: Sequence[str],
    _device: str,
    prepared: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], ThreadPoolExecutor],
) -> Tensors:
    sources, targets, pool = prepared
    for file in files:
        source, target = sources[file], targets[file]

        def copy_every(
            first: int, source: torch.Tensor = source, target: torch.Tensor = target
        ) -> None:
            for start in range(first * _BLOCK, len(source), threads() * _BLOCK):
                target[start : start + _BLOCK].copy_(source[start : start + _BLOCK])

        list(pool.map(copy_every, range(threads())))
    return targets


def _prepare_pinned(files: Sequence[str], device: str) -> tuple[Tensors, Tensors]:
    return _on_both_sides(files, device, pinned=True)


def _prepare_pageable(files: Sequence[str], device: str) -> tuple[Tensors, Tensors]:
    return _on_both_sides(files, device, pinned=False)


def _on_both_sides(files: Sequence[str], device: str, *, pinned: bool) -> tuple[Tensors, Tensors]:
    """Return the files' bytes in the processor's memory, and memory of the same sizes on the
    device, written to once.
    """
    import torch

    read, pool = prepare(files, device)
    read_in_turns(files, (read, pool))
    pool.shutdown()
    pinned = pinned and device != "cpu"
    sources = {
        file: bytes_.pin_memory() if pinned else bytes_.clone() for file, bytes_ in read.items()
    }
    targets = {
        file: torch.full(bytes_.shape, 1, dtype=torch.uint8, device=device)
        for file, bytes_ in read.items()
    }
    return sources, targets


def _to_device(_files: Sequence[str], _device: str, prepared: tuple[Tensors, Tensors]) -> Tensors:
    sources, targets = prepared
    for file, target in targets.items():
        target.copy_(sources[file], non_blocking=True)
    return targets


_OF_MEMORY = Ceiling(
    "ceiling-copy",
    "safetensors",
    _copy,
    preallocate=_reserve_twice,
    setup=_prepare_copy,
    as_tensors=name_tensors,
    memory=2.0,
    reads=False,
    devices=("cpu",),
    cache_states=("warm",),  # what is cold has storage to wait for
)
_OF_THE_WAY = replace(
    _OF_MEMORY, load=_to_device, preallocate=None, devices=("cuda",), cache_states=CACHE_STATES
)

LOADERS = (
    _OF_MEMORY,
    replace(_OF_THE_WAY, name="ceiling-to-device", setup=_prepare_pinned),
    replace(_OF_THE_WAY, name="ceiling-to-device-pageable", setup=_prepare_pageable),
)
