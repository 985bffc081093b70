"""Replaying an arm's samples through pytest-benchmark: the recorder is told what a child process
measured, and judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.analysis.arms import wrong
from harness.checkpoints.layouts import LAYOUTS
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.late_storage import kept_late
from harness.records.sample import Sample

if TYPE_CHECKING:
    from harness.run.run import CellResult


@dataclass(frozen=True)
class Arm:
    """One loader of a cell that has been measured."""

    loader: str
    result: CellResult

    @property
    def samples(self) -> list[Sample]:
        """The arm's samples in the order taken."""
        return [sample for sample in self.result.samples if sample.loader == self.loader]


class ChildClock:
    """A clock that reads seconds measured elsewhere and moves only when told."""

    __name__ = "child_clock"  # stands in the recorder's JSON

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds told so far."""
        return self.now


def replay(arm: Arm, benchmark: BenchmarkFixture | None) -> None:
    """Record `ready` of each valid sample of an arm.

    Skip or fail, with the reason, where there are too few for a figure.

    Nothing is recorded where `benchmark` is None: then pytest-benchmark cannot be used here.
    """
    valid = [sample for sample in arm.samples if sample.valid]
    # That one loader cannot read a person's checkpoint is no failure of the run; that none can is
    # one.
    excused = arm.result.cell.checkpoint not in LAYOUTS and any(
        sample.valid for sample in arm.result.samples
    )
    if arm.loader in arm.result.left_out and (excused or not arm.samples):
        pytest.skip(f"{arm.loader}: {arm.result.left_out[arm.loader]}")
    if not arm.samples:
        pytest.skip(
            arm.result.reason
            or f"{arm.loader} was no arm of this cell when it was taken, in the run that is"
            " completed here"
        )
    if late := kept_late(arm.result.samples).get(arm.loader):
        pytest.skip(f"{arm.loader}: {late}")
    if problem := wrong(arm.samples):
        pytest.fail(f"{arm.loader} returned wrong tensors: {problem}", pytrace=False)
    if valid and benchmark is not None:
        record(arm, valid, benchmark)
    if len(valid) >= MINIMUM_BLOCKS:
        return
    details: dict[str, list[str]] = {}
    for sample in arm.samples:
        if not sample.valid:
            details.setdefault(sample.reason or "unknown", []).append(sample.detail or "")
    broken = [f"{reason} ({len(words)}): {words[0]}" for reason, words in sorted(details.items())]
    if broken:
        pytest.fail(
            f"{len(valid)} valid samples of {len(arm.samples)}; {'; '.join(broken)}", pytrace=False
        )
    pytest.skip(f"insufficient: {len(valid)} samples, {MINIMUM_BLOCKS} make an interval")


def record(arm: Arm, valid: list[Sample], benchmark: BenchmarkFixture) -> None:
    """Record `ready` of an arm's valid samples, of which there is at least one."""
    clock, remaining = ChildClock(), iter(valid)

    def rewind() -> None:
        clock.now = (
            0.0  # so that the difference of two readings is the sample's own figure, to the bit
        )

    def load() -> None:
        ready = next(remaining).ready_s
        assert ready
        clock.now += ready

    benchmark._timer = clock
    benchmark.group = arm.result.cell.name
    benchmark.extra_info.update(
        {
            "loader": arm.loader,
            "bytes": valid[0].bytes,
            "returned_s": [sample.returned_s for sample in valid],
            "blocks": [sample.block for sample in valid],
            "invalid": len(arm.samples) - len(valid),
        }
    )
    benchmark.pedantic(load, setup=rewind, rounds=len(valid), iterations=1)
