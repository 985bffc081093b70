"""The page cache of a file: set it cold or warm, and prove what it is.

Nothing here trusts advice: `posix_fadvise` returns success on dirty, mapped and tmpfs pages that it
leaves where they are, so every state is read back from the kernel, by `cachestat(2)` (Linux 6.5)
or, where that is missing or asks the wrong file, `mincore(2)`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.records.limits import COLD_AT_MOST

_READ_BLOCK = 1 << 20
_SYS_CACHESTAT = (
    451  # the same number on every architecture but alpha (include/uapi/asm-generic/unistd.h)
)
_OVERLAYFS = 0x794C7630  # OVERLAYFS_SUPER_MAGIC (include/uapi/linux/magic.h)
_FUSE = 0x65735546  # FUSE_SUPER_MAGIC
# more than struct statfs takes on any architecture; its first member is the file system's magic
# number
_STATFS_BYTES = 256
_WAITS_S = (0.0, 0.002, 0.02, 0.2)
"""Before each try to evict: pages that another process is just evicting or has just touched go a
moment later.
"""

_held: dict[Path, int] = {}
"""Descriptors kept open, by file."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


class ResidencyHiddenError(OSError):
    """The kernel does not tell this process which pages of the file are resident."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


@dataclass(frozen=True)
class Residency:
    """How many pages of some files are in the page cache.

    `dirty` is None where the method cannot tell.
    """

    pages: int
    cached: int
    dirty: int | None
    method: str
    fractions: tuple[float, ...] = ()
    """The resident share of each file that has any pages, 0 to 1."""

    @property
    def fraction(self) -> float:
        """Resident share of the pages of all files taken together, 0 to 1.

        What is empty counts as fully resident.
        """
        return self.cached / self.pages if self.pages else 1.0

    @property
    def most(self) -> float:
        """The resident share of the file that is least cold: a small one would be lost among large
        ones in `fraction`.
        """
        return max(self.fractions, default=self.fraction)

    @property
    def least(self) -> float:
        """The resident share of the file that is least warm."""
        return min(self.fractions, default=self.fraction)


def residency(paths: Sequence[Path]) -> Residency:
    """Return the residency of the files taken together.

    Raises `ResidencyHiddenError` where the kernel will not tell.
    """
    pages = cached = 0
    dirty: int | None = 0
    method = ""
    fractions = []
    for path in paths:
        with _opened(path) as fd:
            residency = _by_cachestat(fd) or _by_mincore(fd)
        pages, cached, method = pages + residency.pages, cached + residency.cached, residency.method
        fractions += [residency.fraction] if residency.pages else []
        dirty = None if dirty is None or residency.dirty is None else dirty + residency.dirty
    return Residency(pages, cached, dirty, method, tuple(fractions))


def evict(paths: Sequence[Path]) -> Residency:
    """Drop the files' pages and return what is left of them.

    Dirty pages are not dropped by the advice, so the files are synced first; pages that another
    process maps or has just touched stay, which is why the caller judges by the residency returned
    and not by this having been called.
    """
    left = None
    for wait_s in _WAITS_S:
        time.sleep(wait_s)
        for path in paths:
            with _opened(path) as fd:
                os.fsync(fd)
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        left = residency(paths)
        if left.most <= COLD_AT_MOST:
            break
    assert left is not None
    return left


def warm(paths: Sequence[Path]) -> Residency:
    """Read the files through where they are not wholly resident yet, and return the residency then.

    Their folders are listed as well: a library that looks for its files there would read those
    blocks from storage.
    """
    for folder in {path.parent for path in paths}:
        with suppress(OSError):
            os.listdir(folder)  # noqa: PTH208  # for its own sake, not for what it finds
    pages = residency(paths)
    if pages.cached == pages.pages:
        return pages
    with (
        mmap.mmap(-1, _READ_BLOCK) as buffer
    ):  # one that the C library allocated and freed would change how it serves those after it
        for path in paths:
            with _opened(path) as fd:
                offset = 0
                while count := os.preadv(fd, [buffer], offset):
                    offset += count
    return residency(paths)


class Lock:
    """Files whose pages cannot be reclaimed while this is held: a system may take away what has not
    been used for a while.

    It holds nothing where the system does not allow it (`RLIMIT_MEMLOCK`), and pages that are
    locked cannot be evicted.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._mappings: list[tuple[int, int]] = []
        for path in paths:
            with _opened(path) as fd:
                self._lock(fd, os.fstat(fd).st_size)

    @property
    def bytes(self) -> int:
        """How many bytes are locked."""
        return sum(size for _, size in self._mappings)

    def release(self) -> None:
        """Let go of all of them."""
        for address, size in self._mappings:
            _libc.munmap(address, size)
        self._mappings.clear()

    def _lock(self, fd: int, size: int) -> None:
        prot_read, map_shared = 1, 1
        address = _libc.mmap(None, size, prot_read, map_shared, fd, 0) if size else None
        if address in (None, ctypes.c_void_p(-1).value):
            return
        if _libc.mlock(address, size) == 0:
            self._mappings.append((address, size))
        else:
            _libc.munmap(address, size)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    if path in _held:
        yield _held[path]
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def hold_if_opening_drops(paths: Sequence[Path]) -> None:
    """Keep files open on a file system that may drop a file's pages whenever it is opened (FUSE),
    so that asking for their residency does not change it; until `let_go`.
    """
    for path in paths:
        if path not in _held:
            fd = os.open(path, os.O_RDONLY)
            if _magic_of(fd) == _FUSE:
                _held[path] = fd
            else:
                os.close(fd)


