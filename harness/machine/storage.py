"""The storage a folder lies on: file system, device, readahead, room."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.machine.storage_stack import described, device_below, device_of, mount_of, stack

_SYS = Path("/sys")


@dataclass(frozen=True)
class Storage:
    """Where a folder lies.

    Sizes in bytes, readahead in KiB as the kernel gives it, None where it does not tell.
    """

    file_system: str | None
    device: str | None
    model: str | None
    rotational: bool | None
    read_ahead_kb: int | None
    total_bytes: int
    free_bytes: int
    stack: tuple[str, ...] = ()
    """What it stands on, from the file system down, in words without a path."""


def storage(folder: Path) -> Storage:
    """Return what the kernel says of the storage under `folder` (`/proc/self/mountinfo` and sysfs,
    so Linux only beyond the sizes).
    """
    mount, below = mount_of(folder), device_below(folder)
    disk = _disk_of(below or device_of(folder))
    file = read_ahead_of(device_of(folder)) or (read_ahead_of(below) if below else None)
    read_ahead = _line(file) if file else None
    rotational = _line(disk / "queue/rotational")
    usage = shutil.disk_usage(folder)
    return Storage(
        mount.file_system if mount else None,
        Path(mount.source).name if mount else None,
        _line(disk / "device/model"),
        None if rotational is None else rotational == "1",
        int(read_ahead) if read_ahead else None,
        usage.total,
        usage.free,
        tuple(described(stack(folder))),
    )


def read_ahead_of(device: str) -> Path | None:
    """Return the file of sysfs that holds the readahead of a device (`major:minor`), None where the
    kernel shows none.
    """
    files = (
        _SYS / "class/bdi" / device / "read_ahead_kb",
        _disk_of(device) / "queue/read_ahead_kb",
    )
    return next((file for file in files if file.is_file()), None)


def _disk_of(device: str) -> Path:
    block = _SYS / "dev/block" / device
    return (
        block if (block / "queue").is_dir() else block.resolve().parent
    )  # a partition has its queue in its disk


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _line(path: Path) -> str | None:
    return (_text(path) or "").strip() or None
