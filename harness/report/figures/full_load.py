"""Figures: SVG drawings of the full-load cells, the same bytes for the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.analysis.ceilings import is_ceiling
from harness.analysis.documented_figures import CLAIMED_RATIO
from harness.analysis.run_cells import MeasuredCell, nearest_to_claim
from harness.analysis.time_model import Fit
from harness.records.sample import Sample
from harness.report.figures.ratio_forest import ratio_forest
from harness.report.figures.share_of_ceiling import shares_of_ceiling
from harness.report.figures.style import (
    GREY,
    INK,
    LOOK,
    PLAIN,
    Drawn,
    column,
    dots,
    heading,
    line,
    panels_by_size,
    plain_log,
    rows,
    scattered,
    state_title,
    style_of,
    told_of_dots,
)
from harness.report.figures.svg import write_svg
from harness.report.format import MEGABYTE, significant, size_text, slug
from harness.scenarios import FULL_LOAD


def draw_full_load(cells: Sequence[MeasuredCell], folder: Path, fits: Sequence[Fit]) -> list[Drawn]:
    """Write every figure of the full-load cells for which there is data, for each device and each
    storage, and return what was written.

    `fits` tell the bottleneck.
    """
    drawn: list[Drawn] = []
    measured_cells = [cell for cell in cells if cell.scenario == FULL_LOAD and cell.measured()]
    for device, where in sorted({(cell.device, cell.where) for cell in measured_cells}):
        measured = [cell for cell in measured_cells if (cell.device, cell.where) == (device, where)]
        for draw in (
            _returned_ready,
            _time_by_size,
            partial(ratio_forest, claim=CLAIMED_RATIO),
            partial(shares_of_ceiling, fits=fits),
            _memory,
        ):
            with style.context(["default", LOOK]):
                done = draw(measured)
                if done is None:
                    continue
                figure, what = done[0], told_of_dots(*done)
                parts = [what.file.removesuffix(".svg"), device if device != "cpu" else "", where]
                file = f"{'-'.join(slug(part) for part in parts if part)}.svg"
                if where:
                    heading(figure, f"{figure.get_suptitle()}, on {where}")
                write_svg(figure, folder / file)
                places = " and ".join(filter(None, (device, where)))
                drawn.append(Drawn(file, f"{what.alt}, on {places}", what.reading))
    return drawn


def _returned_ready(cells: Sequence[MeasuredCell]) -> tuple[Figure, Drawn] | None:
    checkpoint = nearest_to_claim(cells)
    panels = [cell for cell in cells if cell.checkpoint == checkpoint]
    if checkpoint is None:
        return None
    heights = [len(cell.measured()) for cell in panels]
    figure = Figure(
        figsize=(8.8, 1.1 + 0.34 * sum(heights) + 0.4 * len(panels)), layout="constrained"
    )
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, cell in zip(grid, panels, strict=True):
        axes.set_title(state_title(cell))
        _pairs(axes, cell)
    grid[-1].set_xlabel("time from just before the call, ms (logarithmic)")
    plain_log(grid[-1].xaxis)
    what = (
        f"{checkpoint}, {size_text(panels[0].bytes)}: when the call returned, and when every page"
        " was ready"
    )
    heading(figure, what)
    ink: dict[str, Any] = {"color": INK, "marker": "o", "linestyle": ""}
    handles = [
        Line2D([], [], ms=8.5, mfc="none", mew=1.5, label="returned, median", **ink),
        Line2D([], [], ms=5, label="ready, median", **ink),
        Line2D([], [], ms=2.5, mew=0, label="one sample (above: returned, below: ready)", **ink),
    ]
    if any(cell.ceiling for cell in panels):
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="ceiling, ready"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        handletextpad=0.6,
        columnspacing=1.8,
    )
    reading = (
        "each line is a loader, and the fastest to ready is at the top of its panel. The ring is "
        "when the call returned, and the disc is when every page had been touched. A long line "
        "is work that the call left for later. The dashed grey line is the ceiling."
    )
    return figure, Drawn(
        f"returned-ready-{slug(checkpoint)}.svg", f"Times of every loader for {what}", reading
    )


def _pairs(axes: Axes, cell: MeasuredCell) -> None:
    words = []
    for row, arm in enumerate(cell.measured()):
        colour = style_of(arm.loader).colour
        medians: list[float] = []
        for estimate, clock, offset in (
            (arm.returned, "returned", -0.28),
            (arm.ready, "ready", 0.28),
        ):
            times = [1e3 * time for sample in cell.valid(arm) if (time := _seconds(sample, clock))]
            dots(
                axes,
                times,
                [row + offset + 0.2 * apart for apart in scattered(len(times))],
                colour,
                size=2.0,
            )
            medians += [1e3 * estimate.median] if estimate else []
        axes.plot(medians, [row] * len(medians), color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot(medians[-1], row, "o", ms=5, color=colour)
        axes.plot(medians[0], row, "o", ms=8.5, mfc="none", mec=colour, mew=1.5)
        words.append(", ".join(map(significant, medians)))
    if (ceiling := cell.ceiling) and ceiling.ready:
        axes.axvline(
            1e3 * ceiling.ready.median, color=GREY, linestyle="--", linewidth=1.2, zorder=1
        )
    axes.set_xscale("log")
    rows(axes, [cell.label(arm) for arm in cell.measured()])
    column(axes, "returned, ready (ms)", words)


def _time_by_size(cells: Sequence[MeasuredCell]) -> tuple[Figure, Drawn] | None:
    sizes = _sizes(cells)
    if len(sizes) < 2:
        return None
    states = sorted({cell.cache_state for cell in cells})
    figure, grid = panels_by_size(states, list(sizes.values()), "time to ready, ms (logarithmic)")
    handles: dict[str, tuple[float, Line2D]] = {}
    for axes, state in zip(grid, states, strict=True):
        of_state = [cell for cell in cells if cell.cache_state == state]
        shown = [(cell.label(arm), arm) for cell in of_state for arm in cell.measured()]
        shown += [("the ceiling", cell.ceiling) for cell in of_state if cell.ceiling]
        for label, loader in {label: arm.loader for label, arm in shown}.items():
            points = [
                (arm.bytes, arm.ready) for other, arm in shown if other == label and arm.ready
            ]
            slowness = max(ready.median / size for size, ready in points[-1:])
            handles[label] = (
                0.0 if is_ceiling(loader) else slowness,
                line(axes, points, style_of(loader), factor=1e3),
            )
        plain_log(axes.yaxis)
    # The last panel's order from slow to fast is the order of its lines' right ends, so that the
    # legend stands beside them.
    order = sorted(handles, key=lambda label: (-handles[label][0], label))
    figure.legend(
        [handles[label][1] for label in order],
        order,
        loc="outside right center",
        fontsize=8,
        labelspacing=0.9,
    )
    what = "Time to ready by size of the checkpoint"
    heading(figure, what)
    reading = (
        "both scales are logarithmic, so a loader with a time proportional to the bytes is a "
        f"straight slope; {_in_words(sizes)}. A mark is a median. Its bar is the interval and is "
        "often smaller than the mark. The dashed grey line is the ceiling."
    )
    return figure, Drawn(
        "time-by-size.svg", f"{what}, a line for each loader, {' and '.join(states)}", reading
    )


def _memory(cells: Sequence[MeasuredCell]) -> tuple[Figure, Drawn] | None:
    checkpoint = nearest_to_claim(cells)
    cell = next(
        (
            cell
            for cell in cells
            if cell.checkpoint == checkpoint and cell.cache_state == "warm" and cell.device == "cpu"
        ),
        None,
    )
    arms = (
        [
            arm
            for arm in cell.measured()
            if arm.anonymous_bytes is not None and arm.mapped_bytes is not None
        ]
        if cell
        else []
    )
    if not arms or cell is None or cell.bytes is None:
        return None
    figure = Figure(figsize=(8.8, 1.7 + 0.36 * len(arms)), layout="constrained")
    axes: Axes = figure.subplots()
    words = []
    for row, arm in enumerate(arms):
        # A growth can come out a little below nothing, where a load gives back more than it took.
        own, mapped = (
            max(size or 0.0, 0.0) / MEGABYTE for size in (arm.anonymous_bytes, arm.mapped_bytes)
        )
        colour = style_of(arm.loader).colour
        axes.barh(row, own, height=0.62, color=colour)
        axes.barh(
            row,
            mapped,
            left=own,
            height=0.62,
            facecolor="white",
            edgecolor=colour,
            hatch="///",
            linewidth=1.0,
        )
        words.append(f"{own:,.0f} + {mapped:,.0f}")
        totals = [
            ((sample.anonymous_bytes or 0) + (sample.mapped_bytes or 0)) / MEGABYTE
            for sample in cell.valid(arm)
        ]
        heights = [row + 0.42 * apart for apart in scattered(len(totals))]
        dots(axes, totals, heights, "#FFFFFF", size=2.6, alpha=1.0)
        dots(axes, totals, heights, "#222222", size=1.5, alpha=1.0)
    axes.axvline(cell.bytes / MEGABYTE, color="#333333", linewidth=1.0, linestyle=":")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PLAIN)
    rows(axes, [cell.label(arm) for arm in arms])
    column(axes, "anonymous + mapped (MB)", words)
    axes.set_xlabel("growth of memory from the start of the load to ready, MB (10^6 bytes)")
    handles = [
        Patch(facecolor=INK, label="anonymous"),
        Patch(facecolor="white", edgecolor=INK, hatch="///", label="mapped from the file"),
        Line2D([], [], marker="o", ms=2.6, linestyle="", color="#222222", label="one sample"),
        Line2D([], [], color="#333333", linewidth=1.0, linestyle=":", label="size of the tensors"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    what = f"{checkpoint}, {size_text(cell.bytes)}, warm: memory used by a load"
    heading(figure, what)
    reading = (
        "anonymous memory (full) belongs to the process. Mapped memory (hatched) belongs to the "
        "page cache: processes that map the file share it, and the kernel can drop it. The "
        "dotted line is the size of the tensors; a bar twice as long means that every byte was "
        "held twice. The loaders are in the order of the warm table."
    )
    return figure, Drawn(
        f"memory-{slug(str(checkpoint))}.svg",
        f"Anonymous and mapped memory of every loader: {what}",
        reading,
    )


def _seconds(sample: Sample, clock: str) -> float | None:
    return sample.returned_s if clock == "returned" else sample.ready_s


def _sizes(cells: Sequence[MeasuredCell]) -> dict[str, int]:
    """Return each checkpoint's size in bytes, smallest first."""
    return dict(
        sorted(
            ((cell.checkpoint, cell.bytes) for cell in cells if cell.bytes),
            key=lambda item: (item[1], item[0]),
        )
    )


def _in_words(sizes: dict[str, int]) -> str:
    return "the checkpoints are, from left to right, " + ", ".join(
        f"{name} ({size_text(size)})" for name, size in sizes.items()
    )
