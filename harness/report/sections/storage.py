"""The section about storage: which loader to take on which, how much longer mapping takes than
reading and why, and how steady each storage is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.shaped_storage import (
    MappedOverRead,
    fastest,
    latency_of,
    mapped_over_read,
    request_bytes,
    requests,
    variation,
    words_of,
)
from harness.report.figures.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    Drawn,
    heading,
    plain_log,
    style_of,
)
from harness.report.format import DASH, listed, significant, slug, spread, time_text
from harness.report.section_writer import SectionWriter, course
from harness.report.tables import cell_frame, markdown, without_figure
from harness.scenarios import AS_IS, STORAGE

_READING = """
Cold loads of one checkpoint, by storage. A *shaped* storage is the suite's own file system with a
set latency, rate and queue depth. Or it is a disk with a limit on its requests per second, set by a
control group. *ready* is when every page of every tensor had been touched. A request is one read
that storage receives. For a mapping, the kernel's readahead limits its size; a `read` may ask for
more.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about storage, none where there is no such cell."""
    cells = run.cells_of(STORAGE)
    if not cells:
        return []
    blocks = [writer.title(STORAGE), _READING]
    for name, group in groupby(
        sorted(cells, key=lambda cell: cell.checkpoint), key=lambda cell: cell.checkpoint
    ):
        here = _together(list(group))
        plain = [cell for cell in here if cell.key.part is None and cell.measured()]
        if plain:
            blocks += ["On storage like yours, take:", markdown(_advice(plain, run.manifest))]
            blocks += writer.figure(partial(_draw_ready, plain, name, run.manifest))
            blocks += writer.figure(partial(_draw_latency, plain, name, run.manifest))
        compared = [row for cell in here if (row := mapped_over_read(cell))]
        if compared:
            blocks += [
                "Time of mapping compared with reading:",
                markdown(_mapped_table(compared, run.manifest)),
            ]
            blocks += writer.figure(partial(_draw_requests, compared, name, run.manifest))
        for cell in here:
            where = f"{words_of(cell.key.storage, run.manifest)}{_ahead(cell)}{_order(cell)}"
            blocks.append(f"**{where[0].upper()}{where[1:]}**{course(cell)}")
            if cell.samples:
                blocks.append(markdown(_cell_table(cell)))
                blocks.append(f"As CSV: {writer.table(cell.name, cell_frame(cell))}")
    return blocks


def _advice(cells: Sequence[MeasuredCell], manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each storage: what to take, and what the others cost."""
    rows = []
    for cell in cells:
        best, slowest = fastest(cell), cell.measured()[-1]
        assert best[0].ready and slowest.ready
        beside = [
            time_text(arm.ready.median) if (arm := cell.arm(name)) and arm.ready else DASH
            for name in ("safetensors-load-file", "safetensors-pread", "torch-load")
        ]
        rows.append(
            [
                words_of(cell.key.storage, manifest),
                _kib(cell),
                listed([arm.loader for arm in best]),
                time_text(best[0].ready.median),
                *beside,
            ]
        )
    heads = ["storage", "readahead", "take", "ready", "load_file", "pread", "torch.load"]
    return pd.DataFrame(rows, columns=heads)


def _mapped_table(compared: Sequence[MappedOverRead], manifest: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        [
            f"{words_of(row.cell.key.storage, manifest)}{_order(row.cell)}",
            _kib(row.cell),
            spread(row.ratio, "insufficient"),
            _size(row.mapped_request),
            _size(row.read_request),
            significant(row.request_ratio) if row.request_ratio else "unknown",
        ]
        for row in compared
    ]
    heads = ["storage", "readahead", "mapped over read", "a mapped request", "a read's", "ratio"]
    return pd.DataFrame(rows, columns=heads)


def _cell_table(cell: MeasuredCell) -> pd.DataFrame:
    rows = []
    for arm in cell.arms:
        valid = cell.valid(arm)
        steady, count = variation(valid), requests(valid)
        rows.append(
            [
                cell.label(arm),
                time_text(arm.ready.median) if arm.ready else without_figure(arm),
                DASH if steady is None else f"{100 * steady:.1f}",
                "unknown" if count is None else f"{count:,.0f}",
                _size(request_bytes(valid)),
                f"{arm.rate / 1e9:.3g}" if arm.rate else DASH,
                f"{arm.valid} / {arm.total}",
            ]
        )
    heads = ["loader", "ready", "varies by, %", "requests", "a request", "GB/s", "valid"]
    return pd.DataFrame(rows, columns=heads)


