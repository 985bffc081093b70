"""Control groups of a run: which group a process is in, moving it, and dissolving a group."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
"""Where the kernel's control groups are mounted."""


def group_of(pid: int, parent: Path, controller: str | None) -> Path:
    """Return the group that a process is in, under the hierarchy that begins at `parent`.

    `controller` names a hierarchy of cgroup v1; None is v2's (cgroups(7)).
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, place = line.split(":", 2)
            if (controller in controllers.split(",")) if controller else not controllers:
                group = parent / place.lstrip("/")
                # a container's own view may begin further down than the path that it is told
                return group if group.is_dir() else parent
    return parent


def move(pid: int, group: Path) -> None:
    """Move a process with all its threads into a group; raises `OSError` where it may not be."""
    (group / "cgroup.procs").write_text(f"{pid}\n", encoding="ascii")


def members(group: Path) -> list[int]:
    """Return the processes in a group, none of one that is gone."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text(encoding="ascii").split()]
    except OSError:
        return []


def dissolve(group: Path) -> None:
    """Remove a group; who is left in it goes to the one above."""
    for pid in members(group):
        with suppress(OSError):
            move(pid, group.parent)
    with suppress(OSError):
        group.rmdir()


def clear_left_over(parent: Path, prefix: str) -> int:
    """Remove the groups `prefix`PID, or `prefix`PID-NUMBER, of processes that are gone, and return
    how many there were.
    """
    removed = 0
    for group in parent.glob(f"{prefix}*"):
        pid = group.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            dissolve(group)
            removed += not group.exists()
    return removed
