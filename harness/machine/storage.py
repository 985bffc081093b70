"""The storage a folder lies on: file system, device, readahead, room."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

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


def storage(folder: Path) -> Storage:
    """Return what the kernel says of the storage under `folder` (`/proc/self/mountinfo` and sysfs,
    so Linux only beyond the sizes).
    """
    device = device_of(folder)
    file_system, source = _mount(folder.resolve(), device)
    disk = _disk_of(_block_device(device, source))
    file = read_ahead_of(device) or read_ahead_of(_block_device(device, source))
    read_ahead = _line(file) if file else None
    rotational = _line(disk / "queue/rotational")
    usage = shutil.disk_usage(folder)
    return Storage(
        file_system,
        Path(source).name if source else None,
        _line(disk / "device/model"),
        None if rotational is None else rotational == "1",
        int(read_ahead) if read_ahead else None,
        usage.total,
        usage.free,
    )


def _block_device(device: str, source: str | None) -> str:
    """Return the block device below a file system whose own number is of none, as on btrfs, as
    `major:minor`; else the number itself.
    """
    if not device.startswith("0:") or not source or not source.startswith("/dev/"):
        return device
    try:
        number = Path(source).stat().st_rdev
    except OSError:
        return device
    return f"{os.major(number)}:{os.minor(number)}"


def device_of(folder: Path) -> str:
    """Return the device `folder` lies on as `major:minor`.

    Raises `OSError` where there is no such folder.
    """
    number = folder.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


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


def _mount(folder: Path, major_minor: str) -> tuple[str | None, str | None]:
    """Return (file system, source) of the mount that holds `folder`: the longest mount point above
    it, on the same device if there is one.

    btrfs gives each subvolume a device number of its own, which no mount has.
    """
    best: tuple[bool, int, str | None, str | None] = (False, -1, None, None)
    for line in (_text(Path("/proc/self/mountinfo")) or "").splitlines():
        mount, _, kind = line.partition(" - ")
        fields, kinds = mount.split(), kind.split()
        point = fields[4].replace("\\040", " ")
        if folder.is_relative_to(point) and (fields[2] == major_minor, len(point)) > best[:2]:
            best = (fields[2] == major_minor, len(point), kinds[0], kinds[1])
    return best[2:]


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _line(path: Path) -> str | None:
    return (_text(path) or "").strip() or None
