"""The topics about storage: which loader suits which, and what a part of a file costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.shaped_storage import MappedOverRead, mapped_over_read, words_of
from harness.report.format import listed, size_text, spread, time_spread
from harness.report.front.names import family, plain
from harness.report.front.panels import Bar, Panel
from harness.report.front.topic import Topic, fullest_run, loader_bars, whole_cells
from harness.report.verdict_text import comparison, multiple, number, prose_time
from harness.scenarios import PARTIAL_LOAD, SCENARIOS, STORAGE

_PANELS = 4


def storage(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return which loader suits which storage, of the run with most storages."""
    run = fullest_run(runs, lambda run: whole_cells(run, STORAGE))
    if run is None:
        return None
    cells = whole_cells(run, STORAGE)
    checkpoint = max(
        {cell.checkpoint for cell in cells},
        key=lambda name: sum(cell.checkpoint == name for cell in cells),
    )
    cells = [cell for cell in cells if cell.checkpoint == checkpoint]
    compared = [row for cell in cells if (row := mapped_over_read(cell))]
    shown = _spread_out(compared)
    panels = tuple(Panel(_where(row.cell, run), loader_bars(row.cell.measured())) for row in shown)
    sentences = [_mapping(row, run) for row in _extremes(compared)]
    best = dict.fromkeys(plain(cell.measured()[0].loader) for cell in cells)
    sentences.append(
        f"No loader is the fastest everywhere. On these {len(cells)} storages, the fastest are "
        f"{listed(list(best))}."
        if len(best) > 1
        else f"The fastest is {next(iter(best))} on each of these {len(cells)} storages."
    )
    rows = [
        [
            _where(cell, run),
            plain(cell.measured()[0].loader),
            time_spread(cell.measured()[0].ready),
            spread(row.ratio, "insufficient") if (row := mapped_over_read(cell)) else "no pairs",
        ]
        for cell in cells
    ]
    heads = ["storage", "fastest", "ready", "mapped over read"]
    return Topic(
        "Storage",
        panels,
        f"First load of {checkpoint} ({size_text(cells[0].bytes)}) until ready, by storage.",
        tuple(sentences),
        pd.DataFrame(rows, columns=heads),
        run.name,
    )


def parts(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return what storage gives for a part of a file, by readahead."""
    reference = SCENARIOS[PARTIAL_LOAD].pair.reference

    def swept(run: RecordedRun) -> list[MeasuredCell]:
        return [
            cell
            for cell in run.cells_of(PARTIAL_LOAD)
            if cell.key.read_ahead_kb is not None
            and (arm := cell.arm(reference))
            and arm.amplification
        ]

    run = fullest_run(runs, swept)
    if run is None:
        return None
    cells = swept(run)
    part = max(
        dict.fromkeys(cell.key.part for cell in cells),
        key=lambda name: len({c.key.read_ahead_kb for c in cells if c.key.part == name}),
    )
    if any(cell.key.part == "eighth-rows" for cell in cells):
        part = "eighth-rows"
    cells = sorted(
        (cell for cell in cells if cell.key.part == part), key=lambda c: c.key.read_ahead_kb or 0
    )
    figures = [
        (cell, arm.amplification)
        for cell in cells
        if (arm := cell.arm(reference)) and arm.amplification
    ]
    bars = tuple(
        Bar(
            f"readahead {_kib(cell.key.read_ahead_kb)}",
            figure.median,
            f"{multiple(figure.median)} times",
            family(reference),
            figure.low,
            figure.high,
        )
        for cell, figure in figures
    )
    least, most = figures[0], figures[-1]
    asked = (part or "").replace("-", " ")
    sentences = (
        "A smaller request does not mean fewer bytes read. With "
        f"{_kib(most[0].key.read_ahead_kb)} of readahead the disk read "
        f"**{multiple(most[1].median)} times** the bytes asked for.",
        f"With {_kib(least[0].key.read_ahead_kb)} of readahead it read"
        f" {multiple(least[1].median)} times.",
        _fastest_part(cells, reference),
    )
    rows = [
        [_kib(cell.key.read_ahead_kb), spread(figure, "unknown"), time_spread(arm.ready)]
        for cell, figure in figures
        if (arm := cell.arm(reference))
    ]
    return Topic(
        "A part of a file",
        (Panel("Bytes read, compared with the bytes requested", bars),),
        f"First load of a part ({asked}) of {cells[0].checkpoint}, {plain(reference)}.",
        sentences,
        pd.DataFrame(rows, columns=["readahead", "read over requested", "ready"]),
        run.name,
    )


def _spread_out(rows: Sequence[MappedOverRead]) -> list[MappedOverRead]:
    """Return at most as many rows as there is room for, evenly from the largest ratio down."""
    ordered = sorted(rows, key=lambda row: -row.ratio.median)
    if len(ordered) <= _PANELS:
        return ordered
    return [ordered[place * (len(ordered) - 1) // (_PANELS - 1)] for place in range(_PANELS)]


def _extremes(rows: Sequence[MappedOverRead]) -> list[MappedOverRead]:
    if not rows:
        return []
    ordered = sorted(rows, key=lambda row: -row.ratio.median)
    return ordered[:1] if len(ordered) == 1 else [ordered[0], ordered[-1]]


def _mapping(row: MappedOverRead, run: RecordedRun) -> str:
    clause = comparison("mapping", row.ratio, "reading", "**", invert=True)
    sizes = ""
    if row.mapped_request and row.read_request:
        mapped, read = (number(size / 1024) for size in (row.mapped_request, row.read_request))
        sizes = f" Mapping requests {mapped} KiB at a time, and reading requests {read} KiB."
    return f"With storage of {_where(row.cell, run)}, {clause}.{sizes}"


def _fastest_part(cells: Sequence[MeasuredCell], reference: str) -> str:
    arms = [arm for cell in cells if (arm := cell.arm(reference)) and arm.ready]
    fastest = min(arms, key=lambda arm: arm.ready.median if arm.ready else 0.0)
    assert fastest.ready is not None
    return (
        f"The fastest was a readahead of {_kib(fastest.cell.read_ahead_kb)}:"
        f" {prose_time(fastest.ready.median)}."
    )


def _where(cell: MeasuredCell, run: RecordedRun) -> str:
    where = words_of(cell.key.storage, run.manifest)
    if where.startswith("your own ("):
        where = where.removeprefix("your own (").removesuffix(")")
    ahead = cell.key.read_ahead_kb
    return where if ahead is None else f"{where}, readahead {_kib(ahead)}"


def _kib(size: int | None) -> str:
    if size is None:
        return "the device's own"
    return f"{size // 1024} MiB" if size and size % 1024 == 0 else f"{size} KiB"