def _draw_ready(
    cells: Sequence[MeasuredCell], name: str, manifest: Mapping[str, Any]
) -> tuple[Figure, Drawn] | None:
    """Draw each loader's time on each storage."""
    loaders = list(dict.fromkeys(arm.loader for cell in cells for arm in cell.measured()))
    if len(cells) < 2:
        return None
    figure = Figure(figsize=(9.5, 1.6 + 0.42 * len(cells)), layout="constrained")
    axes = figure.subplots()
    handles = {}
    for loader in loaders:
        look = style_of(loader)
        points = [
            (arm.ready.median, row)
            for row, cell in enumerate(cells)
            if (arm := cell.arm(loader)) and arm.ready
        ]
        drawing: dict[str, Any] = {
            "color": look.colour,
            "marker": look.marker or "x",
            "linestyle": "",
            "ms": 6,
        }
        axes.plot([x * 1e3 for x, _ in points], [y for _, y in points], **drawing)
        handles[loader] = Line2D([], [], **drawing)
    axes.set_yticks(
        range(len(cells)),
        [f"{words_of(cell.key.storage, manifest)}{_ahead(cell)}" for cell in cells],
        fontsize=8,
    )
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlabel("ready, ms (log.)")
    plain_log(axes.xaxis)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize=8
    )
    what = f"Cold loads of {name} by storage: time to ready of each loader"
    heading(figure, what)
    reading = (
        "the mark furthest to the left is the fastest loader. Where all marks lie together, the "
        "loader makes no difference on that storage"
    )
    return figure, Drawn(f"storage-{slug(name)}.svg", what, reading)


def _draw_latency(
    cells: Sequence[MeasuredCell], name: str, manifest: Mapping[str, Any]
) -> tuple[Figure, Drawn] | None:
    """Draw each loader's time against the latency of a request, at one readahead."""
    by_ahead: dict[int | None, list[tuple[float, MeasuredCell]]] = {}
    for cell in cells:
        latency = latency_of(cell.key.storage, manifest)
        if latency:
            by_ahead.setdefault(cell.key.read_ahead_kb, []).append((latency, cell))
    kb, points = max(by_ahead.items(), key=lambda item: len(item[1]), default=(None, []))
    if len({latency for latency, _ in points}) < 2:
        return None
    points.sort(key=lambda point: point[0])
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for loader in dict.fromkeys(arm.loader for _, cell in points for arm in cell.measured()):
        look = style_of(loader)
        line = [
            (1e3 * latency, 1e3 * arm.ready.median)
            for latency, cell in points
            if (arm := cell.arm(loader)) and arm.ready
        ]
        axes.plot(
            [x for x, _ in line],
            [y for _, y in line],
            color=look.colour,
            marker=look.marker or "x",
            linestyle=look.line,
            linewidth=1.1,
            ms=5,
            label=loader,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("latency of a request, ms (log.)")
    axes.set_ylabel("ready, ms (log.)")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    ahead = "the kernel's own" if kb is None else f"{kb} KiB"
    what = f"Cold loads of {name} against the latency of storage, readahead {ahead}"
    heading(figure, what)
    reading = "a loader with a flatter line makes larger requests, or more at the same time"
    return figure, Drawn(f"storage-latency-{slug(name)}.svg", what, reading)


def _draw_requests(
    compared: Sequence[MappedOverRead], name: str, manifest: Mapping[str, Any]
) -> tuple[Figure, Drawn] | None:
    """Draw how much longer mapping takes against how much larger a read's requests are."""
    points = [(row.request_ratio, row) for row in compared if row.request_ratio]
    if len(points) < 2:
        return None
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for kind, colour, marker in (
        ("the disk as it is", BLACK, "x"),
        ("storage with a latency", BLUE, "o"),
        ("storage that counts requests", VERMILLION, "s"),
    ):
        chosen = [(x, row) for x, row in points if _kind(row.cell, manifest) == kind]
        axes.plot(
            [x for x, _ in chosen],
            [row.ratio.median for _, row in chosen],
            color=colour,
            marker=marker,
            linestyle="",
            label=kind,
        )
    axes.axhline(1.0, color="#333333", linewidth=1.0, zorder=1)
    largest = max(x for x, _ in points)
    axes.plot([1.0, largest], [1.0, largest], color=GREY, linestyle=":", zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("a read's request over a mapping's (log.)")
    axes.set_ylabel("mapped over read, ready (log.)")
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.legend(fontsize=8)
    what = f"How much longer {name} takes mapped than read, by the size of requests"
    heading(figure, what)
    reading = (
        "above the line, mapping is slower. On the dotted diagonal, it is slower by the same "
        "factor by which its requests are smaller"
    )
    return figure, Drawn(f"storage-requests-{slug(name)}.svg", what, reading)


def _together(cells: list[MeasuredCell]) -> list[MeasuredCell]:
    """Return cells storage by storage, of each the smaller readahead first."""
    order = list(dict.fromkeys(cell.key.storage for cell in cells))
    return sorted(
        cells, key=lambda cell: (order.index(cell.key.storage), cell.key.read_ahead_kb or 0)
    )


def _kind(cell: MeasuredCell, manifest: Mapping[str, Any]) -> str:
    if cell.key.storage == AS_IS:
        return "the disk as it is"
    shape = (manifest.get("shapes") or {}).get(cell.key.storage) or {}
    counts = shape.get("requests_per_s") is not None
    return "storage that counts requests" if counts else "storage with a latency"


def _kib(cell: MeasuredCell) -> str:
    kb = cell.key.read_ahead_kb
    return "its own" if kb is None else f"{kb:,} KiB"


def _ahead(cell: MeasuredCell) -> str:
    kb = cell.key.read_ahead_kb
    return "" if kb is None else f", readahead {kb:,} KiB"


def _order(cell: MeasuredCell) -> str:
    return f", {cell.key.part.replace('-', ' ')}" if cell.key.part else ""


def _size(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1024:,.0f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.3g} MiB"
