"""The section about memory: the limit to ask for, what a load leaves, and what processes share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.memory_limits import FACTORS, LOADED, TIMEOUT_AT_LEAST_S, TIMEOUT_TIMES
from harness.analysis.memory_use import (
    LoaderLimits,
    limits_of,
    memory_to_ask_for,
    proportional_in_all,
    stages_of,
)
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.records.sample import Sample
from harness.report.figures.style import (
    BLACK,
    BLUE,
    ORANGE,
    VERMILLION,
    Drawn,
    heading,
    plain_log,
    rows,
)
from harness.report.format import (
    DASH,
    MEGABYTE,
    megabytes,
    significant,
    size_text,
    slug,
    time_text,
)
from harness.report.memory_text import HEADS, limit_row
from harness.report.section_writer import SectionWriter, course
from harness.report.tables import cell_frame, markdown
from harness.scenarios import LIMIT, MEMORY_LIMIT, MODEL_STAYS, STAYS, WHOLE_PROCESS, WORKERS

_USUAL = ("safetensors-load-file", "torch-load-mmap")
"""The mapped loaders that the sentence speaks of: each format's own."""
_LOOKS = {
    LOADED: (BLUE, "o"),
    "killed": (VERMILLION, "x"),
    "raised": (ORANGE, "^"),
    "exited": (ORANGE, "v"),
    "hung": (BLACK, "s"),
}
"""The colour and mark of each outcome of a try."""
_WORDS = {
    LOADED: "loaded",
    "killed": "killed by the kernel",
    "raised": "raised an error",
    "exited": "exited",
    "hung": "hung",
}
_LIMITS = f"""
The smallest memory limit under which each loader still loaded the checkpoint and every page of
every tensor was touched. Each try is a fresh process in a fresh control group, cold and without
swap. The limit covers only what the load adds. The interpreter, torch and libraries come on top,
and *whole process* rows include them. The limit is exact to 2 % of the checkpoint's size: two tries
succeeded with it, and one failed one step below. A try that took {TIMEOUT_TIMES:g} times as long as
the load without a limit, and {TIMEOUT_AT_LEAST_S:g} s or more, counts as hung.
""".strip().replace("\n", " ")
_STAYS = """
Growth since before the load, in MB. It has three parts: private memory of the process, its mapped
pages, and the page cache charged to its group. The kernel drops that page cache when memory is
short. *In use*: every page was touched, or the model ran once. *Written*: every page of every
tensor was written once, which makes a mapped page a private copy. *Deleted*: the tensors or the
model are deleted, and the process still runs.
""".strip().replace("\n", " ")
_WORKERS = """
Several processes each load the whole checkpoint at the same time, cold, as a server's workers do.
*ready* is the time of the slowest process. *In all* is the growth of their proportional memory
together: a page that several processes share counts once.
""".strip().replace("\n", " ")


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about memory, none where nothing was asked about it."""
    cells = run.cells_of(MEMORY_LIMIT)
    if not cells:
        return []
    blocks = [writer.title(MEMORY_LIMIT)]
    for name, group in groupby(
        sorted(cells, key=lambda cell: cell.checkpoint), key=lambda cell: cell.checkpoint
    ):
        blocks += _of_checkpoint(writer, name, list(group))
    return blocks


def _of_checkpoint(writer: SectionWriter, name: str, cells: Sequence[MeasuredCell]) -> list[str]:
    parts = {part: [cell for cell in cells if cell.key.part == part] for part in _parts(cells)}
    blocks: list[str] = []
    limits = [cell for cell in parts.get(LIMIT, []) if cell.samples]
    whole = [cell for cell in parts.get(WHOLE_PROCESS, []) if cell.samples]
    needs = _needs(cells)
    if limits or whole:
        blocks += [_LIMITS, f"To load {name} in a container, ask for:", markdown(needs)]
    for cell in limits + whole:
        found = limits_of(cell)
        blocks += writer.figure(partial(_draw, found, cell))
        blocks += [_searched(cell), markdown(_limit_table(found, cell.key.part == LIMIT))]
        if cell.key.part == LIMIT and (sentence := _mapped_cost(found, name)):
            blocks.append(sentence)
        blocks.append(f"As CSV: {writer.table(cell.name, _frame(found))}")
    stays = [cell for part in (STAYS, MODEL_STAYS) for cell in parts.get(part, []) if cell.samples]
    if stays:
        blocks += [writer.heading(f"What stays of {name}", 2), _STAYS]
    for cell in stays:
        frame = _stays_frame(cell)
        blocks += [
            markdown(_in_megabytes(frame)),
            f"As CSV: {writer.table(cell.name, frame)}",
        ]
    workers = [cell for cell in parts.get(WORKERS, []) if cell.samples]
    if workers:
        frame = _workers_frame(workers)
        link = writer.table(f"{MEMORY_LIMIT}/{name}/{WORKERS}", frame)
        blocks += [
            writer.heading(f"Several processes that load {name}", 2),
            _WORKERS,
            markdown(_workers_table(frame)),
            f"As CSV: {link}; of each number of processes:"
            f" {', '.join(writer.table(cell.name, cell_frame(cell)) for cell in workers)}",
        ]
    blocks += [f"**{cell.key.what}**{course(cell)}" for cell in cells if not cell.samples]
    return blocks


def _parts(cells: Sequence[MeasuredCell]) -> list[str]:
    return [part for part in dict.fromkeys(cell.key.part for cell in cells) if part]


def _needs(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """Return what to ask for by loader, the one that needs least first."""
    samples: dict[str, list[Sample]] = {}
    for cell in cells:
        if cell.key.part in (LIMIT, WHOLE_PROCESS):
            for sample in cell.samples:
                samples.setdefault(sample.loader, []).append(sample)
    needs = [(loader, memory_to_ask_for(of_loader)) for loader, of_loader in samples.items()]
    known = sorted(
        ((loader, need) for loader, need in needs if need), key=lambda entry: entry[1].ask_bytes
    )
    lines = [
        [loader, size_text(need.ask_bytes), size_text(need.least_bytes), need.by]
        for loader, need in known
    ]
    return pd.DataFrame(lines, columns=["loader", "ask for", "just enough", "by tries with"])


def _searched(cell: MeasuredCell) -> str:
    what = "Whole processes" if cell.key.part == WHOLE_PROCESS else "The load itself"
    loads = f"{len(cell.samples)} loads of {size_text(cell.bytes)}"
    stopped = ", stopped by the time limit" if cell.record.get("stopped") == "budget" else ""
    return f"**{what}**: {loads}{stopped}."


def _limit_table(found: Sequence[LoaderLimits], timed: bool) -> pd.DataFrame:
    """Return a row for each loader, with its times by limit where it was `timed`."""
    frame = pd.DataFrame([limit_row(row) for row in found], columns=list(HEADS))
    return frame if timed else frame.iloc[:, : len(HEADS) - len(FACTORS)]


def _mapped_cost(found: Sequence[LoaderLimits], name: str) -> str | None:
    """Return in a sentence what a mapped load costs where memory is short, None where no try
    tells.
    """
    mapped = [row for row in found if row.maps and row.floor and row.slowdown_at_floor]
    if not mapped:
        return None
    # one sentence cannot hold every loader that maps: the table does
    mapped = [row for row in mapped if row.loader in _USUAL] or mapped[:1]
    parts = []
    for row in mapped:
        assert row.floor and row.slowdown_at_floor
        half = row.slowdown(0.5)
        at_half = f"{significant(half)} times as long with half its size, and " if half else ""
        parts.append(
            f"`{row.loader}` takes {at_half}{significant(row.slowdown_at_floor)} times with"
            f" {size_text(row.floor.limit_bytes)}"
        )
    return (
        f"**A mapped load of {name} does not fail when memory is short: it reads dropped pages "
        f"again.** To *ready*, {'; '.join(parts)}."
    )


def _frame(found: Sequence[LoaderLimits]) -> pd.DataFrame:
    """Return a row for each try, sizes in bytes and times in s."""
    entries = [
        [
            row.loader,
            row.size,
            row.floor.limit_bytes if row.floor else None,
            attempt.limit_bytes,
            attempt.outcome,
            attempt.ready_s,
        ]
        for row in found
        for attempt in row.tries
    ]
    heads = ["loader", "bytes", "smallest_limit_bytes", "limit_bytes", "outcome", "ready_s"]
    return pd.DataFrame(entries, columns=heads)


def _draw(found: Sequence[LoaderLimits], cell: MeasuredCell) -> tuple[Figure, Drawn] | None:
    """Draw every try: its limit across, a row for each loader, its outcome as a mark."""
    tried = [row for row in found if row.tries]
    if not tried:
        return None
    figure = Figure(figsize=(8.5, 1.6 + 0.3 * len(tried)), layout="constrained")
    axes = figure.subplots()
    shown = {}
    for place, row in enumerate(tried):
        if row.floor:
            axes.plot(
                [row.floor.limit_bytes / MEGABYTE] * 2,
                [place - 0.35, place + 0.35],
                color=BLUE,
                linewidth=2.0,
            )
        for outcome, (colour, marker) in _LOOKS.items():
            limits = [
                attempt.limit_bytes / MEGABYTE
                for attempt in row.tries
                if attempt.outcome == outcome
            ]
            if limits:
                axes.plot(
                    limits, [place] * len(limits), color=colour, marker=marker, linestyle="", ms=4.5
                )
                shown[outcome] = Line2D([], [], color=colour, marker=marker, linestyle="")
    rows(axes, [row.loader for row in tried])
    axes.axvline((cell.bytes or 0) / MEGABYTE, color="#333333", linestyle=":", zorder=1)
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    axes.set_xlabel("memory limit, MB (10^6 bytes, log.)")
    order = [outcome for outcome in _LOOKS if outcome in shown]
    figure.legend(
        [shown[outcome] for outcome in order],
        [_WORDS[outcome] for outcome in order],
        loc="outside lower center",
        ncols=len(order),
        fontsize=8,
    )
    of_what = "whole processes" if cell.key.part == WHOLE_PROCESS else "the load"
    what = f"{cell.checkpoint}: how each try ended, by the memory limit of {of_what}"
    heading(figure, what)
    reading = (
        "the bar is the smallest limit that a loader loads with, and the dotted line is the "
        "checkpoint's size. A loader with its bar to the left of that line maps the file. A bar "
        "at twice the size means that the loader holds everything twice"
    )
    return figure, Drawn(
        f"{MEMORY_LIMIT}-{slug(cell.checkpoint)}-{cell.key.part}.svg", what, reading
    )


def _stays_frame(cell: MeasuredCell) -> pd.DataFrame:
    """Return a row for each loader and stage, sizes in bytes."""
    entries = []
    for loader in dict.fromkeys(sample.loader for sample in cell.samples):
        stages = stages_of([sample for sample in cell.samples if sample.loader == loader])
        entries += [
            [loader, stage, there.anonymous_bytes, there.mapped_bytes, there.page_cache_bytes]
            for stage, there in stages.items()
        ]
    heads = ["loader", "stage", "anonymous_bytes", "mapped_bytes", "page_cache_bytes"]
    return pd.DataFrame(sorted(entries, key=lambda entry: str(entry[0])), columns=heads)


def _in_megabytes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each loader: private, mapped and page cache at each stage, in MB."""
    names = {
        "after_load": "loaded",
        "after_use": "in use",
        "after_write": "written",
        "after_delete": "deleted",
    }
    lines = []
    for loader, of_loader in frame.groupby("loader", sort=True):
        by_stage = {str(entry.stage): entry for entry in of_loader.itertuples()}
        cells = []
        for stage in names:
            entry = by_stage.get(stage)
            sizes = (
                []
                if entry is None
                else [entry.anonymous_bytes, entry.mapped_bytes, entry.page_cache_bytes]
            )
            cells.append(" / ".join(_whole(size) for size in sizes) or "read-only")
        lines.append([str(loader), *cells])
    heads = [f"{words}: private / mapped / page cache" for words in names.values()]
    return pd.DataFrame(lines, columns=["loader", *heads])


