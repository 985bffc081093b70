"""A block device's rate and requests a second, limited for some processes by a control group.

`blkio.throttle` of cgroup v1 or `io.max` of v2, whichever is there. The group is this run's own,
limits nobody else, and goes when the run does; one that a killed run left is empty, and the next
command removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import WeighbridgeError
from harness.machine import control_group
from harness.machine.control_group import dissolve, group_of, members, move
from harness.machine.shapes import Shape
from harness.machine.storage_stack import disk_below

_V1 = control_group.ROOT / "blkio"
_V2 = (control_group.ROOT, control_group.ROOT / "unified")
_PREFIX = "weighbridge-io-"


def refused(folder: Path) -> str | None:
    """Return why the storage under `folder` cannot be throttled and what to do, None where it
    can.
    """
    if disk_below(folder) is None:
        return "it is not on a block device with countable requests"
    parent = _parent()
    if parent is None:
        return (
            "no control group here can limit a device (blkio of cgroup v1, or io of v2, delegated)"
        )
    if not os.access(parent, os.W_OK):
        return f"{parent} may not be written by this process: run as root"
    return None


class Throttle:
    """A control group whose processes have a device limited as a shape says."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        """Make the group; raises `WeighbridgeError` where that cannot be done."""
        if reason := refused(folder):
            raise WeighbridgeError(f"storage {shape.name} refused: {reason}")
        parent, device = _parent(), disk_below(folder)
        assert parent is not None and device is not None
        self._first = parent
        self.group = parent / f"{_PREFIX}{os.getpid()}"
        try:
            self.group.mkdir(exist_ok=True)
            for name, line in _limits(shape, device, _is_v1(parent)):
                (self.group / name).write_text(f"{line}\n", encoding="ascii")
        except OSError as error:
            self.remove()
            raise WeighbridgeError(
                f"storage {shape.name} refused: {self.group} cannot be set ({error.strerror})"
            ) from None

    @contextmanager
    def around_family(self, pid: int) -> Iterator[None]:
        """Have the limit in force for a process and all that descend from it, those started
        meanwhile too, and afterwards the group it was in before.
        """
        before = group_of(pid, self._first, "blkio" if _is_v1(self._first) else None)
        try:
            for member in _family(pid):
                with suppress(ProcessLookupError):
                    move(member, self.group)
            yield
        finally:
            for member in members(self.group):
                with suppress(OSError):  # it may have ended
                    move(member, before)

    def remove(self) -> None:
        """Remove the group; who is left in it goes to the one above."""
        dissolve(self.group)


def clear_left_over() -> str | None:
    """Remove groups of runs that are gone and return a sentence on it, None where there were
    none.
    """
    parent = _parent()
    removed = control_group.clear_left_over(parent, _PREFIX) if parent else 0
    return f"{removed} control groups of killed runs: removed" if removed else None


def _limits(shape: Shape, device: str, v1: bool) -> list[tuple[str, str]]:
    values = [
        ("read_iops_device", "riops", shape.requests_per_s),
        ("read_bps_device", "rbps", int(shape.rate) if shape.limits_rate else None),
    ]
    if v1:
        return [
            (f"blkio.throttle.{name}", f"{device} {value}")
            for name, _, value in values
            if value is not None
        ]
    words = " ".join(f"{name}={value}" for _, name, value in values if value is not None)
    return [("io.max", f"{device} {words}")]


def _parent() -> Path | None:
    """Return the group under which one can be made whose devices are limited."""
    if (_V1 / "blkio.throttle.read_iops_device").exists() or (_V1 / "cgroup.procs").exists():
        return _V1
    for root in _V2:
        with suppress(OSError):
            if "io" in (root / "cgroup.subtree_control").read_text(encoding="ascii").split():
                return root
    return None


def _is_v1(parent: Path) -> bool:
    return parent == _V1


def _family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parent = int(fields.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    family, ahead = [], [pid]
    while ahead:
        member = ahead.pop()
        family.append(member)
        ahead += children.get(member, [])
    return family
