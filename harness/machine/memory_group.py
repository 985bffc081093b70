"""A control group that bounds the memory of one process, and counts what is charged to it.

`memory.limit_in_bytes` of cgroup v1 or `memory.max` of v2, whichever is there, with swap off for
the group. A page is charged to the group that first touches it, pages of the page cache among them.
The kernel drops those first and kills the process only for what it cannot drop. Sources: the
kernel's Documentation/admin-guide/cgroup-v1/memory.rst, and cgroup-v2.rst, "Memory".

Runs inside an environment under test, so it needs the standard library alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from harness.errors import WeighbridgeError
from harness.machine import control_group
from harness.machine.control_group import dissolve, group_of, move

PREFIX = "weighbridge-memory-"
"""How the names of groups begin: the process id of who made one follows, and a number."""
_NUMBERS = count()
_REFUSED = (
    "no control group that limits memory can be made here (memory of cgroup v1, or of v2,"
    " delegated): run as root, or start the command with systemd-run --user --scope"
)


@dataclass(frozen=True)
class _Files:
    """What the files of a memory controller are called, and which lines of its statistics count."""

    version: str
    controller: str | None
    """The hierarchy's name in cgroup v1, None in v2."""
    limit: str
    swap: str
    swap_is_beside: bool
    """Whether `swap` bounds swap alone, not memory and swap together."""
    peak: str
    kills: str
    anonymous: str
    cache: str


_V1 = _Files(
    "v1",
    "memory",
    limit="memory.limit_in_bytes",
    swap="memory.memsw.limit_in_bytes",
    swap_is_beside=False,
    peak="memory.max_usage_in_bytes",
    kills="memory.oom_control",
    anonymous="rss",
    cache="cache",
)
_V2 = _Files(
    "v2",
    None,
    limit="memory.max",
    swap="memory.swap.max",
    swap_is_beside=True,
    peak="memory.peak",
    kills="memory.events",
    anonymous="anon",
    cache="file",
)


@dataclass(frozen=True)
class Charged:
    """What is charged to a group, in bytes; None where the kernel does not tell."""

    anonymous: int | None
    page_cache: int | None
    """Pages of files, mapped or not."""


class MemoryGroup:
    """A fresh group for one process; `limit_bytes` is None where it only counts."""

    def __init__(self, limit_bytes: int | None, root: Path = control_group.ROOT) -> None:
        """Make the group; raises `WeighbridgeError` where that cannot be done."""
        hierarchy = _hierarchy(root)
        if hierarchy is None:
            raise WeighbridgeError(f"memory limit refused: {_REFUSED}")
        self._files, self._parent = hierarchy
        self._before: Path | None = None
        self.limit_bytes = limit_bytes
        self.path = self._parent / f"{PREFIX}{os.getpid()}-{next(_NUMBERS)}"
        try:
            self.path.mkdir()
            for name, value in self._settings():
                (self.path / name).write_text(f"{value}\n", encoding="ascii")
        except OSError as error:
            self.remove()
            raise WeighbridgeError(
                f"memory limit refused: {self.path.name} cannot be set ({error.strerror})"
            ) from None

    def _settings(self) -> list[tuple[str, int]]:
        if self.limit_bytes is None:
            return []
        files = self._files
        settings = [(files.limit, self.limit_bytes)]
        if (self.path / files.swap).exists():
            settings.append((files.swap, 0 if files.swap_is_beside else self.limit_bytes))
        elif (self.path / "memory.swappiness").exists():
            settings.append(("memory.swappiness", 0))
        return settings

    def enter(self) -> None:
        """Move this process into the group: what it allocates from now on is charged there.

        What it shares with the process that forked it, or had already, stays charged to the group
        it comes from.
        """
        self._before = group_of(os.getpid(), self._root, self._files.controller)
        move(os.getpid(), self.path)

    def leave(self) -> None:
        """Move this process back to where it was; what it allocated meanwhile stays charged to the
        group.
        """
        if self._before is not None:
            move(os.getpid(), self._before)
            self._before = None

    @property
    def _root(self) -> Path:
        """Where the hierarchy begins that the paths of /proc/PID/cgroup are relative to."""
        return self._parent if self._files is _V1 else _v2_root(self._parent)

    def charged(self) -> Charged:
        """Return what is charged to the group now (`memory.stat`)."""
        statistics = _numbers(self.path / "memory.stat")
        return Charged(statistics.get(self._files.anonymous), statistics.get(self._files.cache))

    def peak(self) -> int | None:
        """Return the most that was ever charged to the group in bytes, page cache included; None
        of cgroup v2 before Linux 5.19.
        """
        with suppress(OSError, ValueError):
            return int((self.path / self._files.peak).read_text(encoding="ascii"))
        return None

    def kills(self) -> int:
        """Return how many processes of the group the kernel killed for want of memory."""
        return _numbers(self.path / self._files.kills).get("oom_kill", 0)

    def remove(self) -> None:
        """Remove the group; pages that are still charged to it go to the one above."""
        dissolve(self.path)


def refused(root: Path = control_group.ROOT) -> str | None:
    """Return why the memory of a process cannot be bounded here and what to do, None where it
    can.
    """
    return None if _hierarchy(root) else _REFUSED


def description(root: Path = control_group.ROOT) -> dict[str, str] | None:
    """Return how memory is bounded here, for a manifest; None where it cannot be."""
    hierarchy = _hierarchy(root)
    if hierarchy is None:
        return None
    files, _ = hierarchy
    return {"version": files.version, "limit": files.limit, "swap": "off for the group"}


def clear_left_over(root: Path = control_group.ROOT) -> str | None:
    """Remove groups of processes that are gone and return a sentence on it, None where there were
    none.
    """
    hierarchy = _hierarchy(root)
    removed = control_group.clear_left_over(hierarchy[1], PREFIX) if hierarchy else 0
    return f"{removed} memory groups of killed runs: removed" if removed else None


def _hierarchy(root: Path) -> tuple[_Files, Path] | None:
    """Return the files of the memory controller that is there, and the group under which one may be
    made; None where none may.

    In v2 that is the nearest group at or above this process's own that hands its controller down: a
    process may be moved between two groups only by who may write to the one that holds both.
    """
    first = root / "memory"
    if (first / _V1.limit).exists():
        return (_V1, first) if _writable(first) else None
    for top in (root, root / "unified"):
        if not (top / "cgroup.controllers").exists():
            continue
        group = group_of(os.getpid(), top, None)
        for parent in (group, *group.parents):
            with suppress(OSError):
                handed = (parent / "cgroup.subtree_control").read_text(encoding="ascii").split()
                if "memory" in handed and _writable(parent):
                    return _V2, parent
            if parent == top:
                break
    return None


def _v2_root(group: Path) -> Path:
    """Return the topmost group at or above one."""
    while (group.parent / "cgroup.controllers").exists():
        group = group.parent
    return group


def _writable(group: Path) -> bool:
    return os.access(group, os.W_OK) and os.access(group / "cgroup.procs", os.W_OK)


def _numbers(path: Path) -> Mapping[str, int]:
    """Return the lines `name number` of a file, none of one that is gone."""
    with suppress(OSError):
        lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
    return {}
