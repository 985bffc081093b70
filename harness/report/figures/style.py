"""How figures look: one palette, one way to draw a scale, a line and a pair of panels."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harness.analysis.ceilings import is_ceiling
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate
from harness.report.format import MEGABYTE

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""The palette of Okabe and Ito (2008), told apart with every common colour blindness; its yellow is
too faint for a line on white.
"""

PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:g}")
GREY = "#7F7F7F"
INK = "#444444"
DOTS_AT_MOST = 300
"""How many samples of one arm and clock are drawn as dots."""
_THINNED = "_thinned"
STATES = {
    "cold": "Cold: nothing of the file in the page cache",
    "warm": "Warm: all of the file in the page cache",
}

LOOK: dict[str, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "weighbridge",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 1.2,
    "path.simplify": False,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}
"""What differs from matplotlib's own defaults; a fixed salt makes the same drawing the same
bytes.
"""


@dataclass(frozen=True)
class Style:
    """How a loader is drawn, the same in every figure."""

    colour: str
    marker: str
    line: str = "-"


@dataclass(frozen=True)
class Drawn:
    """A figure: its file's name, what it shows in a sentence, and how to read it."""

    file: str
    alt: str
    reading: str


_CEILING = Style(GREY, "", "--")
_STYLES = {
    "safetensors-load-file": Style(BLUE, "o"),
    "safetensors-pread": Style(SKY, "s"),
    "safetensors-safe-open": Style(GREEN, "D"),
    "safetensors-load-bytes": Style(PURPLE, "^"),
    "safetensors-prefetch-cache": Style(GREEN, "*"),
    "safetensors-populate": Style(GREEN, "P", ":"),
    "safetensors-willneed": Style(GREEN, "X", ":"),
    "safetensors-get-slice": Style(GREEN, "o"),
    "safetensors-scatter": Style(PURPLE, "D"),
    "torch-load": Style(VERMILLION, "o"),
    "torch-load-mmap": Style(ORANGE, "s"),
    "torch-load-unsafe": Style(VERMILLION, "v", "--"),
    "torch-load-legacy": Style(ORANGE, "P", "--"),
    "pickle-load": Style(BLACK, "X"),
    "torch-load-then-to": Style(VERMILLION, "<", ":"),
    "safetensors-load-file-then-to": Style(BLUE, "<", ":"),
    "safetensors-staged": Style(BLUE, "*", "--"),
    "safetensors-pinned": Style(BLUE, ">", "--"),
    "safetensors-eager-then-to": Style(PURPLE, "<", ":"),
    "safetensors-prefetch": Style(BLUE, "d", "--"),
    "fastsafetensors": Style(GREEN, "*", "--"),
    "fastsafetensors-buffered": Style(GREEN, "*", ":"),
    "fastsafetensors-gds": Style(GREEN, "p", "--"),
    "runai-model-streamer": Style(SKY, "^", "--"),
    "runai-model-streamer-buffered": Style(SKY, "^", ":"),
    "tensorizer": Style(PURPLE, "s", "--"),
    "instanttensor": Style(SKY, "p", "--"),
    "instanttensor-buffered": Style(SKY, "p", ":"),
    "torch-dcp": Style(ORANGE, "d", ":"),
    "torch-dcp-safetensors": Style(BLUE, "d", "-"),
    "torch-load-safetensors": Style(BLUE, "<", "-"),
    "safetensors-get-tensors": Style(BLUE, "P", ":"),
    "flashpack-mapped": Style(PURPLE, "P", "--"),
    "flashpack-read": Style(PURPLE, "X", ":"),
    **{
        f"{family}-{threads}": Style(colour, marker, line)
        for family, colour, line in (
            ("safetensors-threads", BLUE, "-."),
            ("safetensors-pread-threads", GREEN, "-."),
            ("transformers-threads", SKY, "-."),
            ("transformers-sharded-threads", VERMILLION, "-."),
        )
        for threads, marker in zip((1, 2, 4, 8, 16), "v^sDo", strict=True)
    },
    "gguf-reader": Style(BLACK, "d", ":"),
    "numpy-npz": Style(BLACK, "^", "--"),
    "numpy-npy-mmap": Style(BLACK, "v", ":"),
    "diffusers-safetensors": Style(BLUE, "8"),
    "diffusers-bin": Style(VERMILLION, "8"),
    "diffusers-single-file-safetensors": Style(SKY, "8"),
    "diffusers-single-file-ckpt": Style(ORANGE, "8"),
    "transformers-safetensors": Style(BLUE, "H"),
    "transformers-device-map": Style(BLUE, "H", ":"),
    "transformers-bin": Style(VERMILLION, "H"),
    "transformers-sharded": Style(BLUE, "h", "--"),
    "transformers-disable-mmap": Style(GREEN, "H", "--"),
    "transformers-no-threads": Style(PURPLE, "H", ":"),
    "accelerate-dispatch": Style(PURPLE, "h", "--"),
    "diffusers-disable-mmap": Style(GREEN, "8", "--"),
    "diffusers-sharded": Style(BLUE, "8", "--"),
    "diffusers-parallel": Style(PURPLE, "8", "--"),
    "assign-safetensors": Style(SKY, "H"),
    "assign-torch": Style(ORANGE, "H"),
    "copy-safetensors": Style(SKY, "h", ":"),
    "copy-torch": Style(ORANGE, "h", ":"),
    "picklescan": Style(BLACK, "^", ":"),
    "fickling": Style(PURPLE, "v", ":"),
    "modelscan": Style(GREEN, "s", ":"),
    "weighbridge-scan": Style(SKY, "D", ":"),
}


