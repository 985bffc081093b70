"""A topic of the index page, and what all topics are made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.analysis.arms import ArmSummary
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.report.front.names import family, plain
from harness.report.front.panels import Bar, Panel, time_bar

BARS = 8
"""More loaders than this are in the table and not in the figure."""


@dataclass(frozen=True)
class Topic:
    """One section of the page."""

    title: str
    panels: tuple[Panel, ...]
    caption: str
    sentences: tuple[str, ...]
    """Markdown."""
    table: pd.DataFrame | None
    run: str | None
    """Where its figures are from, None where nothing was measured."""


def loader_bars(arms: Iterable[ArmSummary]) -> tuple[Bar, ...]:
    """Return a bar of the time to ready for each arm with an interval, as many as there is room
    for.
    """
    known = [
        (arm, ready) for arm in arms if (ready := arm.ready) is not None and ready.low is not None
    ]
    return tuple(
        time_bar(plain(arm.loader), ready, family(arm.loader)) for arm, ready in known[:BARS]
    )


def fullest_run(
    runs: Sequence[RecordedRun],
    of: Callable[[RecordedRun], Sequence[MeasuredCell]],
    by_ranks: bool = False,
    by_bytes: bool = False,
) -> RecordedRun | None:
    """Return the run with most such cells, or the largest, then most blocks; None without any."""

    def rank(run: RecordedRun) -> tuple[int, int, int, int, str]:
        cells = of(run)
        most = max((cell.key.ranks or 0 for cell in cells), default=0) if by_ranks else 0
        size = max((cell.bytes or 0 for cell in cells), default=0) if by_bytes else 0
        count = 0 if by_ranks or by_bytes else len(cells)
        blocks = max((len({s.block for s in cell.samples}) for cell in cells), default=0)
        return most, size, count, blocks, run.name

    return max((run for run in runs if of(run)), key=rank, default=None)


def whole_cells(run: RecordedRun, scenario: str) -> list[MeasuredCell]:
    """Return the cells of a scenario with two loaders or more that load no part."""
    return [c for c in run.cells_of(scenario) if c.key.part is None and len(c.measured()) > 1]


def capital(text: str) -> str:
    """Return a sentence with its first letter large."""
    return f"{text[:1].upper()}{text[1:]}"
