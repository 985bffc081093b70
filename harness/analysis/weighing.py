"""What weighings say: medians, what a command's time goes to, and whether it became slower."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from statistics import median

from harness.analysis.arms import paired_ratios
from harness.analysis.regression import Change, Counter, Thresholds, change, confirmed
from harness.analysis.regression_verdicts import ArmVerdict
from harness.analysis.statistics import Estimate, estimate
from harness.records.weighing import Weighing

SAFE_COMMAND = 0.05
"""By which share the time of a command may grow where nobody says otherwise: the same command twice
differed by less, and a tenth is found (docs/weigh.md).
"""
FACTS = (
    Counter("storage_read_bytes", 0.05, 1 << 20),
    Counter("major_faults", 0.25, 64.0),
    Counter("peak_bytes", 0.10, 4 << 20),
    Counter("cpu_s", 0.25, 0.010),
)
"""What hardly depends on how fast the machine is, and by how much it may grow."""
FIGURES = (
    "time_s",
    "cpu_s",
    "user_s",
    "system_s",
    "storage_read_bytes",
    "storage_requests",
    "storage_request_bytes",
    "minor_faults",
    "major_faults",
    "peak_bytes",
    "io_waiting_s",
    "io_waiting_share",
    "cpu_share",
)
"""The figures of a weighing that have a median and an interval."""
_BUSY_CORES = 0.8
"""The share of all cores from which a command is bound by how many there are."""
_SMALL_REQUEST_BYTES = 64 << 10


class TimeGoesTo(StrEnum):
    """What most of a command's time goes to."""

    STORAGE = "waiting for storage"
    ONE_CORE = "work on one core"
    ALL_CORES = "work on all cores"
    ELSE = "waiting for something else"
    IDLE = "waiting"
    """For storage or for something else: the system does not tell (no PSI)."""


@dataclass(frozen=True)
class CommandBottleneck:
    """What most of a command's time goes to, and how much of it."""

    kind: TimeGoesTo
    share: float
    """Of its time, 0 to 1; of all cores' time where all are at work."""
    system_share: float | None = None
    """Of its processor time, what the kernel used: faults, copies, reading."""
    request_bytes: float | None = None
    """Mean size of a request, where most of the time is waiting for small ones."""


def estimates(weighings: Sequence[Weighing]) -> dict[str, Estimate | None]:
    """Return the median and interval of each figure over the valid weighings, None where none
    tells.
    """
    valid = [weighing for weighing in weighings if weighing.valid]
    return {
        name: estimate(
            [value for weighing in valid if (value := getattr(weighing, name)) is not None]
        )
        for name in FIGURES
    }


def command_bottleneck(weighings: Sequence[Weighing], cores: int) -> CommandBottleneck | None:
    """Return what most of the time of a command goes to, None without a valid weighing.

    A moment counts as waiting for storage while anything on the machine does (PSI), as work while
    the command has a processor, and what is neither is a sleep, a lock, a network, or another
    process that answers.
    """
    figures = estimates(weighings)
    time, cpu = figures["time_s"], figures["cpu_share"]
    if time is None or cpu is None:
        return None
    system = (
        median(
            weighing.system_s / weighing.cpu_s
            for weighing in weighings
            if weighing.valid and weighing.cpu_s and weighing.system_s is not None
        )
        if any(weighing.valid and weighing.cpu_s for weighing in weighings)
        else None
    )
    if cores > 1 and cpu.median >= _BUSY_CORES * cores:
        return CommandBottleneck(TimeGoesTo.ALL_CORES, min(cpu.median / cores, 1.0), system)
    work = min(cpu.median, 1.0)
    waiting = figures["io_waiting_share"]
    if waiting is None:
        kinds = {TimeGoesTo.ONE_CORE: work, TimeGoesTo.IDLE: 1 - work}
    else:
        stalled = min(waiting.median, 1.0)
        kinds = {
            TimeGoesTo.STORAGE: stalled,
            TimeGoesTo.ONE_CORE: work,
            TimeGoesTo.ELSE: max(0.0, 1 - work - stalled),
        }
    kind = max(kinds, key=lambda kind: kinds[kind])
    size = figures["storage_request_bytes"]
    small = (
        size.median
        if kind == TimeGoesTo.STORAGE and size and size.median < _SMALL_REQUEST_BYTES
        else None
    )
    return CommandBottleneck(
        kind, kinds[kind], system if kind == TimeGoesTo.ONE_CORE else None, small
    )


def command_thresholds(fail_over: float | None, *, facts_only: bool = False) -> Thresholds:
    """Return what a command's change is held to: its facts, and its time by the share given or by
    the safe one. With `facts_only` no time is a change.
    """
    share = math.inf if facts_only else SAFE_COMMAND if fail_over is None else fail_over
    return Thresholds({"time_s": share}, FACTS, main="time_s")


def calibrated_share(cells: Mapping[str, Mapping[str, Mapping[str, float]]], state: str) -> float:
    """Return by which share a command's time may grow on a machine that has been calibrated: the
    median over the loads of the same cache state, and no less than the safe one.
    """
    shares = [
        clocks["ready_s"]
        for cell, loaders in cells.items()
        if f"/{state}/" in cell
        for clocks in loaders.values()
        if "ready_s" in clocks
    ]
    return max(SAFE_COMMAND, median(shares)) if shares else SAFE_COMMAND


def first_change(weighings: Sequence[Weighing], thresholds: Thresholds) -> Change:
    """Return what the first blocks say of a command against the other."""
    return change(*_arms(weighings, fresh=False), thresholds)


def command_verdict(weighings: Sequence[Weighing], thresholds: Thresholds) -> ArmVerdict:
    """Return the verdict on a command in one cache state: slower only where fresh blocks confirm
    what the first ones say.
    """
    first = first_change(weighings, thresholds)
    fresh = None
    if any(weighing.fresh for weighing in weighings):
        fresh = change(*_arms(weighings, fresh=True), thresholds, first.reasons)
    last = confirmed(first, fresh) if fresh else first
    return ArmVerdict(weighings[0].cache_state, "command", first, fresh, last)


def ratio_of(weighings: Sequence[Weighing], figure: str) -> Estimate | None:
    """Return the command's figure over the other's, within blocks, first and fresh together."""
    baseline, candidate = (
        [weighing for weighing in weighings if weighing.arm == arm]
        for arm in ("against", "command")
    )
    return estimate(paired_ratios(candidate, baseline, attrgetter(figure)))


def _arms(weighings: Sequence[Weighing], *, fresh: bool) -> tuple[list[Weighing], list[Weighing]]:
    kept = [weighing for weighing in weighings if weighing.fresh == fresh]
    return (
        [weighing for weighing in kept if weighing.arm == "against"],
        [weighing for weighing in kept if weighing.arm == "command"],
    )