def let_go() -> None:
    """Close what is kept open."""
    while _held:
        os.close(_held.popitem()[1])


def _pages(size: int) -> int:
    return -(-size // os.sysconf("SC_PAGESIZE"))


def _by_cachestat(fd: int) -> Residency | None:
    """Ask `cachestat(2)`.

    None where the kernel lacks it or refuses this file (it wants ownership or write permission
    since 6.13).

    None on overlayfs too, and so in every format: there it asks the overlay's own inode, which
    holds no page, and answers 0. A mapping is of the file below, so `mincore` tells the truth
    (measured on Linux 6.18).
    """
    if not sys.platform.startswith("linux") or _magic_of(fd) == _OVERLAYFS:
        return None
    answer = _CacheStat()
    whole_file = _Range(0, 0)
    done = _libc.syscall(
        ctypes.c_long(_SYS_CACHESTAT),
        ctypes.c_int(fd),
        ctypes.byref(whole_file),
        ctypes.byref(answer),
        ctypes.c_uint(0),
    )
    if done != 0:
        return None
    return Residency(_pages(os.fstat(fd).st_size), answer.cached, answer.dirty, "cachestat")


def _magic_of(fd: int) -> int | None:
    """Return the magic number of the file system that a file lies on (`fstatfs(2)`), or None."""
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(ctypes.c_int(fd), answer) != 0:
        return None
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF


def disagreement(path: Path) -> str | None:
    """Return where `cachestat` and `mincore` differ about a file, or None, also where only one of
    them can be asked.
    """
    with _opened(path) as fd:
        counted = _by_cachestat(fd)
        try:
            mapped = _by_mincore(fd)
        except ResidencyHiddenError:
            return None
    if counted is None or abs(counted.fraction - mapped.fraction) <= COLD_AT_MOST:
        return None
    return (
        f"cachestat says {counted.fraction:.3f} of a file is resident and mincore says"
        f" {mapped.fraction:.3f}, so neither is believed"
    )


def _by_mincore(fd: int) -> Residency:
    """Ask `mincore(2)` through a mapping that is never touched and gone before this returns.

    Since Linux 5.2 the kernel answers "all resident" to a process that neither owns nor may write
    the file (commit 134fca9063ad), so such a file is refused here instead of believed.
    """
    status = os.fstat(fd)
    if status.st_size == 0:
        return Residency(0, 0, None, "mincore")
    if status.st_uid != os.geteuid() and not os.access(f"/dev/fd/{fd}", os.W_OK):
        raise ResidencyHiddenError(
            errno.EPERM, "mincore is only correct for a user who owns the file or may write it"
        )
    prot_read, map_shared = 1, 1
    address = _libc.mmap(None, status.st_size, prot_read, map_shared, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise ResidencyHiddenError(ctypes.get_errno(), "the file cannot be mapped to ask mincore")
    try:
        pages = _pages(status.st_size)
        vector = ctypes.create_string_buffer(pages)
        if _libc.mincore(address, status.st_size, vector) != 0:
            raise ResidencyHiddenError(ctypes.get_errno(), "mincore is refused by this kernel")
        return Residency(pages, sum(byte & 1 for byte in vector.raw[:pages]), None, "mincore")
    finally:
        _libc.munmap(address, status.st_size)
