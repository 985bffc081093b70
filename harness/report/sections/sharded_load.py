"""The part of a page about ranks that bring up a checkpoint together, each its own share."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.arms import ArmSummary
from harness.analysis.documented_figures import BLOOM_PICKLE_S, BLOOM_SAFETENSORS_S
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate
from harness.report.figures.style import Drawn, heading, line, plain_log, style_of
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
from harness.report.tables import cell_frame, markdown, side_by_side
from harness.scenarios import SHARDED_LOAD

EVERYTHING, SLICES = "torch-load", "safetensors-get-slice"
CLAIM = (
    f"The documentation says of BLOOM on 8 GPUs: {BLOOM_PICKLE_S / 60:.0f} minutes by PyTorch "
    f"weights, {BLOOM_SAFETENSORS_S:.0f} s by safetensors, "
    f"{BLOOM_PICKLE_S / BLOOM_SAFETENSORS_S:.1f} times"
)
_ARMS = {
    SLICES: "each rank slices its share out of the safetensors file",
    "safetensors-pread": "each rank reads the tensors that hold its share, and cuts its share out",
    EVERYTHING: "each rank unpickles everything and keeps its share",
    "torch-load-mmap": "each rank maps the pickle and copies its share",
    "safetensors-scatter": "one rank reads everything and scatters the shares",
}
_READING = """
The ranks are processes under torchrun. They start together, and **the time of the slowest rank is
the sample**. Each rank ends with its share of a tensor-parallel job, as contiguous tensors in its
own memory. Columns, rows and the vocabulary are split; norms and some biases are on every rank.
Storage is the bytes that all ranks read together. Memory is the proportional set size of the
largest rank while all ranks hold their shares. Each process counts its part of a page that several
processes share.
""".strip()
_Value = Callable[[ArmSummary], Estimate | None]


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about ranks that load together, none where there is no such
    cell.
    """
    cells = run.cells_of(SHARDED_LOAD)
    cores = (run.manifest.get("machine") or {}).get("cores")
    if not cells:
        return []
    loaders = sorted({arm.loader for cell in cells for arm in cell.arms})
    blocks = [writer.title(SHARDED_LOAD), _READING]
    blocks.append(
        "\n".join(
            f"- `{loader}`:"
            f" {_ARMS.get(loader, 'each rank loads whole files and cuts its share out')}"
            for loader in loaders
        )
    )
    most = max(cell.key.ranks or 0 for cell in cells)
    if cores and most > cores:
        blocks.append(
            f"This machine has {cores} cores. More ranks than cores take turns on them, and this "
            "alone makes times rise with the ranks."
        )
    for (checkpoint, device), group in groupby(
        cells, key=lambda cell: (cell.checkpoint, cell.device)
    ):
        cells_here = list(group)
        blocks.append(
            writer.heading(
                f"{checkpoint} over ranks, {size_text(cells_here[0].bytes)}, on {device}", 2
            )
        )
        blocks += [*_overview(cells_here), claimed(cells_here)]
        blocks += writer.figure(partial(_draw, cells_here, f"{checkpoint} on {device}"))
        for cell in cells_here:
            blocks += _details(writer, cell)
    return blocks


def claimed(cells: Sequence[MeasuredCell]) -> str:
    """Return what the document says of BLOOM and, beside it, unpickling everything over slices at
    the most ranks with a valid sample.
    """
    known = {
        (cell.key.ranks, cell.cache_state): arm
        for cell in cells
        if (arm := cell.arm(EVERYTHING)) and arm.ratio_ready
    }
    if not known:
        return f"{CLAIM}. This run has no pair of the two to compare with it."
    most = max(ranks or 0 for ranks, _ in known)
    of_most = {state: arm for (ranks, state), arm in sorted(known.items()) if ranks == most}
    words = " and ".join(
        f"**{spread(arm.ratio_ready, 'no pairs')}** times {state}" for state, arm in of_most.items()
    )
    size = next(iter(of_most.values())).bytes
    return (
        f"{CLAIM}. Here, with {size_text(size)} over {_ranks(most)} on {cells[0].device}: {words}."
    )


def _overview(cells: Sequence[MeasuredCell]) -> list[str]:
    def ready(arm: ArmSummary) -> str:
        return time_text(arm.ready.median) if arm.ready else "missing"

    def storage(arm: ArmSummary) -> str:
        return (
            "unknown"
            if arm.storage_read_bytes is None
            else significant(arm.storage_read_bytes / arm.bytes)
        )

    def memory(arm: ArmSummary) -> str:
        return megabytes(arm.pss_bytes)

    tables: list[tuple[str, str, Callable[[ArmSummary], str]]] = [
        ("Time of the slowest rank to ready, cold", "cold", ready),
        ("Time of the slowest rank to ready, warm", "warm", ready),
        (
            "Bytes read from storage by all ranks, cold, as a multiple of the checkpoint",
            "cold",
            storage,
        ),
        ("Memory of the largest rank, warm, MB", "warm", memory),
    ]
    return side_by_side(tables, cells, _column)


def _column(cell: MeasuredCell) -> str:
    ahead = cell.key.read_ahead_kb
    return f"{_ranks(cell.key.ranks)}{'' if ahead is None else f', readahead {ahead} KiB'}"


def _ranks(count: int | None) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"


def _details(writer: SectionWriter, cell: MeasuredCell) -> list[str]:
    blocks = [
        f"**{_ranks(cell.key.ranks)}, {cell.cache_state}**, on {cell.device}{placed(cell)}"
        f"{course(cell)}"
    ]
    if cell.samples or cell.left_out:
        blocks += [
            markdown(_table(cell)),
            f"As CSV: {writer.table(cell.name, cell_frame(cell))}",
        ]
    return blocks


