"""The figure of what each full load makes of the machine: its share of the ceiling, and its
bottleneck.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from harness.analysis.arms import ArmSummary, paired_ratios
from harness.analysis.bottleneck import (
    AMPLIFICATION,
    FIXED,
    MEANING,
    OWN_WORK,
    OWN_WORK_OR_GPU,
    PAGE_FAULTS,
    PER_TENSOR,
    WAITING,
    bottleneck_of,
)
from harness.analysis.ceilings import COPY, STORAGE, TRANSFER
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.time_model import Fit
from harness.report.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Drawn,
    Style,
    dots,
    heading,
    plain_log,
    room_on_log,
    rows,
    scattered,
)
from harness.report.format import size_text

LOOKS = {
    STORAGE: Style(BLUE, "o"),
    COPY: Style(SKY, "s"),
    TRANSFER: Style(GREEN, "D"),
    PAGE_FAULTS: Style(PURPLE, "P"),
    PER_TENSOR: Style(ORANGE, "^"),
    FIXED: Style(BLACK, "v"),
    AMPLIFICATION: Style(GREEN, "h"),
    WAITING: Style(GREY, "d"),
    OWN_WORK: Style(VERMILLION, "X"),
    OWN_WORK_OR_GPU: Style(VERMILLION, "*"),
}
"""How the bottleneck is drawn, each with a shape of its own."""


def shares_of_ceiling(
    cells: Sequence[MeasuredCell], fits: Sequence[Fit]
) -> tuple[Figure, Drawn] | None:
    """Return the shares of the full-load cells of one device, a panel for each checkpoint and cache
    state; None without a ceiling.
    """
    cells = [cell for cell in cells if cell.ceiling and _arms(cell)]
    if not cells:
        return None
    states = sorted({cell.cache_state for cell in cells})
    checkpoints = sorted({(cell.bytes or 0, cell.checkpoint) for cell in cells})
    names = {
        state: _in_order([cell for cell in cells if cell.cache_state == state]) for state in states
    }
    figure = Figure(
        figsize=(
            2.3 + 2.2 * len(checkpoints),
            1.7 + 0.27 * sum(map(len, names.values())) + 0.45 * len(states),
        ),
        layout="constrained",
    )
    grid = figure.subplots(
        len(states),
        len(checkpoints),
        sharex=True,
        sharey="row",
        squeeze=False,
        height_ratios=[len(names[state]) for state in states],
    )
    shown, bound = [1.0], set()
    for line, state in zip(grid, states, strict=True):
        for axes, (size, checkpoint) in zip(line, checkpoints, strict=True):
            axes.set_title(f"{state.capitalize()}: {checkpoint},\n{size_text(size)}", fontsize=8.5)
            axes.set_xscale("log")
            rows(axes, names[state])
            axes.grid(True, axis="y")
            axes.axvline(100, color=GREY, linewidth=1.2, linestyle="--", zorder=1)
            for cell in (
                cell for cell in cells if (cell.checkpoint, cell.cache_state) == (checkpoint, state)
            ):
                for arm in _arms(cell):
                    what = bottleneck_of(arm, fits)
                    bound.add(what)
                    shown += _share(
                        axes,
                        cell,
                        arm,
                        names[state].index(cell.label(arm)),
                        LOOKS[what or OWN_WORK],
                    )
    room_on_log(grid[0][0], [100 * share for share in shown])
    for axes in grid[-1]:
        plain_log(axes.xaxis)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g} %"))
        axes.set_xlabel("share of the ceiling, to ready\n(logarithmic)")
    figure.legend(
        handles=_handles([what for what in MEANING if what in bound]),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
    )
    what = "Share of the ceiling that each load reaches, and its bottleneck"
    heading(figure, what)
    reading = (
        "each row is a loader, and each panel is a checkpoint in a cache state. The dashed line "
        "is the ceiling. A mark at 10 % took ten times as long as the fastest plain way to move "
        "the same bytes. A bar is the interval, and a small dot below it is one block. Colour "
        "and shape show the bottleneck. A row without a mark was not measured there."
    )
    if any(
        share > 1
        for cell in cells
        if cell.cache_state == "warm"
        for arm in _arms(cell)
        if (share := _median(arm))
    ):
        reading += (
            " Warm, a loader that maps the file copies nothing, so its mark may be to the right "
            "of a ceiling that is a copy."
        )
    return figure, Drawn("share-of-ceiling.svg", f"{what}, {' and '.join(states)}", reading)


def _arms(cell: MeasuredCell) -> list[ArmSummary]:
    return [arm for arm in cell.measured() if arm.share_of_ceiling]


def _median(arm: ArmSummary) -> float:
    assert arm.share_of_ceiling
    return arm.share_of_ceiling.median


def _in_order(cells: Sequence[MeasuredCell]) -> list[str]:
    """Return the loaders of one cache state, largest share first: each share is held against the
    middle one of its own panel.
    """
    shares: dict[str, list[float]] = {}
    for cell in cells:
        middle = statistics.median(map(_median, _arms(cell)))
        for arm in _arms(cell):
            shares.setdefault(cell.label(arm), []).append(_median(arm) / middle)
    return sorted(shares, key=lambda name: (-statistics.median(shares[name]), name))


def _share(axes: Axes, cell: MeasuredCell, arm: ArmSummary, row: int, look: Style) -> list[float]:
    """Draw an arm's share in its row and return every share drawn."""
    estimate = arm.share_of_ceiling
    ceiling = next(
        other
        for other in cell.arms
        if (other.loader, other.environment) == (arm.ceiling, arm.environment)
    )
    assert estimate
    shares = paired_ratios(cell.valid(ceiling), cell.valid(arm), attrgetter("ready_s"))
    dots(
        axes,
        [100 * share for share in shares],
        [row + 0.33 + 0.14 * apart for apart in scattered(len(shares))],
        look.colour,
        size=2.0,
        alpha=0.7,
    )
    low, high = estimate.low or estimate.median, estimate.high or estimate.median
    axes.errorbar(
        100 * estimate.median,
        row,
        xerr=[[100 * (estimate.median - low)], [100 * (high - estimate.median)]],
        color=look.colour,
        marker=look.marker,
        markersize=5,
        elinewidth=1.2,
        capsize=2,
    )
    return [*shares, low, high]


def _handles(bound: Sequence[str]) -> list[Line2D]:
    marks: dict[str, Any] = {"linestyle": "", "markersize": 6}
    return [
        *(
            Line2D([], [], color=LOOKS[what].colour, marker=LOOKS[what].marker, label=what, **marks)
            for what in bound
        ),
        Line2D([], [], color=GREY, linewidth=1.2, linestyle="--", label="the ceiling"),
        Line2D(
            [],
            [],
            color=INK,
            marker="o",
            linestyle="",
            markersize=2.2,
            mew=0,
            label="one block, below its mark",
        ),
    ]
