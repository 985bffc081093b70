"""The forest of ratios: how many times as long each loader of the claim takes, by checkpoint, cache
state and clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.arms import REFERENCE, paired_ratios
from harness.analysis.documented_figures import CLAIM_ALIKE, CLAIMED_BYTES
from harness.analysis.run_cells import MeasuredCell, nearest_to_claim
from harness.analysis.statistics import estimate
from harness.report.figures.style import (
    INK,
    PURPLE,
    STATES,
    Drawn,
    dots,
    grouped_rows,
    heading,
    plain_log,
    room_on_log,
    scattered,
    style_of,
)
from harness.report.format import size_text

_LOADERS = ("torch-load", "torch-load-mmap", "safetensors-pread")
_CLOCKS = {"returned": -0.12, "ready": 0.12}
"""Each clock with its place in a row, above or below the middle."""


def ratio_forest(cells: Sequence[MeasuredCell], claim: float) -> tuple[Figure, Drawn] | None:
    """Return the forest of the full-load cells of one device, `claim` marked where it was made.

    None without a ratio.
    """
    cells_here = [cell for cell in cells if cell.arm(REFERENCE) and _loaders(cell)]
    states = sorted({cell.cache_state for cell in cells_here})
    groups = {
        (name, size): [
            loader
            for loader in _LOADERS
            if any(loader in _loaders(cell) for cell in cells_here if cell.checkpoint == name)
        ]
        for name, size in sorted(
            {(cell.checkpoint, cell.bytes or 0) for cell in cells_here},
            key=lambda cells: (cells[1], cells[0]),
        )
    }
    if not groups:
        return None
    lines = sum(len(loaders) + 1 for loaders in groups.values())
    figure = Figure(figsize=(3.6 * len(states) + 2.2, 1.5 + 0.36 * lines), layout="constrained")
    grid = list(figure.subplots(1, len(states), sharey=True, squeeze=False)[0])
    claimed = _claimed(cells_here)
    for axes, state in zip(grid, states, strict=True):
        axes.set_title(STATES.get(state, state).partition(":")[0])
        axes.set_xscale("log")
        places = grouped_rows(
            axes,
            {f"{name}, {size_text(size)}": loaders for (name, size), loaders in groups.items()},
        )
        axes.axvline(1.0, color="#333333", linewidth=1.0, zorder=1)
        shown = [1.0]
        for cell in (cell for cell in cells_here if cell.cache_state == state):
            for loader in _loaders(cell):
                shown += _ratios(
                    axes,
                    cell,
                    loader,
                    places[f"{cell.checkpoint}, {size_text(cell.bytes)}", loader],
                )
            if state == "warm" and cell.checkpoint == claimed:
                shown.append(claim)
                _mark(
                    axes, claim, places[f"{cell.checkpoint}, {size_text(cell.bytes)}", "torch-load"]
                )
        room_on_log(axes, shown)
        plain_log(axes.xaxis)
        axes.set_xlabel(
            f"\N{LEFTWARDS ARROW} faster than {REFERENCE}   |   slower \N{RIGHTWARDS ARROW}\ntime"
            " over its time (logarithmic)"
        )
    figure.legend(
        handles=_handles(), loc="outside lower center", ncols=3, fontsize=8, columnspacing=1.8
    )
    what = f"How many times as long as {REFERENCE}: {', '.join(_LOADERS[:-1])} and {_LOADERS[-1]}"
    heading(figure, what)
    reading = (
        "each row is a loader with a checkpoint, the smallest at the top. To the right of the "
        f"line at 1, it takes longer than {REFERENCE}. A hollow mark is *returned*, a full mark "
        "is *ready*, and a bar is the interval. Small dots are ratios of single blocks: above "
        "the marks for *returned*, below for *ready*."
    )
    if claimed and any(
        cell.checkpoint == claimed and cell.cache_state == "warm" for cell in cells_here
    ):
        reading += " The claim is drawn where it applies: warm, at its size."
    return figure, Drawn(
        "ratio-forest.svg", f"{what}, by both clocks, {' and '.join(states)}", reading
    )


def _loaders(cell: MeasuredCell) -> list[str]:
    return [loader for loader in _LOADERS if cell.arm(loader)]


def _claimed(cells: Sequence[MeasuredCell]) -> str | None:
    """Return the checkpoint that the claim is of, None where none is of its size or on its
    device.
    """
    name = nearest_to_claim(cells)
    size = next(
        (cell.bytes for cell in cells if cell.checkpoint == name and cell.device == "cpu"), None
    )
    with_pickle = any(cell.checkpoint == name and cell.arm("torch-load") for cell in cells)
    return name if size and with_pickle and abs(size / CLAIMED_BYTES - 1) <= CLAIM_ALIKE else None


def _ratios(axes: Axes, cell: MeasuredCell, loader: str, row: float) -> list[float]:
    """Draw a loader's ratios by both clocks and return every value drawn."""
    arm, reference, look = cell.arm(loader), cell.arm(REFERENCE), style_of(loader)
    assert arm and reference
    shown: list[float] = []
    for clock, offset in _CLOCKS.items():
        ratios = paired_ratios(cell.valid(arm), cell.valid(reference), attrgetter(f"{clock}_s"))
        interval = estimate(ratios)
        if not interval:
            continue
        dots(
            axes,
            ratios,
            [row + 2.6 * offset + 0.14 * apart for apart in scattered(len(ratios))],
            look.colour,
            size=2.2,
            alpha=0.7,
        )
        low, high = interval.low or interval.median, interval.high or interval.median
        axes.errorbar(
            interval.median,
            row + offset,
            xerr=[[interval.median - low], [high - interval.median]],
            color=look.colour,
            marker=look.marker,
            markersize=4.5,
            markerfacecolor="white" if clock == "returned" else look.colour,
            elinewidth=1.2,
            capsize=2,
        )
        shown += [*ratios, low, high]
    return shown


def _mark(axes: Axes, claim: float, row: float) -> None:
    axes.plot(
        [claim, claim], [row - 0.42, row + 0.42], color=PURPLE, linewidth=2.2, solid_capstyle="butt"
    )
    axes.annotate(
        f"the claim: {claim:.1f}x",
        (claim, row - 0.42),
        xytext=(4, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color="#8F4470",
    )


def _handles() -> list[Line2D]:
    ink: dict[str, Any] = {"color": INK, "marker": "o", "linestyle": "-", "linewidth": 1.2}
    return [
        Line2D([], [], ms=4.5, mfc="white", label="returned, median with interval", **ink),
        Line2D([], [], ms=4.5, label="ready, median with interval", **ink),
        Line2D(
            [],
            [],
            ms=2.5,
            mew=0,
            label="one block (above: returned, below: ready)",
            color=INK,
            marker="o",
            linestyle="",
        ),
    ]
