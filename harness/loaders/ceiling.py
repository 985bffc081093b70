"""The ceiling that every loader stands under: a plain parallel read of the same bytes into memory
that is already there.

Threads take the file's blocks in turn, so that the requests a disk is given overlap; the memory
they fill is held beyond the sample and touched before the clock starts. Two threads of 1 MiB were
fastest of 1 to 16 threads and 256 KiB to 8 MiB on the machine this was chosen on, cold and warm.
Other storage may want larger pieces, so cold reads are measured with 4 MiB as well, and the faster
one is the ceiling.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoints.safetensors_file import Entry, parse
from harness.loaders import Ceiling
from harness.machine.description import usable_cores

if TYPE_CHECKING:
    import torch

    from harness.loaders import Tensors

_BLOCK, _LARGE_BLOCK = 1 << 20, 4 << 20
_PAGE = mmap.PAGESIZE
_MOST_THREADS = 32  # past that, requests only wait for each other
_LEAST_HELD = 1 << 20  # room for a warm-up load

_held: mmap.mmap | None = None


def reserve(files: Sequence[str]) -> None:
    """Hold memory for the files' bytes in this process, from which samples are forked."""
    hold(needed(files))


def hold(size: int) -> None:
    """Hold `size` bytes of shared memory in this process, in place of what it held before.

    Taken by the sample itself it would be the very pages that evicting the file has just freed, and
    the read would have to wait for others: on a virtual machine whose host takes freed memory back,
    every second cold read took twice as long.
    """
    global _held
    needed = max(size, _LEAST_HELD)
    if _held is None or len(_held) != needed:
        if _held is not None:
            _held.close()
        _held = mmap.mmap(-1, needed)


def held_memory(size: int) -> torch.Tensor:
    """Return `size` bytes of held memory, every page of it there.

    A byte of every page is overwritten: what an earlier sample read must not pass for what this one
    does.
    """
    import torch

    if _held is None or len(_held) < size:
        hold(size)
    assert _held is not None
    memory = torch.frombuffer(_held, dtype=torch.uint8)[:size]
    memory[::_PAGE] = 1
    return memory


def started_threads() -> ThreadPoolExecutor:
    """Return threads that have started, as many as `threads()`."""
    pool = ThreadPoolExecutor(threads())
    list(pool.map(lambda _: None, range(threads())))
    return pool


def prepare(
    files: Sequence[str], _device: str
) -> tuple[dict[str, torch.Tensor], ThreadPoolExecutor]:
    """Return a tensor over held memory for each file, of its size in whole pages, and threads that
    have started.
    """
    memory = held_memory(needed(files))
    buffers, start = {}, 0
    for file in files:
        buffers[file] = memory[start : start + room(file)]
        start += room(file)
    return buffers, started_threads()


def needed(files: Sequence[str]) -> int:
    """Return how many bytes of memory the files take, each in whole pages."""
    return sum(map(room, files))


def room(file: str) -> int:
    """Return a file's size in whole pages, so that the next one's bytes lie aligned and a read past
    the page cache can end in a whole one.
    """
    return -(-Path(file).stat().st_size // _PAGE) * _PAGE


def threads() -> int:
    """Return how many threads read: as many as there are processors for this process, two at
    least.
    """
    return max(2, min(_MOST_THREADS, usable_cores()))


def read_in_turns(
    files: Sequence[str],
    prepared: tuple[dict[str, torch.Tensor], ThreadPoolExecutor],
    block: int = _BLOCK,
    flags: int = 0,
) -> Tensors:
    """Read each file into its memory, threads taking its blocks in turn, and return that memory.

    `flags` are for opening it.
    """
    buffers, pool = prepared
    for file in files:
        buffer = view(buffers[file])
        fd = os.open(file, os.O_RDONLY | flags)
        try:
            list(
                pool.map(
                    lambda first, fd=fd, buffer=buffer: _read_every(fd, buffer, first, block),
                    range(threads()),
                )
            )
        finally:
            os.close(fd)
    return buffers


def _read(
    files: Sequence[str], _device: str, prepared: tuple[dict[str, torch.Tensor], ThreadPoolExecutor]
) -> Tensors:
    return read_in_turns(files, prepared)


def _read_large(
    files: Sequence[str], _device: str, prepared: tuple[dict[str, torch.Tensor], ThreadPoolExecutor]
) -> Tensors:
    return read_in_turns(files, prepared, _LARGE_BLOCK)


def view(buffer: torch.Tensor) -> memoryview:
    """Return a tensor of bytes as memory that can be read into."""
    import ctypes

    return memoryview((ctypes.c_char * buffer.numel()).from_address(buffer.data_ptr())).cast("B")


def _read_every(fd: int, buffer: memoryview, first: int, size: int) -> None:
    """Read every n-th block of this size, from block number `first`, where n is the number of
    threads.
    """
    end = os.fstat(fd).st_size
    if end <= len(buffer) - _PAGE:
        raise EOFError(f"the file ends at byte {end}")
    for start in range(first * size, len(buffer), threads() * size):
        read_into(fd, buffer[start : start + size], start, end)


def read_into(fd: int, block: memoryview, start: int, end: int | None = None) -> None:
    """Fill `block` from byte `start` of a file, as far as `end` if that comes first.

    Raises `EOFError` where the file ends before.

    What is read past the page cache is asked for in whole pages, so the last block of a file
    reaches beyond it.
    """
    end = start + len(block) if end is None else min(start + len(block), end)
    while start < end:
        count = os.preadv(fd, [block], start)
        if count == 0:
            raise EOFError(f"the file ends at byte {start}")
        start, block = start + count, block[count:]


def name_tensors(buffers: Tensors, files: Sequence[str]) -> Tensors:
    """Return the safetensors file's tensors as views of the bytes that were read."""
    tensors = {}
    for file in files:
        buffer = buffers[file]
        start = view(buffer[:8])
        header = parse(
            io.BytesIO(view(buffer[: 8 + int.from_bytes(start, "little")])),
            Path(file).stat().st_size,
        )
        for name, entry in header.tensors.items():
            tensors[name] = as_described(
                buffer[header.data + entry.start : header.data + entry.end], entry
            )
    return tensors


def as_described(
    content: torch.Tensor, entry: Entry, shape: Sequence[int] | None = None
) -> torch.Tensor:
    """Return a tensor's bytes, cut from memory that starts aligned, as the tensor that an entry of
    a safetensors header describes.

    `shape` is torch's, of a piece of it. Raises `TypeError` where torch has no such tensor.
    """
    import torch

    dtype = getattr(torch, entry.dtype.torch or "", None)
    if dtype is None or entry.refusal:
        raise TypeError(
            "a tensor"
            f" {entry.refusal or f'is of dtype {entry.dtype.code}, which this torch does not have'}"
        )
    if content.storage_offset() % dtype.itemsize:
        content = content.clone()  # a view as another dtype wants aligned bytes
    return content.view(dtype).reshape(entry.torch_shape if shape is None else tuple(shape))


_READ = Ceiling(
    "ceiling-read",
    "safetensors",
    _read,
    preallocate=reserve,
    setup=prepare,
    as_tensors=name_tensors,
)

LOADERS = (_READ, replace(_READ, name="ceiling-read-4m", load=_read_large, cache_states=("cold",)))
