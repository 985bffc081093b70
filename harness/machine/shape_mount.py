"""Latency shapes mounted: started, counted, gone with the run, and cleared away where a killed one
left its mount.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.errors import WeighbridgeError
from harness.machine.requests import Served
from harness.machine.shapes import FSTYPE, Shape

_START_S = 10.0
_END_S = 5.0
_POLL_S = 0.005
_DETACH = 2  # MNT_DETACH
_PREFIX = "weighbridge-shape-"
_ROOT = Path(__file__).parents[2]
_libc = ctypes.CDLL(None, use_errno=True)


def refused() -> str | None:
    """Return why no latency shape can be mounted here and what to do, None where one can."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no FUSE file systems as Linux has"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed: install the extra weighbridge[storage]"
    if find_library("fuse3") is None:
        return "libfuse 3 is not installed: install the system's package fuse3"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened: run where FUSE is allowed, or as root"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "fusermount3 is missing: install the system's package fuse3, or run as root"
    return None


def server_environment() -> dict[str, str]:
    """Return the environment of a server: libfuse 3, although mfusepy takes libfuse 2 where a
    system has both.
    """
    own = {
        "WEIGHBRIDGE_PARENT": str(os.getpid()),
        "PYTHONPATH": str(_ROOT),
        "FUSE_LIBRARY_NAME": "fuse3",
    }
    return os.environ | own


class Mounted:
    """A folder served with the delays of a shape, as a context manager."""

    def __init__(self, shape: Shape, source: Path) -> None:
        """Mount `source` read-only; raises `WeighbridgeError` where that cannot be done."""
        if reason := refused():
            raise WeighbridgeError(f"storage {shape.name} refused: {reason}")
        self.shape, self.source = shape, source.resolve()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.path = self._folder / "mount"
        self.path.mkdir()
        self._counters = self._folder / "counters"
        self._log = (self._folder / "log").open("w+b")
        description = json.dumps(asdict(shape))
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "harness.machine.shape_server"),
                *(str(self.source), str(self.path), str(self._counters), description),
            ],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=server_environment(),
        )
        try:
            _wait_for(lambda: os.path.ismount(self.path) or self._ended(), _START_S)
            if self._ended() or not os.path.ismount(self.path):
                raise WeighbridgeError(
                    f"storage {shape.name} refused: it could not be mounted: {self._message()}"
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def beneath(self, path: Path) -> Path:
        """Return where a file of the source lies in the mount."""
        return self.path / path.resolve().relative_to(self.source)

    def served(self) -> Served:
        """Return what was served since the mount."""
        from harness.machine.shape_server import COUNTERS

        requests, size, waited_s, late_s = COUNTERS.unpack_from(self._counters.read_bytes())
        return Served(requests, size, late_s, waited_s)

    def close(self) -> None:
        """Unmount, end the server and remove the mount's folder."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _detach(self.path)
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def _message(self) -> str:
        self._log.seek(0)
        said = last_words(self._log.read().decode(errors="replace"))
        return said or f"exit status {self._process.poll()}"


def last_words(log: str) -> str | None:
    """Return why a server ended: the last line that libfuse wrote, else that of the traceback."""
    lines = (log.partition("Traceback (")[0].strip() or log.strip()).splitlines()
    return lines[-1] if lines else None


def clear_left_over() -> str | None:
    """Unmount what a killed run left mounted and return a sentence on it, None where nothing was.

    Only a mount whose server is gone is touched.
    """
    left = [point for point in _points() if _dead(point)]
    for point in left:
        _detach(point)
        if point.parent.name.startswith(_PREFIX):
            shutil.rmtree(point.parent, ignore_errors=True)
    if not left:
        return None
    count = f"{len(left)} shaped storage mounts" if len(left) > 1 else "a shaped storage mount"
    return f"{count} of a run that was killed: unmounted"


def _points() -> list[Path]:
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [
        Path(line.split()[4].replace("\\040", " "))
        for line in lines
        if line.partition(" - ")[2].startswith(f"fuse.{FSTYPE} ")
    ]


def _dead(point: Path) -> bool:
    """Return whether nobody serves a mount any more; attributes may be cached, its room is not."""
    try:
        os.statvfs(point)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _detach(point: Path) -> None:
    """Unmount, as root by the kernel's call and else by fusermount3, even while it is used."""
    if point not in _points():
        return
    if _libc.umount2(os.fsencode(point), _DETACH) != 0 and shutil.which("fusermount3"):
        subprocess.run(
            ["fusermount3", "-u", "-z", str(point)], stderr=subprocess.DEVNULL, check=False
        )


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(_POLL_S)