def _table(cell: MeasuredCell) -> pd.DataFrame:
    """Return a row for each arm; what storage gave stands where the file was cold."""
    factor, unit = time_unit(arm.ready.median for arm in cell.arms if arm.ready)
    cold = cell.cache_state == "cold"
    heads = ["loader", f"returned, {unit}", f"ready, {unit}", "ratio ready"]
    heads += ["storage read, MB", "of the checkpoint"] if cold else []
    heads += [
        "memory of the largest rank, MB",
        "its peak, MB",
        "last start, ms",
        "valid / taken",
        "status",
    ]
    rows = [_row(cell, arm, factor, cold, len(heads)) for arm in cell.arms]
    for loaders, word in ((cell.not_sampled, "missing"), (cell.never_begun, "left out")):
        rows += [[loader, *[word] * (len(heads) - 3), "0 / 0", word] for loader in loaders]
    return pd.DataFrame(rows, columns=heads)


def _row(cell: MeasuredCell, arm: ArmSummary, factor: float, cold: bool, width: int) -> list[str]:
    count = f"{arm.valid} / {arm.total}"
    if arm.ready is None:
        return [cell.label(arm), *["missing"] * (width - 3), count, arm.status]
    times = [spread(estimate, "missing", factor) for estimate in (arm.returned, arm.ready)]
    read = arm.storage_read_bytes
    storage = (
        [megabytes(read), "unknown" if read is None else f"{significant(read / arm.bytes)} times"]
        if cold
        else []
    )
    memory = [megabytes(arm.pss_bytes), megabytes(arm.peak_rss_bytes), _last_start(cell, arm)]
    return [
        cell.label(arm),
        *times,
        ratio_text(cell, arm, arm.ratio_ready),
        *storage,
        *memory,
        count,
        arm.status,
    ]


def _last_start(cell: MeasuredCell, arm: ArmSummary) -> str:
    """Return how long after the first rank the last one began, the median over an arm's valid
    samples, in ms.
    """
    late = [
        max(rank["started_s"] for rank in sample.per_rank)
        for sample in cell.samples
        if sample.valid
        and sample.per_rank
        and (sample.loader, sample.environment) == (arm.loader, arm.environment)
    ]
    return significant(1e3 * statistics.median(late)) if late else "unknown"


def _of_checkpoint(arm: ArmSummary, size: float | None) -> Estimate | None:
    """Return a size as a multiple of the checkpoint, without an interval."""
    return None if size is None else Estimate(size / arm.bytes, None, None, arm.valid)


def _draw(cells: Sequence[MeasuredCell], name: str) -> tuple[Figure, Drawn] | None:
    counts = sorted(
        {
            cell.key.ranks
            for cell in cells
            if cell.key.ranks and cell.key.read_ahead_kb is None and cell.measured()
        }
    )
    if len(counts) < 2:
        return None
    panels: list[tuple[str, str, str, _Value]] = [
        ("Time of the slowest rank, cold", "s (logarithmic)", "cold", lambda arm: arm.ready),
        ("Time of the slowest rank, warm", "s (logarithmic)", "warm", lambda arm: arm.ready),
        (
            "Storage read by all ranks, cold",
            "times the checkpoint",
            "cold",
            lambda arm: _of_checkpoint(arm, arm.storage_read_bytes),
        ),
        (
            "Memory of the largest rank, warm",
            "times the checkpoint",
            "warm",
            lambda arm: _of_checkpoint(arm, arm.pss_bytes),
        ),
    ]
    plain = [cell for cell in cells if cell.key.read_ahead_kb is None]
    panels = [
        panel
        for panel in panels
        if any(
            panel[3](arm)
            for cell in plain
            if cell.cache_state == panel[2]
            for arm in cell.measured()
        )
    ]
    labels = dict(
        sorted({cell.label(arm): arm.loader for cell in cells for arm in cell.measured()}.items())
    )
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(9.2, 0.8 + 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, sharex=True, squeeze=False)
    handles: dict[str, Line2D] = {}
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, unit, state, value) in zip(grid.flat, panels, strict=False):
        axes.set_title(title)
        axes.set_xscale("log", base=2)
        shown = [cell for cell in plain if cell.cache_state == state]
        for number, (label, loader) in enumerate(labels.items()):
            arms = [
                (cell.key.ranks or 0, arm)
                for cell in shown
                for arm in cell.measured()
                if cell.label(arm) == label
            ]
            points = [(ranks, estimate) for ranks, arm in arms if (estimate := value(arm))]
            # A little to each side, so that lines which coincide are all seen; the x scale is
            # logarithmic.
            handles[label] = line(
                axes, points, style_of(loader), unit=1.03 ** (number - (len(labels) - 1) / 2)
            )
        if unit.startswith("s "):
            axes.set_yscale("log")
            plain_log(axes.yaxis)
        else:
            axes.set_ylim(0, 1.15 * axes.dataLim.y1)
        axes.set_ylabel(unit)
        axes.set_xlabel("ranks")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xticks([], minor=True)
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=8
    )
    what = f"{name} over ranks: the cost of each way to load the shares, by number of ranks"
    heading(figure, what)
    reading = (
        "each line is a way to load the shares, each mark is a median, and its bar is the "
        "interval. Where time rises with the ranks, every rank repeats the work. Where storage "
        "rises, bytes are read more than once. Where memory falls, a rank holds only its share"
    )
    return figure, Drawn(
        f"ranks-{slug(name)}.svg",
        f"{what}: time cold and warm, storage and memory, by number of ranks",
        reading,
    )
