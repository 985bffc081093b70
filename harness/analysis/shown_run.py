"""The run that the figure of README shows."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.arms import ArmSummary
from harness.analysis.documented_figures import CLAIMED_BYTES
from harness.analysis.machines import Machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, find, nearest_to_claim

LOADERS = ("safetensors-load-file", "torch-load-mmap", "torch-load", "safetensors-pread")
"""The two formats, each mapped and read."""
STATES = ("warm", "cold")


def shown_run(machines: Sequence[Machine]) -> tuple[RecordedRun, list[MeasuredCell]] | None:
    """Return the run and its two cells, warm and cold, on the CPU.

    It is the run of the first machine that has all four loaders in both cells with most samples,
    and of as many the newest. None where no run has them.
    """
    for machine in machines:
        able = [(run, cells) for run in machine.runs if (cells := _cells(run))]
        if able:
            return max(able, key=lambda pair: (_samples(pair[1]), pair[0].name))
    return None


def shown_arms(cell: MeasuredCell) -> list[ArmSummary]:
    """Return the arms of a cell that are shown."""
    return [arm for loader in LOADERS if (arm := cell.arm(loader))]


def _cells(run: RecordedRun) -> list[MeasuredCell] | None:
    checkpoint = None if run.paired else nearest_to_claim(run.cells)
    if checkpoint is None:
        return None
    pair = [find(run.cells, checkpoint, state, "cpu") for state in STATES]
    cells = [cell for cell in pair if cell and len(shown_arms(cell)) == len(LOADERS)]
    near = all(0.5 < (cell.bytes or 0) / CLAIMED_BYTES < 2 for cell in cells)
    return cells if near and len(cells) == len(STATES) else None


def _samples(cells: Sequence[MeasuredCell]) -> int:
    return sum(arm.valid for cell in cells for arm in shown_arms(cell))
