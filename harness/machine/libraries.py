"""The libraries a process runs: kept in memory, so that code fetched from storage does not pass for
a file's own bytes.

A load that first comes upon a piece of its library reads it from storage, and a system that
reclaims what has not been used for a while takes such pieces away again, between two loads and in
the middle of one.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from harness.machine import page_cache

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def hold_libraries() -> int:
    """Read every file that this process maps and lock what it maps of them.

    Return how many bytes are locked, 0 where that is not allowed.

    A forked child has no locks of its own, and needs none: the pages are the same.
    """
    locked = 0
    files: set[str] = set()
    with suppress(OSError):  # there is no such file but on Linux
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, access, _, _, _, *file = line.split(maxsplit=5)
            if file and file[0].startswith("/"):
                files.add(file[0])
                start, end = (int(address, 16) for address in addresses.split("-"))
                if (
                    "w" not in access and _libc.mlock(start, end - start) == 0
                ):  # one that may be written would be copied by its lock
                    locked += end - start
        for name in sorted(files):
            with suppress(OSError):  # a device, or a file that has been replaced since
                page_cache.warm([Path(name)])
    return locked
