"""What a folder's storage stands on: its file system, the devices below, and the files that those
are kept in, down to a disk or to what cannot be followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SYS = Path("/sys")
NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "virtiofs", "lustre", "glusterfs")
)
"""File systems whose files another machine keeps, or the host of this one."""
MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs", "hugetlbfs"))
"""File systems that are memory."""


@dataclass(frozen=True)
class Mount:
    """The mount that holds a folder."""

    point: Path
    file_system: str
    source: str
    options: str


@dataclass(frozen=True)
class Layer:
    """One layer of a stack, the file system of a folder being the first."""

    kind: str
    """`file system`, `loop`, `mapper`, `raid` or `disk`."""
    name: str
    """The file system's type, or the device's name."""
    backing: Path | None = None
    """Of a loop device, the file that it is kept in."""


def mount_of(folder: Path) -> Mount | None:
    """Return the mount that holds a folder: the longest mount point above it, on the same device if
    there is one, and of two at one point the later, which covers the earlier.

    btrfs gives each subvolume a device number of its own, which no mount has.
    """
    best: Mount | None = None
    rank: tuple[bool, int] = (False, -1)
    place, device = folder.resolve(), device_of(folder)
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        mount, _, kind = line.partition(" - ")
        fields, kinds = mount.split(), kind.split()
        point = Path(_unescaped(fields[4]))
        if place.is_relative_to(point) and (fields[2] == device, len(point.parts)) >= rank:
            rank = (fields[2] == device, len(point.parts))
            best = Mount(point, kinds[0], _unescaped(kinds[1]), kinds[2] if kinds[2:] else "")
    return best


def device_of(folder: Path) -> str:
    """Return the device `folder` lies on as `major:minor`.

    Raises `OSError` where there is no such folder.
    """
    number = folder.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def device_below(folder: Path) -> str | None:
    """Return the block device below a folder's file system as `major:minor`, None where there is
    none.
    """
    device = device_of(folder)
    if (_SYS / "dev/block" / device).exists():
        return device
    mount = mount_of(folder)
    if mount and mount.source.startswith("/dev/"):
        try:
            number = Path(mount.source).stat().st_rdev
        except OSError:
            return None
        return f"{os.major(number)}:{os.minor(number)}"
    return None


def stack(folder: Path) -> tuple[Layer, ...]:
    """Return the layers that a folder stands on, from its file system down.

    A loop device's backing file is followed to where it lies; overlayfs to the folders it is laid
    over, where this mount namespace shows them.
    """
    return tuple(_layers(folder, set()))


def _layers(folder: Path, seen: set[Path]) -> Iterator[Layer]:
    mount = mount_of(folder)
    if mount is None or mount.point in seen:
        return
    seen.add(mount.point)
    yield Layer("file system", mount.file_system)
    if mount.file_system == "overlay":
        for lower in _lower(mount.options):
            if lower.is_dir():
                yield from _layers(lower, seen)
                return
    device = device_below(folder)
    if device:
        yield from _devices(device, seen)


def _devices(device: str, seen: set[Path]) -> Iterator[Layer]:
    folder = (_SYS / "dev/block" / device).resolve()
    name = folder.name
    if backing := _text(folder / "loop/backing_file").strip():
        file = Path(backing)
        yield Layer("loop", name, file)
        if file.exists():
            yield from _layers(file.parent, seen)
        return
    below = sorted((folder / "slaves").iterdir()) if (folder / "slaves").is_dir() else []
    if below:
        yield Layer("raid" if (folder / "md").is_dir() else "mapper", name)
        for entry in below:
            yield from _devices(_text(entry.resolve() / "dev").strip(), seen)
        return
    if not (folder / "queue").is_dir() and (folder.parent / "loop/backing_file").is_file():
        yield from _devices(_text(folder.parent / "dev").strip(), seen)
        return
    yield Layer("disk", name)


def disk_below(folder: Path) -> str | None:
    """Return the whole disk below a folder as `major:minor`, None where there is none."""
    device = device_below(folder)
    if device is None:
        return None
    place = (_SYS / "dev/block" / device).resolve()
    whole = place if (place / "queue").is_dir() else place.parent
    return _text(whole / "dev").strip() or None


def request_statistics(folder: Path) -> Path | None:
    """Return the file of sysfs that counts the requests of the disk below, None where none does."""
    disk = disk_below(folder)
    file = _SYS / "dev/block" / disk / "stat" if disk else None
    return file if file is not None and file.is_file() else None


def described(layers: tuple[Layer, ...]) -> list[str]:
    """Return the layers in words, without any path."""
    return [
        f"{layer.kind} {layer.name}" + (", kept in a file" if layer.backing else "")
        for layer in layers
    ]


def _lower(options: str) -> list[Path]:
    """Return the folders that an overlay is laid over, the upper one first."""
    values = dict(option.partition("=")[::2] for option in options.split(","))
    folders = [values.get("upperdir", ""), *values.get("lowerdir", "").split(":")]
    return [Path(_unescaped(folder)) for folder in folders if folder]


def _unescaped(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
