"""The part of a page about loading a part of a checkpoint: what storage gave for the bytes that
were asked for, and how long it took.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.arms import ArmSummary
from harness.analysis.ceilings import is_ceiling
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate
from harness.report.figures.style import Drawn, heading, plain_log, scattered, style_of
from harness.report.format import (
    bottleneck_text,
    megabytes,
    ratio_text,
    share_text,
    significant,
    size_text,
    slug,
    spread,
    time_text,
    time_unit,
)
from harness.report.section_writer import SectionWriter, course, placed
from harness.report.tables import cell_frame, markdown, side_by_side, without_figure
from harness.scenarios import PARTIAL_LOAD, PARTS

WORDS = {
    "one-tensor": "the largest tensor of the middle layer",
    "one-layer": "every tensor of the middle layer",
    "every-8th-tensor": "every eighth tensor",
    "eighth-rows": "an eighth of the rows of every matrix, a contiguous slice of each",
    "eighth-columns": "an eighth of the columns of every matrix, a strided slice of each",
}
_READING = """
Each arm returns the same pieces, as contiguous tensors in their own memory. A loader that can only
load whole files does so and cuts the part out. **Read amplification** is the bytes read from
storage divided by the bytes requested. Its minimum is 1; whole pages and readahead add to it.
`ceiling-read` turns the kernel's readahead off, so its read amplification is the lowest. A share of
the ceiling above 100 % means that one large read was faster than reading only the requested bytes.
Warm loads read nothing from storage.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about partial loads, none where there is no such cell."""
    cells = sorted(run.cells_of(PARTIAL_LOAD), key=_order)
    own_read_ahead_kb = (run.manifest.get("storage") or {}).get("read_ahead_kb")
    if not cells:
        return []
    blocks = [writer.title(PARTIAL_LOAD), _READING]
    for (checkpoint, device), group in groupby(
        cells, key=lambda cell: (cell.checkpoint, cell.device)
    ):
        cells_here = list(group)
        swept = [
            cell
            for cell in cells_here
            if cell.cache_state == "cold"
            and len({other.key.read_ahead_kb for other in cells_here}) > 1
        ]
        plain = [cell for cell in cells_here if cell.key.read_ahead_kb is None or not swept]
        blocks.append(
            writer.heading(
                f"Parts of {checkpoint}, {size_text(cells_here[0].bytes)}, on {device}", 2
            )
        )
        blocks += _overview(plain)
        blocks += writer.figure(partial(_draw, plain, f"{checkpoint} on {device}"))
        if any(cell.key.read_ahead_kb is not None for cell in cells_here):
            blocks += _sweep(
                writer,
                [cell for cell in cells_here if cell.cache_state == "cold"],
                f"{checkpoint} on {device}",
                own_read_ahead_kb,
            )
        for cell in cells_here:
            blocks += _details(writer, cell)
    return blocks


def _order(cell: MeasuredCell) -> tuple[Any, ...]:
    key = cell.key
    place = PARTS.index(key.part) if key.part in PARTS else len(PARTS)
    return (
        cell.bytes or 0,
        key.checkpoint,
        key.device,
        place,
        key.cache_state,
        -1 if key.read_ahead_kb is None else key.read_ahead_kb,
    )


def _overview(cells: Sequence[MeasuredCell]) -> list[str]:
    """Return the tables of loaders by parts: amplification cold, time cold, time warm."""

    def amplification(arm: ArmSummary) -> str:
        return significant(arm.amplification.median) if arm.amplification else "unknown"

    def time(arm: ArmSummary) -> str:
        return time_text(arm.ready.median) if arm.ready else "missing"

    tables: list[tuple[str, str, Callable[[ArmSummary], str]]] = [
        ("Read amplification, cold", "cold", amplification),
        ("Time to ready, cold", "cold", time),
        ("Time to ready, warm", "warm", time),
    ]
    return side_by_side(tables, cells, _column)


def _column(cell: MeasuredCell) -> str:
    ahead = cell.key.read_ahead_kb
    return f"{cell.key.part}{'' if ahead is None else f', {ahead} KiB'}"


def _details(writer: SectionWriter, cell: MeasuredCell) -> list[str]:
    request = next(
        (
            f": {size_text(arm.requested_bytes)} of {size_text(cell.bytes)}"
            for arm in cell.arms
            if arm.requested_bytes
        ),
        "",
    )
    part = cell.key.part or ""
    blocks = [
        f"**{part}** ({WORDS.get(part, 'a part')}{request}), **{cell.cache_state}**, on"
        f" {cell.device}{placed(cell)}{course(cell)}"
    ]
    if cell.samples or cell.left_out:
        blocks += [
            markdown(_table(cell)),
            *filter(None, [bottleneck_text(cell, mark="**")]),
            f"As CSV: {writer.table(cell.name, cell_frame(cell))}",
        ]
    return blocks


def _table(cell: MeasuredCell) -> pd.DataFrame:
    """Return a row for each arm; what storage gave stands where the file was cold."""
    factor, unit = time_unit(arm.ready.median for arm in cell.arms if arm.ready)
    cold = cell.cache_state == "cold"
    heads = ["loader", f"returned, {unit}", f"ready, {unit}", "ratio ready"]
    heads += ["amplification", "storage read, MB", "resident after, %"] if cold else []
    heads += ["share of ceiling, %", "anonymous, MB", "valid / taken", "status"]
    rows = [_row(cell, arm, factor, cold, len(heads)) for arm in cell.arms]
    for loaders, word in ((cell.not_sampled, "missing"), (cell.never_begun, "left out")):
        rows += [[loader, *[word] * (len(heads) - 3), "0 / 0", word] for loader in loaders]
    return pd.DataFrame(rows, columns=heads)


def _row(cell: MeasuredCell, arm: ArmSummary, factor: float, cold: bool, width: int) -> list[str]:
    count = f"{arm.valid} / {arm.total}"
    if arm.ready is None:
        return [
            cell.label(arm),
            *[without_figure(arm)] * (width - 3),
            count,
            arm.status,
        ]
    storage = (
        [
            spread(arm.amplification, "unknown"),
            megabytes(arm.storage_read_bytes),
            _percent(arm.resident_after),
        ]
        if cold
        else []
    )
    times = [spread(estimate, "missing", factor) for estimate in (arm.returned, arm.ready)]
    return [
        cell.label(arm),
        *times,
        ratio_text(cell, arm, arm.ratio_ready),
        *storage,
        share_text(arm),
        megabytes(arm.anonymous_bytes),
        count,
        arm.status,
    ]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else significant(100 * share)


def _draw(cells: Sequence[MeasuredCell], name: str) -> tuple[Figure, Drawn] | None:
    cold, warm = (
        [cell for cell in cells if cell.cache_state == state and cell.measured()]
        for state in ("cold", "warm")
    )
    panels: list[
        tuple[str, str, Sequence[MeasuredCell], Callable[[ArmSummary], Estimate | None], float]
    ] = [
        (
            "Read amplification, cold",
            "storage bytes over bytes asked for",
            cold,
            lambda arm: arm.amplification,
            1.0,
        ),
        ("Time to ready, cold", "ms", cold, lambda arm: arm.ready, 1e3),
        ("Time to ready, warm", "ms", warm, lambda arm: arm.ready, 1e3),
    ]
    panels = [
        panel
        for panel in panels
        if panel[2] and any(panel[3](arm) for cell in panel[2] for arm in cell.arms)
    ]
    if not panels:
        return None
    parts = list(dict.fromkeys(_column(cell) for cell in cells if cell.measured()))
    figure = Figure(
        figsize=(1.6 + 3.0 * len(panels), 1.7 + 0.75 * len(parts)), layout="constrained"
    )
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles: dict[str, Line2D] = {}
    for axes, (title, unit, shown, value, factor) in zip(grid, panels, strict=True):
        axes.set_title(title)
        axes.set_xscale("log")
        handles |= _spreads(axes, shown, parts, value, factor)
        axes.set_xlabel(f"{unit} (logarithmic)")
        if value(shown[0].arms[0]) is shown[0].arms[0].amplification:
            axes.axvline(1.0, color="#333333", linewidth=1.0, zorder=1)
        plain_log(axes.xaxis)
    grid[0].set_yticks(range(len(parts)), parts)
    grid[0].set_ylim(len(parts) - 0.5, -0.5)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=8
    )
    what = f"A part of {name}: bytes read from storage, and time to ready"
    heading(figure, what)
    reading = (
        "each row is a part, and each mark is a loader's median with its interval. At 1, storage "
        "read only the requested bytes. At 8, loading an eighth of the file read all of it. A "
        "loader that is best in one panel may not be best in the next"
    )
    return figure, Drawn(
        f"parts-{slug(name)}.svg", f"{what}, by part and loader, cold and warm", reading
    )


def _spreads(
    axes: Axes,
    cells: Sequence[MeasuredCell],
    parts: Sequence[str],
    value: Callable[[ArmSummary], Estimate | None],
    factor: float,
) -> dict[str, Line2D]:
    """Draw each arm's figure in its part's row and return what a legend shows for each loader."""
    labels = sorted(
        {cell.label(arm) for cell in cells for arm in cell.arms if arm.ready},
        key=lambda label: (is_ceiling(label), label),
    )
    handles = {}
    for cell in cells:
        for arm in cell.arms:
            estimate = value(arm)
            if not estimate or not arm.ready or estimate.median <= 0:
                continue
            look, label = style_of(arm.loader), cell.label(arm)
            height = parts.index(_column(cell)) + 0.7 * (
                (labels.index(label) + 0.5) / len(labels) - 0.5
            )
            low, high = estimate.low or estimate.median, estimate.high or estimate.median
            axes.plot(
                [low * factor, high * factor], [height, height], color=look.colour, linewidth=1.4
            )
            drawing: dict[str, Any] = {
                "color": look.colour,
                "marker": look.marker or "x",
                "markersize": 5.5,
                "linestyle": "",
            }
            axes.plot(estimate.median * factor, height, **drawing)
            handles[label] = Line2D([], [], **drawing)
    axes.grid(False, axis="y")
    for row in range(1, len(parts)):
        axes.axhline(row - 0.5, color="#E4E4E4", linewidth=0.6)
    return {label: handles[label] for label in labels if label in handles}


def _sweep(
    writer: SectionWriter, cells: Sequence[MeasuredCell], name: str, own_kb: int | None
) -> list[str]:
    """Return the table and the figure of amplification by readahead."""
    rows = []
    for cell in cells:
        kb = cell.key.read_ahead_kb
        ahead = f"its own ({'unknown' if own_kb is None else own_kb})" if kb is None else str(kb)
        for arm in cell.arms:
            if arm.ready and arm.amplification:
                words = [
                    spread(arm.amplification, "unknown"),
                    time_text(arm.ready.median),
                    _percent(arm.resident_after),
                ]
                rows.append([cell.key.part, cell.label(arm), ahead, *words])
    if not rows:
        return []
    rows.sort(key=lambda row: (PARTS.index(row[0]) if row[0] in PARTS else 0, row[1]))
    heads = [
        "part",
        "loader",
        "readahead, KiB",
        "amplification",
        "ready, cold",
        "resident after, %",
    ]
    return [
        "Read amplification by the device's readahead, cold:",
        markdown(pd.DataFrame(rows, columns=heads)),
        *writer.figure(
            lambda: _draw_sweep(
                [cell for cell in cells if cell.key.read_ahead_kb is not None], name
            )
        ),
    ]


def _draw_sweep(cells: Sequence[MeasuredCell], name: str) -> tuple[Figure, Drawn] | None:
    parts = list(dict.fromkeys(cell.key.part for cell in cells if cell.measured()))
    values = sorted(
        {
            cell.key.read_ahead_kb
            for cell in cells
            if cell.measured() and cell.key.read_ahead_kb is not None
        }
    )
    if len(values) < 2:
        return None
    figure = Figure(figsize=(1.8 + 2.7 * max(len(parts), 2), 3.8), layout="constrained")
    grid = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    handles: dict[str, Line2D] = {}
    for axes, part in zip(grid, parts, strict=True):
        axes.set_title(str(part))
        by_loader: dict[str, list[tuple[int, Estimate]]] = {}
        for cell in cells:
            for arm in cell.arms:
                if (
                    cell.key.part == part
                    and arm.amplification
                    and cell.key.read_ahead_kb is not None
                ):
                    by_loader.setdefault(arm.loader, []).append(
                        (cell.key.read_ahead_kb, arm.amplification)
                    )
        for number, (loader, points) in enumerate(sorted(by_loader.items())):
            look = style_of(loader)
            drawing: dict[str, Any] = {
                "color": look.colour,
                "marker": look.marker or "x",
                "linestyle": look.line,
                "linewidth": 1.1,
                "ms": 5,
            }
            x = [
                values.index(kb) + 0.12 * scattered(len(by_loader))[number]
                for kb, _ in sorted(points, key=lambda point: point[0])
            ]
            axes.plot(
                x,
                [estimate.median for _, estimate in sorted(points, key=lambda point: point[0])],
                **drawing,
            )
            handles[loader] = Line2D([], [], **drawing)
        axes.set_yscale("log")
        axes.axhline(1.0, color="#333333", linewidth=1.0, zorder=1)
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        axes.set_xlabel("readahead, KiB")
        plain_log(axes.yaxis)
    grid[0].set_ylabel("times the bytes asked for (log.)")
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=8
    )
    what = f"Read amplification by the device's readahead, parts of {name}, cold"
    heading(figure, what)
    reading = (
        "a line that rises to the right is a loader that lets the kernel decide how much to "
        "read. A flat, high line is a loader that reads the whole file"
    )
    return figure, Drawn(f"read-ahead-{slug(name)}.svg", what, reading)
