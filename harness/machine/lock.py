"""One measurement at a time on a machine: two at once would measure each other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from harness.errors import WeighbridgeError


def lock_path() -> Path:
    """Return the file whose lock says that a run is going on this machine."""
    return Path(tempfile.gettempdir()) / "weighbridge.lock"


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Hold the machine for the run in `directory`.

    Raises `WeighbridgeError` naming the run that holds it already.

    The kernel drops the lock with the process, so a killed run never leaves the machine locked.
    """
    path = lock_path()
    with _open_shared(path) as file:
        try:
            _lock(file)
        except BlockingIOError:
            pid, _, where = file.read().strip().partition(" ")
            raise WeighbridgeError(
                f"a run is going on this machine already: process {pid}, directory {where}; two"
                " runs at once would disturb each other: wait for it or stop it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} {directory}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file: IO[str]) -> None:
    """Lock a file without waiting.

    Raises `BlockingIOError` where it is locked, and `WeighbridgeError` where no lock can be had
    there.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # NFS and Lustre may have no flock, and locks of this other kind
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise BlockingIOError from None
        except OSError as error:
            raise WeighbridgeError(
                f"{Path(file.name).parent}: no file can be locked there ({error.strerror}), so two"
                " runs could overlap; set TMPDIR to a folder on a local disk"
            ) from None


def _open_shared(path: Path) -> IO[str]:
    """Open the lock file for everyone: whoever comes first makes it, and O_CREAT on another's file
    in /tmp is refused by the kernel.
    """
    if path.exists():
        return path.open("r+")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.fchmod(fd, 0o666)
    return os.fdopen(fd, "r+")
