"""The part of a page about whole pipelines and models: to a model that has run once, in both
formats, beside what the page says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.arms import ArmSummary
from harness.analysis.documented_figures import (
    PIPELINE_BIN_S,
    PIPELINE_RATIO,
    PIPELINE_SAFETENSORS_S,
)
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, pair_ratio
from harness.analysis.statistics import Estimate
from harness.records.sample import Sample
from harness.report.figures.style import (
    INK,
    Drawn,
    column,
    dots,
    heading,
    plain_log,
    rows,
    scattered,
    state_title,
    style_of,
)
from harness.report.format import (
    megabytes,
    ratio_text,
    significant,
    size_text,
    slug,
    spread,
    time_text,
    time_unit,
)
from harness.report.section_writer import SectionWriter, course, placed
from harness.report.tables import arm_table, cell_frame, markdown
from harness.scenarios import PIPELINE_LOAD

PAIRS = (
    ("diffusers-bin", "diffusers-safetensors"),
    ("diffusers-single-file-ckpt", "diffusers-single-file-safetensors"),
    ("transformers-bin", "transformers-safetensors"),
    ("assign-torch", "assign-safetensors"),
    ("copy-torch", "copy-safetensors"),
)
"""Each way to load with its pickle arm first."""
_CLOCKS: dict[
    str, tuple[Callable[[ArmSummary], Estimate | None], Callable[[Sample], float | None]]
] = {
    "returned": (lambda arm: arm.returned, lambda sample: sample.returned_s),
    "ready": (lambda arm: arm.ready, lambda sample: sample.ready_s),
    "module ready": (lambda arm: arm.module_ready, lambda sample: sample.module_ready_s),
}
_MARKS: dict[str, dict[str, Any]] = {
    "returned": {"marker": "o", "ms": 8.5, "mfc": "none", "mew": 1.5},
    "ready": {"marker": "o", "ms": 5},
    "module ready": {"marker": "|", "ms": 11, "mew": 2.2},
}
_READING = f"""
These are the calls that users make: `from_pretrained`, `from_single_file` and `load_state_dict`.
*returned* is when the call returned its pipeline or model. *ready* is when every page of its
tensors had been touched. *module ready* is when each of its networks had then run once on the
smallest possible input. A call that maps its file returns before any byte is read, in both formats.
So only the later clocks show how long a user waits. For Stable Diffusion 2.1 the documentation says
{PIPELINE_BIN_S:.2f} s by `.bin` and {PIPELINE_SAFETENSORS_S:.2f} s by safetensors,
{PIPELINE_RATIO:.2f} times. It does not say by which clock. Cold covers every file of the folder,
proved for each.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about pipelines and models, none where there is no such
    cell.
    """
    cells = run.cells_of(PIPELINE_LOAD)
    if not cells:
        return []
    blocks = [writer.title(PIPELINE_LOAD), _READING]
    for (checkpoint, device), group in groupby(
        cells, key=lambda cell: (cell.checkpoint, cell.device)
    ):
        cells_here = list(group)
        tensors = next(
            (f", {cell.samples[0].tensors:,} tensors" for cell in cells_here if cell.samples), ""
        )
        blocks.append(
            writer.heading(
                f"{checkpoint}, {size_text(cells_here[0].bytes)}{tensors}, on {device}", 2
            )
        )
        comparison = _comparison(cells_here)
        if not comparison.empty:
            blocks += [
                (
                    "Pickle compared with safetensors. Ratios are taken within blocks, and above "
                    "1 pickle is slower:"
                ),
                markdown(comparison),
            ]
        blocks += writer.figure(partial(_draw, cells_here))
        for cell in cells_here:
            blocks.append(f"**{cell.cache_state.capitalize()}{placed(cell)}**{course(cell)}")
            if cell.samples or cell.left_out:
                blocks += [
                    markdown(_table(cell)),
                    f"As CSV: {writer.table(cell.name, cell_frame(cell))}",
                ]
    return blocks


def compared(cells: Sequence[MeasuredCell]) -> str | None:
    """Return a sentence on the largest pipeline that diffusers loaded in both formats, beside the
    page's; None where there is none.
    """
    pair = PAIRS[0]
    cells_here = [
        cell
        for cell in cells
        if cell.scenario == PIPELINE_LOAD and all(cell.arm(loader) for loader in pair)
    ]
    if not cells_here:
        return None
    largest = max(cell.bytes or 0 for cell in cells_here)
    of_largest = sorted(
        (cell for cell in cells_here if cell.bytes == largest),
        key=lambda cell: (cell.device, cell.cache_state),
    )
    phrases = [
        f"{cell.cache_state} {', '.join(_said(cell, pair))}"
        for cell in of_largest
        if cell.device == of_largest[0].device
    ]
    return (
        f"The pipeline {of_largest[0].checkpoint} ({size_text(largest)}, on {of_largest[0].device})"
        f" takes by `.bin`, as a multiple of safetensors, {'; '.join(phrases)}; the document under"
        f" test claims {PIPELINE_RATIO:.2f} times for a pipeline of 2.6 GB."
    )


def _said(cell: MeasuredCell, pair: tuple[str, str]) -> Iterator[str]:
    for clock, (_, value) in _CLOCKS.items():
        yield f"**{spread(pair_ratio(cell, *pair, value), 'no pairs')}** by *{clock}*"


def _comparison(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """Return a row for each pair, cache state and clock: both times, their ratio with its interval.

    The page's own stands first.
    """
    rows = []
    for cell in cells:
        for pickle, safetensors in PAIRS:
            over, under = cell.arm(pickle), cell.arm(safetensors)
            if not over or not under:
                continue
            for clock, (estimate, value) in _CLOCKS.items():
                times = [
                    time_text(interval.median) if (interval := estimate(arm)) else "missing"
                    for arm in (over, under)
                ]
                rows.append(
                    [
                        f"{pickle} over {safetensors}",
                        cell.cache_state,
                        clock,
                        *times,
                        spread(pair_ratio(cell, pickle, safetensors, value), "no pairs"),
                    ]
                )
    page = [
        "the page, Stable Diffusion 2.1",
        "not said",
        "not said",
        f"{PIPELINE_BIN_S:.2f} s",
        f"{PIPELINE_SAFETENSORS_S:.2f} s",
        f"{PIPELINE_RATIO:.2f}",
    ]
    of_pipelines = any(cell.arm(PAIRS[0][0]) for cell in cells)
    heads = ["what", "cache", "clock", "pickle", "safetensors", "ratio [interval]"]
    return pd.DataFrame([page, *rows] if rows and of_pipelines else rows, columns=heads)


def _table(cell: MeasuredCell) -> pd.DataFrame:
    measured = [arm for arm in cell.arms if arm.ready]
    units = {
        clock: time_unit(estimate.median for arm in measured if (estimate := of(arm)))
        for clock, (of, _) in _CLOCKS.items()
    }
    heads = [
        *(f"{clock}, {unit}" for clock, (_, unit) in units.items()),
        "ratio ready",
        "ratio module ready",
    ]
    heads += ["anonymous, MB", "mapped, MB", "storage read, MB"]

    def words(arm: ArmSummary) -> list[str]:
        times = [spread(of(arm), "missing", units[clock][0]) for clock, (of, _) in _CLOCKS.items()]
        sizes = [
            megabytes(size)
            for size in (arm.anonymous_bytes, arm.mapped_bytes, arm.storage_read_bytes)
        ]
        return [
            *times,
            *(
                ratio_text(cell, arm, interval)
                for interval in (arm.ratio_ready, arm.ratio_module_ready)
            ),
            *sizes,
        ]

    return arm_table(cell, heads, words)


def _draw(cells: Sequence[MeasuredCell]) -> tuple[Figure, Drawn] | None:
    """Draw every arm's three clocks on one line, a panel for each cache state."""
    panels = [cell for cell in cells if cell.measured()]
    if not panels:
        return None
    heights = [len(cell.measured()) for cell in panels]
    figure = Figure(
        figsize=(8.8, 1.2 + 0.36 * sum(heights) + 0.4 * len(panels)), layout="constrained"
    )
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, cell in zip(grid, panels, strict=True):
        axes.set_title(state_title(cell).replace("the file", "the files"))
        _clocks(axes, cell)
    grid[-1].set_xlabel("time from just before the call, ms (logarithmic)")
    plain_log(grid[-1].xaxis)
    what = (
        f"{panels[0].checkpoint}, {size_text(panels[0].bytes)}: when the call returned, was ready,"
        " and had run once"
    )
    heading(figure, what)
    looks: dict[str, Any] = {"color": INK, "linestyle": ""}
    handles = [Line2D([], [], label=clock, **looks, **mark) for clock, mark in _MARKS.items()]
    handles.append(
        Line2D([], [], marker="o", ms=2.5, mew=0, label="one sample (module ready)", **looks)
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    reading = (
        "each line is a way to load, and the fastest to ready is at the top of its panel. The "
        "ring is when the call returned, the disc when every page had been touched, and the "
        "upright when each network had run once. The distance from ring to disc is work that the "
        "call left for later"
    )
    device = "" if panels[0].device == "cpu" else f"-{slug(panels[0].device)}"
    return figure, Drawn(
        f"pipeline-{slug(panels[0].checkpoint)}{device}.svg",
        f"Times of every way to load {what}",
        reading,
    )


def _clocks(axes: Axes, cell: MeasuredCell) -> None:
    words = []
    for row, arm in enumerate(cell.measured()):
        colour = style_of(arm.loader).colour
        medians = [
            1e3 * estimate.median if (estimate := of(arm)) else None for of, _ in _CLOCKS.values()
        ]
        known = [median for median in medians if median is not None]
        times = [1e3 * sample.module_ready_s for sample in cell.valid(arm) if sample.module_ready_s]
        dots(
            axes,
            times,
            [row + 0.3 + 0.15 * apart for apart in scattered(len(times))],
            colour,
            size=2.0,
        )
        axes.plot(known, [row] * len(known), color=colour, linewidth=1.8, solid_capstyle="butt")
        for median, look in zip(medians, _MARKS.values(), strict=True):
            if median is not None:
                axes.plot(median, row, color=colour, mec=colour, **look)
        words.append(
            ", ".join("-" if median is None else significant(median) for median in medians)
        )
    axes.set_xscale("log")
    rows(axes, [cell.label(arm) for arm in cell.measured()])
    column(axes, "returned, ready, module ready (ms)", words)
