"""What a page is made from: each run with everything it recorded, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.analysis.run_cells import MeasuredCell, cells_of
from harness.analysis.time_model import Fit, fit_loaders
from harness.records.checks import Check
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from harness.records.trials import Trial


@dataclass(frozen=True)
class RecordedRun:
    """One run: its manifest, its samples and their cells, its trials of hostile files and its
    checks.
    """

    run: RunDirectory
    manifest: Mapping[str, Any]
    samples: tuple[Sample, ...]
    cells: tuple[MeasuredCell, ...]
    trials: tuple[Trial, ...]
    checks: tuple[Check, ...]

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def paired(self) -> bool:
        """Whether environments stood side by side in it, so that its cells are no answer to which
        loader is faster.
        """
        return bool((self.manifest.get("options") or {}).get("paired_run"))

    @cached_property
    def fits(self) -> list[Fit]:
        """The time model of each loader that has one."""
        return fit_loaders(self.samples)

    def cells_of(self, scenario: str) -> list[MeasuredCell]:
        """Return the cells of one scenario."""
        return [cell for cell in self.cells if cell.scenario == scenario]


def gather(runs: Sequence[RunDirectory]) -> list[RecordedRun]:
    """Return the evidence of runs, oldest first.

    Raises `WeighbridgeError` where one cannot be read.
    """
    return [_read(run) for run in sorted(runs, key=lambda run: run.name)]


def _read(run: RunDirectory) -> RecordedRun:
    manifest, samples = run.manifest(), run.samples()
    return RecordedRun(
        run,
        manifest,
        tuple(samples),
        tuple(cells_of(manifest, samples)),
        tuple(run.trials()),
        tuple(run.checks()),
    )
