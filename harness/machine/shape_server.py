"""A folder again as a file system whose every read waits: the storage of a latency shape.

Run as `python -m harness.machine.shape_server SOURCE MOUNT COUNTERS JSON`, in the foreground. It
serves what lies under SOURCE read-only at MOUNT (FUSE, by mfusepy and libfuse 3), writes what it
served to COUNTERS as it goes, and unmounts when it is asked to end or its parent is gone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mfusepy

from harness.machine.lifeline import die_with_parent
from harness.machine.shapes import FSTYPE, LARGEST_REQUEST, Shape

COUNTERS = struct.Struct("=QQdd")
"""Requests served, bytes served, seconds that requests took, added up, and seconds by which answers
came later than the shape says.
"""
_FOREVER_S = 3600.0
_PR_SET_TIMERSLACK = 29  # <linux/prctl.h>; the unit is ns
_SWITCH_S, _PRIORITY = 1e-4, -10


class _Delays:
    """When a request may be answered: `depth` at once, each after the latency, all together at the
    rate; a request near where the last one ended does not wait for a seek, since readahead
    may hand over two neighbours in either order.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._room = threading.Semaphore(shape.depth)
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._head: tuple[str | None, int] = (None, 0)

    def wait(self, path: str | None, offset: int, size: int) -> float:
        """Sleep as long as the shape says and return the time the answer was due (monotonic, s)."""
        shape = self._shape
        with self._room:
            arrived = time.monotonic()
            with self._lock:
                at, head = self._head
                goes_on = path == at and abs(offset - head) <= LARGEST_REQUEST
                seek = 0.0 if goes_on else shape.seek_s
                self._head = (path, offset + size)
                start = max(arrived, self._free_at) + seek
                self._free_at = start + size / shape.rate
                due = max(self._free_at, arrived + shape.latency_s + seek)
            while (left := due - time.monotonic()) > 0:
                time.sleep(left)
        return due


class _Folder(mfusepy.Operations):  # type: ignore[misc]
    """The folder, read-only.

    Its attributes are named apart from the operations: one called `lock` would be taken for one.
    """

    use_ns = True

    def __init__(self, source: Path, shape: Shape, counters: Path) -> None:
        self._source_folder = source
        self._shape = shape
        self._delays = _Delays(shape)
        self._count_lock = threading.Lock()
        self._served_requests = self._served_bytes = 0
        self._late_s = self._waited_s = 0.0
        with counters.open("w+b") as file:
            file.truncate(mmap.PAGESIZE)
            self._shared_counters = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def init_with_config(self, conn: Any, config: Any) -> None:
        """Keep pages across opens, and let as many requests be under way as the shape allows."""
        conn.max_background = max(2 * self._shape.depth, 12)
        conn.congestion_threshold = conn.max_background
        conn.max_read = conn.max_readahead = LARGEST_REQUEST
        if config is not None:
            config.kernel_cache = int(self._shape.keeps_pages)
            config.entry_timeout = config.attr_timeout = config.negative_timeout = _FOREVER_S

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Return a file's attributes."""
        status = os.lstat(self._below(path))
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino", "st_blocks")
        times = {f"st_{kind}time": getattr(status, f"st_{kind}time_ns") for kind in ("a", "m", "c")}
        return {name: getattr(status, name) for name in names} | times

    def readdir(self, path: str, fh: int) -> Iterator[str]:
        """Yield the names in a folder."""
        yield from (".", "..", *sorted(os.listdir(self._below(path))))  # noqa: PTH208

    def readlink(self, path: str) -> str:
        """Return where a link leads."""
        return os.readlink(self._below(path))  # noqa: PTH115

    def open(self, path: str, flags: int) -> int:
        """Return a descriptor of the file below."""
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise mfusepy.FuseOSError(errno.EROFS)
        return os.open(self._below(path), os.O_RDONLY)

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        """Return bytes of a file once the shape lets them go."""
        arrived = time.monotonic()
        content = os.pread(fh, size, offset)
        due = self._delays.wait(path, offset, len(content))
        now = time.monotonic()
        with self._count_lock:
            self._served_requests += 1
            self._served_bytes += len(content)
            self._late_s += max(now - due, 0.0)
            self._waited_s += now - arrived
            COUNTERS.pack_into(
                self._shared_counters,
                0,
                self._served_requests,
                self._served_bytes,
                self._waited_s,
                self._late_s,
            )
        return content

    def release(self, path: str | None, fh: int) -> int:
        """Close the descriptor."""
        os.close(fh)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """Return the room of the file system below."""
        status = os.statvfs(self._below(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize", "f_namemax")
        return {name: getattr(status, name) for name in names}

    def _below(self, path: str) -> str:
        return f"{self._source_folder}{path}"


def _threads(shape: Shape) -> int:
    """Return how many threads serve: one for each request under way, and some that wait their
    turn.
    """
    return 2 * shape.depth + 2


def most_threads(shape: Shape, libfuse: tuple[int, int]) -> dict[str, int]:
    """Return the option that allows as many. Before 3.12, libfuse has no such option and no limit
    either; from then on its limit is 10.
    """
    return {"max_threads": _threads(shape)} if libfuse >= (3, 12) else {}


def _be_punctual() -> None:
    """Have delays end when they should: no slack of the kernel's timers, and a turn before the
    loader that this process shares the cores with, where that is allowed.
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    sys.setswitchinterval(_SWITCH_S)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)


def main(arguments: list[str]) -> None:
    """Serve until the mount is gone."""
    source, mount, counters, shape = arguments
    die_with_parent(int(os.environ["WEIGHBRIDGE_PARENT"]), signal.SIGTERM)
    _be_punctual()
    mfusepy.FUSE(
        _Folder(Path(source), Shape(**json.loads(shape)), Path(counters)),
        mount,
        foreground=True,
        ro=True,
        fsname=source.replace("\\", "\\\\").replace(",", "\\,"),  # as libfuse has options quoted
        subtype=FSTYPE,
        max_read=LARGEST_REQUEST,
        **most_threads(
            Shape(**json.loads(shape)), (mfusepy.fuse_version_major, mfusepy.fuse_version_minor)
        ),
        max_idle_threads=_threads(Shape(**json.loads(shape))),
        default_permissions=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
