"""What else was measured, a topic each: a figure, three sentences, and the table folded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

import pandas as pd

from harness.analysis.claims import by_machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, nearest_to_claim, pair_ratio
from harness.report.format import MEGABYTE, megabytes, size_text, time_spread
from harness.report.front.names import family, plain
from harness.report.front.panels import Bar, Panel
from harness.report.front.storage_topics import parts, storage
from harness.report.front.topic import BARS, Topic, capital, fullest_run, loader_bars, whole_cells
from harness.report.verdict_text import (
    comparison,
    multiple,
    prose_time,
    speed_text,
)
from harness.scenarios import (
    FULL_LOAD,
    PIPELINE_LOAD,
    SCENARIOS,
    SHARDED_LOAD,
    Pair,
)

_LARGE = 1.5
"""A peak of more than this many times the file is called large."""


def topics(evidence: Sequence[RecordedRun]) -> list[Topic]:
    """Return the topics about loads, those without a run left out, but for the GPU."""
    runs = [run for machine in by_machine(evidence) for run in machine.runs]
    made = (storage(runs), parts(runs), memory(runs), gpu(runs), ranks(runs), pipelines(runs))
    return [topic for topic in made if topic]


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
    shown = [*arms[: BARS // 2], *arms[-BARS // 2 :]] if len(arms) > BARS else arms
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

    run = fullest_run(runs, on_gpu)
    if run is None:
        return Topic(
            "GPU",
            (),
            "",
            (
                "**Not measured yet.** There is no run on a GPU, so this page has no GPU figures.",
                "On Linux with an NVIDIA GPU, `nox -s bench-gpu` takes one and writes its page.",
                "`weighbridge pack results/RUN` then makes a copy to share, without host names, "
                "user names and paths.",
            ),
            None,
            None,
        )
    checkpoint = nearest_to_claim(on_gpu(run))
    cells = [cell for cell in on_gpu(run) if cell.checkpoint == checkpoint]
    return _compared("GPU", cells, SCENARIOS[FULL_LOAD].pair, run, f"to {cells[0].device}")


def ranks(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return how ranks load their shares, at the largest number of ranks that was measured."""
    run = fullest_run(runs, lambda run: whole_cells(run, SHARDED_LOAD), by_ranks=True)
    if run is None:
        return None
    cells = whole_cells(run, SHARDED_LOAD)
    most = max(cell.key.ranks or 0 for cell in cells)
    cells = [cell for cell in cells if cell.key.ranks == most]
    return _compared(
        "Ranks", cells, SCENARIOS[SHARDED_LOAD].pair, run, f"{most} processes load their shares"
    )


def pipelines(runs: Sequence[RecordedRun]) -> Topic | None:
    """Return how a whole pipeline loads, of the largest that was measured."""
    run = fullest_run(runs, lambda run: whole_cells(run, PIPELINE_LOAD), by_bytes=True)
    if run is None:
        return None
    cells = whole_cells(run, PIPELINE_LOAD)
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
    panels = tuple(Panel(_state(cell.cache_state), loader_bars(cell.measured())) for cell in cells)
    sentences = []
    for cell in cells:
        ratio = pair_ratio(cell, pair.compared, pair.reference, attrgetter("ready_s"))
        if ratio:
            clause = comparison(plain(pair.reference), ratio, plain(pair.compared), "**")
            sentences.append(
                f"{capital(_state(cell.cache_state))}, {clause} ({ratio.count} pairs)."
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
        f"{capital(what)}: {cells[0].checkpoint}, {size_text(cells[0].bytes)}, until ready.",
        tuple(sentences),
        pd.DataFrame(rows, columns=heads),
        run.name,
    )


def _memory_cells(run: RecordedRun) -> list[MeasuredCell]:
    return [
        cell
        for cell in run.cells_of(FULL_LOAD)
        if (cell.device, cell.cache_state) == ("cpu", "warm")
        and sum(arm.peak_growth_bytes is not None for arm in cell.measured()) > 1
    ]


def _state(cache_state: str) -> str:
    return {"warm": "loaded before", "cold": "first load"}.get(cache_state, cache_state)
