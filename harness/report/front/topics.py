"""What else was measured, a topic each: a figure, three sentences, and the table folded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import pandas as pd

from harness.analysis.arms import ArmSummary
from harness.analysis.claims import by_machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, nearest_to_claim, pair_ratio
from harness.analysis.shaped_storage import MappedOverRead, mapped_over_read, words_of
from harness.report.format import MEGABYTE, listed, megabytes, size_text, spread, time_spread
from harness.report.front.names import family, plain
from harness.report.front.panels import Bar, Panel, time_bar
from harness.report.verdict_text import (
    comparison,
    multiple,
    number,
    prose_time,
    speed_text,
)
from harness.scenarios import (
    FULL_LOAD,
    PARTIAL_LOAD,
    PIPELINE_LOAD,
    SCENARIOS,
    SHARDED_LOAD,
    STORAGE,
    Pair,
)

_BARS = 8
"""More loaders than this are in the table and not in the figure."""
_PANELS = 4
_LARGE = 1.5
"""A peak of more than this many times the file is called large."""


@dataclass(frozen=True)
class Topic:
    """One section of the page."""

    title: str
    panels: tuple[Panel, ...]
    caption: str
    sentences: tuple[str, ...]
    """Markdown."""
    table: pd.DataFrame | None
    run: str | None
    """Where its figures are from, None where nothing was measured."""


def topics(evidence: Sequence[RecordedRun]) -> list[Topic]:
    """Return the topics about loads, those without a run left out, but for the GPU."""
    runs = [run for machine in by_machine(evidence) for run in machine.runs]
    made = (storage(runs), parts(runs), memory(runs), gpu(runs), ranks(runs), pipelines(runs))
    return [topic for topic in made if topic]


def storage(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return which loader suits which storage, of the run with most storages."""
    run = _fullest(runs, lambda run: _plain_cells(run, STORAGE))
    if run is None:
        return None
    cells = _plain_cells(run, STORAGE)
    checkpoint = max(
        {cell.checkpoint for cell in cells},
        key=lambda name: sum(cell.checkpoint == name for cell in cells),
    )
    cells = [cell for cell in cells if cell.checkpoint == checkpoint]
    compared = [row for cell in cells if (row := mapped_over_read(cell))]
    shown = _spread_out(compared)
    panels = tuple(Panel(_where(row.cell, run), _loader_bars(row.cell.measured())) for row in shown)
    sentences = [_mapping(row, run) for row in _extremes(compared)]
    best = dict.fromkeys(plain(cell.measured()[0].loader) for cell in cells)
    sentences.append(
        f"No loader is the fastest everywhere: on these {len(cells)} storages it is"
        f" {listed(list(best))}."
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

    run = _fullest(runs, swept)
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
        f"Asking for less is not reading less: with {_kib(most[0].key.read_ahead_kb)} of readahead"
        f" the disk read **{multiple(most[1].median)} times** the bytes asked for.",
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
        (Panel("Bytes read, of the bytes asked for", bars),),
        f"First load of a part ({asked}) of {cells[0].checkpoint}, {plain(reference)}.",
        sentences,
        pd.DataFrame(rows, columns=["readahead", "read over asked for", "ready"]),
        run.name,
    )