def _whole(size: float | None) -> str:
    return "unknown" if size is None or pd.isna(size) else f"{size / MEGABYTE:,.0f}"


def _workers_frame(cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """Return a row for each loader and number of processes: times in s, sizes in bytes."""
    entries = []
    for cell in cells:
        for arm in cell.measured():
            in_all = proportional_in_all(cell.valid(arm))
            ready = arm.ready.median if arm.ready else None
            entries.append([arm.loader, cell.key.ranks, ready, in_all, arm.bytes, arm.valid])
    heads = ["loader", "processes", "ready_s", "proportional_bytes", "bytes", "valid"]
    return pd.DataFrame(sorted(entries, key=lambda entry: str(entry[0])), columns=heads)


def _workers_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each loader: time of the slowest and memory in all by number of
    processes.
    """
    counts = sorted({int(count) for count in frame["processes"]})
    lines = []
    for loader, of_loader in frame.groupby("loader", sort=True):
        by_count = {int(entry.processes): entry for entry in of_loader.itertuples()}
        lines.append(
            [
                str(loader),
                *(
                    f"{time_text(entry.ready_s)}, {megabytes(entry.proportional_bytes)} MB"
                    if (entry := by_count.get(count)) is not None
                    else DASH
                    for count in counts
                ),
            ]
        )
    heads = [f"{count} process{'es' if count > 1 else ''}: ready, in all" for count in counts]
    return pd.DataFrame(lines, columns=["loader", *heads])
