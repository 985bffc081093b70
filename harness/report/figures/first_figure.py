"""The figure that README shows: how long it takes until the weights can be used, warm and cold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.arms import ArmSummary
from harness.analysis.claims import by_machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.shown_run import shown_arms, shown_run
from harness.report.figures.style import BLUE, GREY, INK, VERMILLION, Drawn, dots, rows, scattered
from harness.report.format import significant, size_text

FILE = "first-figure.svg"
_LOOK = {
    "safetensors-load-file": ("safetensors, mapped", BLUE),
    "torch-load-mmap": ("torch.load, mapped", VERMILLION),
    "torch-load": ("torch.load", VERMILLION),
    "safetensors-pread": ("safetensors, read", BLUE),
}
_PLAINLY = "a plain copy (warm) or read (cold) of the same bytes"
_STATES = {
    "warm": "In the page cache: loaded before",
    "cold": "Not in the page cache: a first load",
}


def first_figure(evidence: Sequence[RecordedRun]) -> tuple[Figure, Drawn] | None:
    """Return the figure, None where no run has what it shows."""
    shown = shown_run(by_machine(evidence))
    if shown is None:
        return None
    run, cells = shown
    figure = Figure(figsize=(6.6, 4.3), layout="constrained")
    grid = figure.subplots(2, 1, sharex=True)
    for axes, cell in zip(grid, cells, strict=True):
        _panel(axes, cell)
    slowest = max(max(_times(cell, arm)) for cell in cells for arm in shown_arms(cell))
    grid[-1].set_xlim(0, 1.03 * slowest)
    grid[-1].set_xlabel("ms until every tensor can be used")
    counts = [arm.valid for cell in cells for arm in shown_arms(cell)]
    ink: dict[str, Any] = {"color": INK, "linestyle": "", "marker": "o"}
    figure.legend(
        handles=[
            Line2D([], [], ms=2.5, mew=0, label="one load", **ink),
            Line2D(
                [],
                [],
                color=GREY,
                linestyle="--",
                label=_PLAINLY,
            ),
        ],
        loc="outside lower center",
        ncols=2,
        fontsize=9,
    )
    size = size_text(cells[0].bytes)
    alt = f"Time until {size} of weights can be used, warm and cold: {_in_words(cells)}"
    reading = (
        f"each bar is the median of {min(counts)} loads or more, each in a fresh process. Each "
        f"dot is one load. All loads are from run {run.name}."
    )
    return figure, Drawn(FILE, alt, reading)


def _times(cell: MeasuredCell, arm: ArmSummary) -> list[float]:
    """Return the times to `ready` of an arm's valid samples, in ms."""
    return [1e3 * sample.ready_s for sample in cell.valid(arm) if sample.ready_s is not None]


def _in_words(cells: Sequence[MeasuredCell]) -> str:
    parts = []
    for cell in cells:
        times = [
            f"{_LOOK[arm.loader][0]} {significant(1e3 * arm.ready.median)} ms"
            for arm in shown_arms(cell)
            if arm.ready
        ]
        parts.append(f"{cell.cache_state}, {', '.join(times)}")
    return "; ".join(parts)


def _panel(axes: Axes, cell: MeasuredCell) -> None:
    """Draw a bar for each loader of a cell, its samples on it, and the ceiling across."""
    axes.set_title(_STATES[cell.cache_state], fontweight="bold", fontsize=10.5)
    arms = shown_arms(cell)
    for row, arm in enumerate(arms):
        assert arm.ready
        median, colour = 1e3 * arm.ready.median, _LOOK[arm.loader][1]
        axes.barh(row, median, height=0.56, color=colour, alpha=0.35, zorder=2)
        axes.plot([median, median], [row - 0.28, row + 0.28], color=colour, linewidth=2, zorder=3)
        times = _times(cell, arm)
        places = [row + 0.4 * offset for offset in scattered(len(times))]
        dots(axes, times, places, colour, size=2.0, alpha=0.75)
    if cell.ceiling and cell.ceiling.ready:
        axes.axvline(1e3 * cell.ceiling.ready.median, color=GREY, linestyle="--", linewidth=1.2)
    rows(axes, [_LOOK[arm.loader][0] for arm in arms])
    axes.tick_params(axis="y", labelsize=10)
    for row, arm in enumerate(arms):
        assert arm.ready
        axes.text(
            1.02,
            row,
            f"{significant(1e3 * arm.ready.median)} ms",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=10,
            fontweight="bold",
            color=_LOOK[arm.loader][1],
        )
