"""The part of a page about whole processes: what a command-line user waits for, phase by phase."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.analysis.arms import ArmSummary
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.report.figures.style import (
    GREEN,
    GREY,
    ORANGE,
    PLAIN,
    PURPLE,
    SKY,
    VERMILLION,
    Drawn,
    column,
    heading,
    rows,
    state_title,
)
from harness.report.format import ratio_text, significant, size_text, slug, spread, time_text
from harness.report.section_writer import SectionWriter, course, placed
from harness.report.tables import arm_table, cell_frame, markdown
from harness.scenarios import PROCESS_START as PROCESS_START

_PHASES = {
    "start": ("the interpreter", GREY),
    "import_torch": ("import torch", ORANGE),
    "import_library": ("import the loader's library", SKY),
    "context": ("GPU context", PURPLE),
    "first_call": ("first call", GREEN),
    "load": ("load", VERMILLION),
}
_READING = """
Every sample starts a fresh interpreter. The time runs from just before its start until every page
of the weights is ready. The phases are: start of the interpreter, `import torch`, import of the
loader's library, its first call and the load. The first call loads a tiny checkpoint and pays for
late imports and set-up. The phases add up to *ready*, and none of them includes the harness's own
work. Cold and warm describe the checkpoint only. The files of Python, torch and the libraries must
be in the page cache, or the sample is invalid.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about whole processes, none where there is no such cell."""
    cells = run.cells_of(PROCESS_START)
    if not cells:
        return []
    blocks = [writer.title(PROCESS_START), _READING]
    for (checkpoint, device), group in groupby(
        cells, key=lambda cell: (cell.checkpoint, cell.device)
    ):
        cells_here = list(group)
        blocks.append(
            writer.heading(
                f"{checkpoint}, {size_text(cells_here[0].bytes)}, on {device}, from a fresh"
                " process",
                2,
            )
        )
        blocks += writer.figure(partial(_draw, cells_here))
        for cell in cells_here:
            blocks.append(f"**{cell.cache_state.capitalize()}{placed(cell)}**{course(cell)}")
            if cell.samples or cell.left_out:
                frame = cell_frame(cell).merge(
                    _frame(cell), how="left", on=["loader", "environment"]
                )
                blocks += [
                    markdown(_table(cell)),
                    f"As CSV: {writer.table(cell.name, frame)}",
                ]
    return blocks


def waited(cells: Sequence[MeasuredCell]) -> str | None:
    """Return a sentence on what of a process is the load, in the two formats, warm.

    None where neither was measured.
    """
    for cell in cells:
        arms = [
            arm
            for loader in ("torch-load", "safetensors-load-file")
            if (arm := cell.arm(loader)) and arm.shares
        ]
        if cell.scenario == PROCESS_START and cell.cache_state == "warm" and len(arms) == 2:
            text = " and ".join(
                f"{time_text(arm.ready.median)} by {arm.loader}, of which the load is"
                f" {significant(100 * arm.shares['load'])} %"
                for arm in arms
                if arm.ready
            )
            return (
                f"From a fresh process to {cell.checkpoint}'s weights, warm, it is {text}: "
                f"**{spread(arms[0].ratio_ready, 'no pairs')}** times as long by pickle."
            )
    return None


def _frame(cell: MeasuredCell) -> pd.DataFrame:
    """Return a row for each arm: each phase in s, and its share of the whole."""
    lines = []
    for arm in cell.measured():
        times = {f"{name}_s": estimate.median for name, estimate in arm.phases.items()}
        lines.append(
            {
                "loader": arm.loader,
                "environment": arm.environment,
                **times,
                **{f"{name}_share": part for name, part in arm.shares.items()},
            }
        )
    columns = [f"{name}_{what}" for what in ("s", "share") for name in _phases([cell])]
    return pd.DataFrame(lines, columns=["loader", "environment", *columns])


def _table(cell: MeasuredCell) -> pd.DataFrame:
    phases = _phases([cell])

    def words(arm: ArmSummary) -> list[str]:
        parts = [
            (
                f"{significant(1e3 * arm.phases[name].median)}"
                f" ({significant(100 * arm.shares[name])} %)"
                if name in arm.phases
                else "missing"
            )
            for name in phases
        ]
        return [spread(arm.ready, "missing"), ratio_text(cell, arm, arm.ratio_ready), *parts]

    return arm_table(
        cell,
        ["ready, s", "ratio ready", *(f"{what}, ms (share)" for what, _ in phases.values())],
        words,
    )


def _phases(cells: Sequence[MeasuredCell]) -> dict[str, tuple[str, str]]:
    """Return the phases of some cells with their words and colours: a GPU's context only where a
    process made one.
    """
    known = {name for cell in cells for arm in cell.measured() for name in arm.phases}
    return {name: look for name, look in _PHASES.items() if name in known or name != "context"}


def _draw(cells: Sequence[MeasuredCell]) -> tuple[Figure, Drawn] | None:
    panels = [cell for cell in cells if any(arm.phases for arm in cell.measured())]
    if not panels:
        return None
    heights = [len(cell.measured()) for cell in panels]
    figure = Figure(
        figsize=(8.8, 1.2 + 0.32 * sum(heights) + 0.4 * len(panels)), layout="constrained"
    )
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, cell in zip(grid, panels, strict=True):
        axes.set_title(state_title(cell))
        _bars(axes, cell)
    grid[-1].set_xlabel("time from the start of the process, s")
    what = (
        f"{panels[0].checkpoint}, {size_text(panels[0].bytes)}: what a process does until its "
        "weights are ready"
    )
    heading(figure, what)
    handles = [Patch(facecolor=colour, label=words) for words, colour in _phases(panels).values()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=8,
        columnspacing=1.4,
    )
    reading = (
        "each bar is a process, and its parts are the medians of the phases, in order. Formats "
        "differ only in the last part, the load"
    )
    device = "" if panels[0].device == "cpu" else f"-{slug(panels[0].device)}"
    return figure, Drawn(
        f"process-start-{slug(panels[0].checkpoint)}{device}.svg",
        f"Phases of a process for every loader: {what}",
        reading,
    )


def _bars(axes: Axes, cell: MeasuredCell) -> None:
    words = []
    for row, arm in enumerate(cell.measured()):
        left = 0.0
        for name, (_, colour) in _phases([cell]).items():
            width = arm.phases[name].median if name in arm.phases else 0.0
            axes.barh(row, width, left=left, height=0.66, color=colour)
            left += width
        words.append(
            f"{significant(100 * arm.shares.get('load', 0.0))} % of"
            f" {significant(arm.ready.median if arm.ready else 0.0)} s"
        )
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PLAIN)
    rows(axes, [cell.label(arm) for arm in cell.measured()])
    column(axes, "the load's share", words)