def memory(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return how much memory each loader takes, of the cell that holds most loaders."""
    known = [(run, cell) for run in runs for cell in _memory_cells(run)]
    if not known:
        return None
    run, cell = max(
        known, key=lambda pair: (len(pair[1].measured()), pair[1].bytes or 0, pair[0].name)
    )
    peaks = {
        arm.loader: arm.peak_growth_bytes / arm.bytes
        for arm in cell.measured()
        if arm.peak_growth_bytes is not None
    }
    arms = sorted(
        (arm for arm in cell.measured() if arm.loader in peaks),
        key=lambda arm: (peaks[arm.loader], arm.loader),
    )
    shown = [*arms[: _BARS // 2], *arms[-_BARS // 2 :]] if len(arms) > _BARS else arms
    bars = tuple(
        Bar(
            plain(arm.loader),
            peaks[arm.loader],
            f"{multiple(peaks[arm.loader])} times",
            family(arm.loader),
        )
        for arm in shown
    )
    most = arms[-1]
    large = [loader for loader, peak in peaks.items() if peak > _LARGE]
    sentences = [
        f"The loader with the highest peak is {plain(most.loader)}:"
        f" **{multiple(peaks[most.loader])} times** the file.",
        f"{len(large)} of {len(arms)} loaders take more than {_LARGE:g} times the file.",
    ]
    own = [arm for arm in arms if arm.anonymous_bytes is not None]
    if least := min(own, key=lambda arm: arm.anonymous_bytes or 0, default=None):
        size = least.anonymous_bytes or 0
        amount = "under 1 MB" if size < MEGABYTE else f"{megabytes(size)} MB"
        sentences.append(
            f"The loader with the least memory of its own is {plain(least.loader)} ({amount})."
            " Mapped pages are shared, and the kernel can drop them."
        )
    rows = [
        [
            plain(arm.loader),
            multiple(peaks[arm.loader]),
            megabytes(arm.anonymous_bytes),
            megabytes(arm.mapped_bytes),
        ]
        for arm in arms
    ]
    heads = ["loader", "peak, times the file", "its own, MB", "mapped, MB"]
    return Topic(
        "Memory",
        (Panel("Peak memory, times the file", bars),),
        f"{cell.checkpoint}, {size_text(cell.bytes)}, {cell.cache_state}: how far memory rose"
        " during the load. Mapped pages count.",
        tuple(sentences),
        pd.DataFrame(rows, columns=heads),
        run.name,
    )


def gpu(runs: Sequence[RecordedRun]) -> Topic:
    """Return how loads to a GPU compare, or how to bring the first."""

    def on_gpu(run: RecordedRun) -> list[MeasuredCell]:
        return [c for c in run.cells_of(FULL_LOAD) if c.device != "cpu" and c.measured()]

    run = _fullest(runs, on_gpu)
    if run is None:
        return Topic(
            "GPU",
            (),
            "",
            (
                "**Not measured yet.** No run on a GPU is here, so nothing on this page speaks of"
                " one.",
                "On Linux with an NVIDIA GPU, `nox -s bench-gpu` takes one and writes its page.",
                "`weighbridge pack results/RUN` then makes it fit to share: it holds no host name,"
                " no user name and no path.",
            ),
            None,
            None,
        )
    checkpoint = nearest_to_claim(on_gpu(run))
    cells = [cell for cell in on_gpu(run) if cell.checkpoint == checkpoint]
    return _compared("GPU", cells, SCENARIOS[FULL_LOAD].pair, run, f"to {cells[0].device}")


def ranks(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return how ranks load their shares, at the largest number of ranks that was measured."""
    run = _fullest(runs, lambda run: _plain_cells(run, SHARDED_LOAD), by_ranks=True)
    if run is None:
        return None
    cells = _plain_cells(run, SHARDED_LOAD)
    most = max(cell.key.ranks or 0 for cell in cells)
    cells = [cell for cell in cells if cell.key.ranks == most]
    return _compared(
        "Ranks", cells, SCENARIOS[SHARDED_LOAD].pair, run, f"{most} processes load their shares"
    )


def pipelines(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return how a whole pipeline loads, of the largest that was measured."""
    run = _fullest(runs, lambda run: _plain_cells(run, PIPELINE_LOAD), by_bytes=True)
    if run is None:
        return None
    cells = _plain_cells(run, PIPELINE_LOAD)
    largest = max(cell.bytes or 0 for cell in cells)
    cells = [cell for cell in cells if cell.bytes == largest]
    topic = _compared("Pipelines", cells, cells[0].pair, run, "a whole pipeline")
    once = [
        (cell, ratio)
        for cell in cells
        if (
            ratio := pair_ratio(
                cell, cell.pair.compared, cell.pair.reference, attrgetter("module_ready_s")
            )
        )
    ]
    words = "; ".join(f"{cell.cache_state}, {speed_text([ratio])}" for cell, ratio in once)
    extra = (f"Once each network has run, safetensors is: {words}.",) if words else ()
    return replace(topic, sentences=(*topic.sentences[:2], *extra))


def _compared(
    title: str, cells: Sequence[MeasuredCell], pair: Pair, run: RecordedRun, what: str
) -> Topic:
    """Return a topic of one pair's loads, a panel for each cache state."""
    cells = sorted(cells, key=lambda cell: cell.cache_state, reverse=True)
    panels = tuple(Panel(_state(cell.cache_state), _loader_bars(cell.measured())) for cell in cells)
    sentences = []
    for cell in cells:
        ratio = pair_ratio(cell, pair.compared, pair.reference, attrgetter("ready_s"))
        if ratio:
            clause = comparison(plain(pair.reference), ratio, plain(pair.compared), "**")
            sentences.append(
                f"{_capital(_state(cell.cache_state))}, {clause} ({ratio.count} pairs)."
            )
    slowest = max(
        (arm for cell in cells for arm in cell.measured() if arm.ready),
        key=lambda arm: arm.ready.median if arm.ready else 0.0,
    )
    if slowest.ready:
        sentences.append(
            f"The slowest is {plain(slowest.loader)}, {slowest.cell.cache_state}:"
            f" {prose_time(slowest.ready.median)}."
        )
    rows = [
        [
            plain(arm.loader),
            cell.cache_state,
            time_spread(arm.returned),
            time_spread(arm.ready),
            f"{arm.valid} of {arm.total}",
        ]
        for cell in cells
        for arm in cell.measured()
    ]
    heads = ["loader", "state", "returned", "ready", "valid"]
    return Topic(
        title,
        panels,
        f"{_capital(what)}: {cells[0].checkpoint}, {size_text(cells[0].bytes)}, until ready.",
        tuple(sentences),
        pd.DataFrame(rows, columns=heads),
        run.name,
    )


def _loader_bars(arms: Iterable[ArmSummary]) -> tuple[Bar, ...]:
    return tuple(
        time_bar(plain(arm.loader), arm.ready, family(arm.loader))
        for arm in list(arms)[:_BARS]
        if arm.ready
    )


def _fullest(
    runs: Sequence[RecordedRun],
    of: Callable[[RecordedRun], Sequence[MeasuredCell]],
    by_ranks: bool = False,
    by_bytes: bool = False,
) -> RecordedRun | None:
    """Return the run with most such cells, or the largest, then most blocks; None without any."""

    def rank(run: RecordedRun) -> tuple[int, int, int, int, str]:
        cells = of(run)
        most = max((cell.key.ranks or 0 for cell in cells), default=0) if by_ranks else 0
        size = max((cell.bytes or 0 for cell in cells), default=0) if by_bytes else 0
        count = 0 if by_ranks or by_bytes else len(cells)
        blocks = max((len({s.block for s in cell.samples}) for cell in cells), default=0)
        return most, size, count, blocks, run.name

    return max((run for run in runs if of(run)), key=rank, default=None)


def _plain_cells(run: RecordedRun, scenario: str) -> list[MeasuredCell]:
    return [c for c in run.cells_of(scenario) if c.key.part is None and len(c.measured()) > 1]


def _memory_cells(run: RecordedRun) -> list[MeasuredCell]:
    return [
        cell
        for cell in run.cells_of(FULL_LOAD)
        if (cell.device, cell.cache_state) == ("cpu", "warm")
        and sum(arm.peak_growth_bytes is not None for arm in cell.measured()) > 1
    ]


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
        sizes = f" It asks for {mapped} KiB at a time, and reading for {read} KiB."
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


def _state(cache_state: str) -> str:
    return {"warm": "loaded before", "cold": "first load"}.get(cache_state, cache_state)


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
