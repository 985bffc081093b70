"""How busy the machine was with something else: processor time that other processes used, that the
host took, and waiting (Linux).

Other processes are all but this one, what it started, and the kernel's threads, which work for
whoever reads and writes. Time in interrupts is nobody's and is left out. What has no `/proc` has no
reading.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

WINDOW_S = 0.5
"""Shortest time that a share is taken over: the kernel counts in hundredths of a second. A shorter
sample is judged by the half second that it ends, or begins where nothing was counted before it.
"""

PATIENCE_S = 2.0
"""How long to wait for quiet before a busy sample is taken again."""
_POLL_S = 0.25
_RESOURCES = ("cpu", "io", "memory")
_KTHREADD = 2


@dataclass(frozen=True)
class Busyness:
    """Shares, 0 to 1, of a window of time; None where the system does not tell."""

    others_cpu_share: float | None
    """Share of the usable cores' time that other processes used."""
    steal_share: float | None
    """Share of the usable cores' time that the host gave to others while this machine had work."""
    cpu_pressure_share: float | None
    """Of the time, during how much something waited for a processor, be it the load's own threads
    (`/proc/pressure/cpu`, `some`).
    """

    io_pressure_share: float | None
    memory_pressure_share: float | None

    @property
    def share(self) -> float | None:
        """The share of the usable cores' time that was not to be had; None where unknown."""
        return (
            None
            if self.others_cpu_share is None
            else self.others_cpu_share + (self.steal_share or 0.0)
        )


@dataclass(frozen=True)
class _Reading:
    """Totals at one moment, in s."""

    at: float
    used: float
    own: float
    stolen: float
    waited: tuple[float | None, ...]


class Meter:
    """Tells how busy the machine was between two moments, for this process and what it starts."""

    def __init__(self) -> None:
        self._readings: deque[_Reading] = deque(maxlen=64)

    def begin(self) -> None:
        """Note the totals before a sample."""
        if (reading := _read()) is not None:
            self._readings.append(reading)

    def end(self, *, wait: bool = True) -> Busyness:
        """Return how busy the machine was since the last `begin`, or over half a second about it
        where it is shorter.

        With `wait`, that half second is waited for where nothing was counted before; otherwise it
        is as long as it is.
        """
        now = _read()
        if now is None or not self._readings:
            return Busyness(None, None, None, None, None)
        then = self._readings[-1]
        recent = [
            reading for reading in self._readings if WINDOW_S <= now.at - reading.at <= 2 * WINDOW_S
        ]
        if recent:
            then = min(recent[-1], then, key=lambda reading: reading.at)
        elif wait and now.at - then.at < WINDOW_S:
            time.sleep(WINDOW_S - (now.at - then.at))
            now = _read() or now
        self._readings.append(now)
        return _between(then, now)

    def wait_for_quiet(self, at_most: float, patience_s: float = PATIENCE_S) -> bool:
        """Wait until others use no more than `at_most` of the usable cores.

        Return whether they came to that. What was before is forgotten.
        """
        end = time.monotonic() + patience_s
        while True:
            before = _read()
            time.sleep(_POLL_S)
            after = _read()
            if before is None or after is None:
                return True
            self._readings += (before, after)
            if (_between(before, after).share or 0.0) <= at_most:
                self._readings = deque([before, after], maxlen=self._readings.maxlen)
                return True
            if time.monotonic() > end:
                return False


def _between(then: _Reading, now: _Reading) -> Busyness:
    cores = (now.at - then.at) * len(_usable())
    others = (now.used - then.used) - (now.own - then.own)
    waited = [
        None if before is None or after is None else round((after - before) / (now.at - then.at), 4)
        for before, after in zip(then.waited, now.waited, strict=True)
    ]
    return Busyness(
        round(min(max(others / cores, 0.0), 1.0), 4),
        round(max(now.stolen - then.stolen, 0.0) / cores, 4),
        *waited,
    )


def _read() -> _Reading | None:
    tick = 1.0 / os.sysconf("SC_CLK_TCK")
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        usable = {f"cpu{number}" for number in _usable()}
        of_cores = [
            [int(value) for value in fields]
            for name, *fields in map(str.split, lines)
            if name in usable
        ]
        if not of_cores:
            return None
        used = sum(
            user + nice + system for user, nice, system, *_ in of_cores
        )  # time of virtual machines is a part of user and nice
        stolen = sum(fields[7] for fields in of_cores if len(fields) > 7)
        return _Reading(
            time.monotonic(),
            used * tick,
            _own() * tick,
            stolen * tick,
            tuple(map(waited, _RESOURCES)),
        )
    except (OSError, ValueError):
        return None


def _own() -> int:
    """Return the ticks of this process, of all that descend from it, those that have ended too, and
    of the kernel's threads.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it ended meanwhile, and its parent has its ticks
            parents[int(entry.name)] = int(fields[1])
            ticks[int(entry.name)] = sum(
                map(int, fields[11:15])
            )  # utime, stime, and those of the children it has waited for
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    total, ahead = 0, [os.getpid(), _KTHREADD] if parents.get(_KTHREADD) == 0 else [os.getpid()]
    while ahead:
        pid = ahead.pop()
        total += ticks.get(pid, 0)
        ahead += children.get(pid, [])
    return total


def waited(resource: str) -> float | None:
    """Return the total s in which something waited for a resource, None where the kernel does not
    tell.
    """
    try:
        some = Path(f"/proc/pressure/{resource}").read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _usable() -> set[int]:
    return os.sched_getaffinity(0)
