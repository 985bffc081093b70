"""What a page is made from: each run with everything it recorded, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.measure.sample import Sample
from harness.records.checks import Check
from harness.records.meetings import Meeting
from harness.records.run_directory import RunDirectory
from harness.report.cells import Cell, cells_of


@dataclass(frozen=True)
class Evidence:
    """One run: its manifest, its samples and their cells, its meetings with hostile files and its checks."""

    run: RunDirectory
    manifest: Mapping[str, Any]
    samples: tuple[Sample, ...]
    cells: tuple[Cell, ...]
    meetings: tuple[Meeting, ...]
    checks: tuple[Check, ...]

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def night(self) -> bool:
        """Whether environments stood side by side in it, so that its cells are no answer to which loader is faster."""
        return bool((self.manifest.get("options") or {}).get("night"))


def gather(runs: Sequence[RunDirectory]) -> list[Evidence]:
    """Return the evidence of runs, oldest first; raises `WeighbridgeError` where one cannot be read."""
    return [_read(run) for run in sorted(runs, key=lambda run: run.name)]


def _read(run: RunDirectory) -> Evidence:
    manifest, samples = run.manifest(), run.samples()
    return Evidence(run, manifest, tuple(samples), tuple(cells_of(manifest, samples)), tuple(run.meetings()), tuple(run.checks()))