def style_of(loader: str) -> Style:
    """Return how a loader is drawn.

    One that has no place of its own gets the same one everywhere, from its name alone.
    """
    if is_ceiling(loader):
        return _CEILING
    if loader in _STYLES:
        return _STYLES[loader]
    number = zlib.crc32(loader.encode())
    colours, markers = (BLUE, SKY, GREEN, PURPLE, VERMILLION, ORANGE, BLACK), "<>hdp*"
    return Style(
        colours[number % len(colours)], markers[number // len(colours) % len(markers)], ":"
    )


def plain_log(axis: Axis) -> None:
    """Give a logarithmic axis ticks in plain numbers, closer together the less it spans.

    Its limits must be set.
    """
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3.2 else (1.0, 3.0) if decades > 1.7 else (1.0, 2.0, 5.0)
    axis.set_major_locator(
        LogLocator(subs=subs) if decades > 0.8 else MaxNLocator(5, steps=[1, 2, 5, 10])
    )
    axis.set_major_formatter(PLAIN)
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def dots(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    colour: str,
    size: float = 2.4,
    alpha: float = 0.5,
) -> None:
    """Draw samples as dots of `size` points, all in one path: hundreds of marks would make a file
    of hundreds of kB.

    Of more than `DOTS_AT_MOST` as many are drawn, evenly by order; `told_of_dots` then says so.
    """
    thinned = len(x) > DOTS_AT_MOST
    if thinned:
        kept = [number * len(x) // DOTS_AT_MOST for number in range(DOTS_AT_MOST)]
        x, y = [x[number] for number in kept], [y[number] for number in kept]
    # A dot is a stroke with round ends and hardly any length; of no length at all, some viewers
    # leave it out.
    across = [part for value in x for part in (value, value * 1.0001, math.nan)]
    up = [part for value in y for part in (value, value, math.nan)]
    axes.plot(
        across,
        up,
        color=colour,
        linewidth=size,
        solid_capstyle="round",
        alpha=alpha,
        snap=False,
        label=_THINNED if thinned else None,
    )


def told_of_dots(figure: Figure, drawn: Drawn) -> Drawn:
    """Return what is told of a figure, and that not every sample has its dot where that is so."""
    if not any(line.get_label() == _THINNED for axes in figure.axes for line in axes.lines):
        return drawn
    return replace(
        drawn,
        reading=(
            f"{drawn.reading} Of more than {DOTS_AT_MOST} samples, only {DOTS_AT_MOST} have a "
            "dot, evenly spaced in their order. Medians and intervals use all samples."
        ),
    )


def scattered(count: int) -> list[float]:
    """Return offsets between -0.5 and 0.5, the same each time, that keep dots of like value apart:
    multiples of the golden section.
    """
    return [number * 0.618034 % 1 - 0.5 for number in range(count)]


def column(axes: Axes, head: str, entries: Sequence[str]) -> None:
    """Write a column of text to the right of horizontal rows, an entry for each row under a
    head.
    """
    axes.annotate(
        head,
        (1.015, 1.0),
        xycoords="axes fraction",
        xytext=(0, 6),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )
    for row, entry in enumerate(entries):
        axes.text(
            1.015,
            row,
            entry,
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=INK,
        )


def rows(axes: Axes, names: Sequence[str]) -> None:
    """Name horizontal rows from the top down."""
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def grouped_rows(axes: Axes, groups: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], int]:
    """Name horizontal rows from the top down, each group's under its own name, and return the row
    of each (group, name).
    """
    places = {}
    labels: list[str] = []
    for group, names in groups.items():
        labels.append(group)
        for name in names:
            places[group, name] = len(labels)
            labels.append(name)
    rows(axes, labels)
    for label, tick in zip(
        labels, axes.get_yticklabels(), strict=False
    ):  # a panel that shares its rows with one to its left has none
        if label in groups:
            tick.set_fontweight("bold")
    for row in range(1, len(labels)):
        if labels[row] in groups:
            axes.axhline(row - 0.5, color="#CCCCCC", linewidth=0.8, zorder=0)
    return places


def room_on_log(axes: Axes, values: Sequence[float]) -> None:
    """Set the limits of a logarithmic axis across so that it holds these values, with room beside
    them.
    """
    low, high = min(values), max(values)
    room = max((high / low) ** 0.06, 1.05)
    axes.set_xlim(low / room, high * room)


def state_title(cell: MeasuredCell) -> str:
    """Return the title of the panel of a cell: its cache state, and the storage it was put on."""
    title = STATES.get(cell.cache_state, cell.cache_state)
    return f"{title}, on {cell.where}" if cell.where else title


def heading(figure: Figure, text: str) -> None:
    """Set a figure's title to the left, over its panels."""
    figure.suptitle(text, fontsize=11, x=0.012, ha="left")


def panels_by_size(
    states: Sequence[str], sizes: Sequence[float], label: str
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each cache state: bytes across, in MB, and `label` up, both
    logarithmic.
    """
    figure = Figure(figsize=(4.1 * len(states) + 2.0, 4.7), layout="constrained")
    grid = list(figure.subplots(1, len(states), sharex=True, sharey=True, squeeze=False)[0])
    for axes, state in zip(grid, states, strict=True):
        axes.set_title(STATES.get(state, state).partition(":")[0])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(min(sizes) / MEGABYTE / 1.6, max(sizes) / MEGABYTE * 1.6)
        axes.set_xlabel("size of the tensors, MB (10^6 bytes, logarithmic)")
        plain_log(axes.xaxis)
    grid[0].set_ylabel(label)
    return figure, grid


def line(
    axes: Axes,
    points: Sequence[tuple[int, Estimate]],
    look: Style,
    factor: float = 1.0,
    hollow: bool = False,
    unit: float = MEGABYTE,
) -> Line2D:
    """Draw medians with their intervals against sizes in bytes, or whatever else `unit` is of, and
    return a line like it for a legend.
    """
    points = sorted(points, key=lambda point: point[0])
    x = [size / unit for size, _ in points]
    y = [estimate.median * factor for _, estimate in points]
    below = [
        (estimate.median - (estimate.low or estimate.median)) * factor for _, estimate in points
    ]
    above = [
        ((estimate.high or estimate.median) - estimate.median) * factor for _, estimate in points
    ]
    drawing: dict[str, Any] = {
        "color": look.colour,
        "marker": look.marker,
        "linestyle": look.line,
        "linewidth": 1.1,
        "markersize": 5,
        "markerfacecolor": "white" if hollow else look.colour,
    }
    axes.errorbar(x, y, yerr=[below, above], elinewidth=1.0, capsize=2, **drawing)
    return Line2D([], [], **drawing)
