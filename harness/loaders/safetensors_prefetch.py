"""safetensors mapped while something brings its pages in: threads that read the file through (what
vLLM, SGLang and TensorRT-LLM call prefetching), the kernel asked to populate the mapping, or the
kernel advised that the file will be needed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.loaders import Loader
from harness.loaders.safetensors_torch import load_mapped

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("torch", "safetensors")
THREADS, BLOCK_BYTES = 8, 16 << 20
"""As vLLM has them, `--safetensors-prefetch-num-threads` and `-block-size`."""
_POPULATE_READ = 22  # MADV_POPULATE_READ, Linux 5.14 (asm-generic/mman-common.h)
_libc = ctypes.CDLL(None, use_errno=True)


def _prefetched(files: Sequence[str], device: str) -> Tensors:
    """Start threads that read every file through, block by block, and map the files meanwhile.

    The threads are not waited for: whoever touches a page that has not come waits for that page.
    """
    blocks = iter(
        [
            (path, start)
            for path in files
            for start in range(0, Path(path).stat().st_size, BLOCK_BYTES)
        ]
    )
    lock = threading.Lock()

    def read() -> None:
        buffer = mmap.mmap(-1, BLOCK_BYTES)  # its memory is the kernel's, not the allocator's
        while True:
            with lock:
                path, start = next(blocks, (None, 0))
            if path is None:
                return
            fd = os.open(path, os.O_RDONLY)
            try:
                os.preadv(fd, [buffer], start)
            finally:
                os.close(fd)

    for _ in range(THREADS):
        threading.Thread(target=read, daemon=True).start()
    return load_mapped(files, device)


def _populated(files: Sequence[str], device: str) -> Tensors:
    """Have the kernel read every file into the page cache in one call, then map it."""
    for path in files:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            with mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapping:
                if number := _populate(mapping):
                    raise OSError(number, os.strerror(number), path)
    return load_mapped(files, device)


def _populate(mapping: mmap.mmap) -> int:
    """Have the kernel bring in every page of a mapping; return 0, or the number of the error."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    size = ctypes.c_size_t(len(mapping))
    done = _libc.madvise(ctypes.c_void_p(address), size, _POPULATE_READ)
    return ctypes.get_errno() if done else 0


def _advised(files: Sequence[str], device: str) -> Tensors:
    """Advise the kernel that every file will be needed, then map it."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)
    return load_mapped(files, device)


def _has_advice() -> str | None:
    return None if hasattr(os, "posix_fadvise") else "this system has no posix_fadvise"


def _has_populate() -> str | None:
    """Return why the kernel cannot populate a mapping, None where it can, found by trying it."""
    with mmap.mmap(-1, mmap.PAGESIZE) as mapping:
        refused = _populate(mapping)
    return "this kernel has no MADV_POPULATE_READ (Linux 5.14 and later have)" if refused else None


LOADERS = (
    Loader("safetensors-prefetch-cache", "safetensors", _prefetched, _REQUIRES, memory=0.0),
    Loader("safetensors-populate", "safetensors", _populated, _REQUIRES, _has_populate, memory=0.0),
    Loader("safetensors-willneed", "safetensors", _advised, _REQUIRES, _has_advice, memory=0.0),
)
