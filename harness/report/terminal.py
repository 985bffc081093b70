"""Plain text for a terminal: a cell when it is done, and a run when it ends."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis.arms import ArmSummary
from harness.analysis.memory_limits import FACTORS
from harness.analysis.memory_use import limits_of, without_failed_tries
from harness.analysis.run_cells import MeasuredCell, cells_of, shortfalls
from harness.analysis.statistics import Estimate
from harness.records.sample import Sample
from harness.report.format import (
    bottleneck_text,
    busy_line,
    invalid_line,
    ratio_text,
    share_text,
    significant,
    size_text,
    time_text,
    time_unit,
)
from harness.report.memory_text import HEADS, limit_row
from harness.scenarios import LIMIT, SCENARIOS

WIDTH = 110
_SHORTEST_NAME = 24


def cell_table(samples: Sequence[Sample]) -> str:
    """Return one cell as text of at most 110 columns: a line for each arm, fastest to `ready`
    first, under a line that names the cell.
    """
    if not samples:
        return "no samples"
    cell = cells_of({}, samples)[0]
    if cell.key.searches_limit:
        return _limits_table(cell)
    factor, unit = time_unit(
        time
        for arm in cell.arms
        if arm.ready
        for time in (_median(arm.returned), _median(arm.ready))
    )
    blocks = len({sample.block for sample in cell.samples})
    lines = _wrapped(
        f"{cell.name}: {size_text(cell.bytes)}, {cell.samples[0].tensors} tensors, {blocks} blocks;"
        f" ratios to {cell.pair.reference}"
    )
    if any(not sample.valid for sample in cell.samples):
        lines += _wrapped(invalid_line(cell.samples))
    heads = [
        "loader",
        f"returned {unit}",
        f"ready {unit}",
        *(
            ["ratio ready", "ratio module ready"]
            if _of_models(cell)
            else ["ratio ready [interval]"]
        ),
        *(
            []
            if _of_models(cell)
            else ["read", "% of ceiling"]
            if _amplified(cell)
            else ["GB/s", "% of ceiling"]
        ),
        "valid/taken",
    ]
    if _amplified(cell):
        lines += _wrapped("read: storage bytes over the bytes asked for")
    lines += _columns([heads, *(_row(cell, arm, factor) for arm in cell.arms)])
    return "\n".join([*lines, *_wrapped(bottleneck_text(cell) or "")])


def run_summary(manifest: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return what a run found as text: a line for each cell, then the invalid samples, then
    whatever was not measured and why.
    """
    cells = cells_of(manifest, samples)
    lines = (
        _wrapped(str(manifest["read_ahead_restored"]))
        if manifest.get("read_ahead_restored")
        else []
    )
    for cell in cells:
        if cell.key.searches_limit and cell.samples:
            lines += _limits_table(cell).splitlines()
    timed = [cell for cell in cells if not cell.key.searches_limit]
    for scenario, group in groupby(timed, key=lambda cell: cell.scenario):
        both = scenario in SCENARIOS and SCENARIOS[scenario].shows_returned
        for (over, under), of_pair in groupby(
            group, key=lambda cell: (cell.pair.compared, cell.pair.reference)
        ):
            lines += _wrapped(
                f"{scenario}: fastest loader to ready in each cell, and {over} over {under}"
            )
            heads = [
                "cell",
                "fastest to ready",
                *(["ratio returned"] if both else []),
                "ratio ready",
                "blocks",
                "stopped",
            ]
            lines += _columns([heads, *(_outcome(cell, both) for cell in of_pair)])
    lines += [] if cells else ["no cell was begun"]
    for name, checkpoint in (manifest.get("checkpoints") or {}).items():
        for note in checkpoint.get("notes") or ():
            lines += _wrapped(f"{name}: {note}")
    lines += _wrapped(busy_line(manifest, samples) or "")
    lines += _wrapped(invalid_line(without_failed_tries(samples)))
    for kind, what, reason in shortfalls(manifest, cells):
        lines += _wrapped(f"{kind}: {what}: {reason}")
    return "\n".join(lines)


def _limits_table(cell: MeasuredCell) -> str:
    lines = _wrapped(
        f"{cell.name}: {size_text(cell.bytes)}, {len(cell.samples)} loads; the smallest memory"
        " limit that each loader loads with, and its time to ready by limit"
    )
    table = [HEADS, *(limit_row(row, "-") for row in limits_of(cell))]
    width = len(HEADS) if cell.key.part == LIMIT else len(HEADS) - len(FACTORS)
    return "\n".join(lines + _columns([row[:width] for row in table]))


def _row(cell: MeasuredCell, arm: ArmSummary, factor: float) -> list[str]:
    name, count = cell.label(arm), f"{arm.valid}/{arm.total}"
    if not arm.ready or not arm.returned:
        return [name, *[arm.status] * (4 if _of_models(cell) else 5), count]
    last = [
        (
            (significant(arm.amplification.median) if arm.amplification else "unknown")
            if _amplified(cell)
            else significant((arm.rate or 0.0) / 1e9)
        ),
        share_text(arm, interval=False),
    ]
    return [
        name,
        significant(arm.returned.median * factor),
        significant(arm.ready.median * factor),
        ratio_text(cell, arm, arm.ratio_ready, dash="-"),
        *([ratio_text(cell, arm, arm.ratio_module_ready, dash="-")] if _of_models(cell) else last),
        count,
    ]


def _of_models(cell: MeasuredCell) -> bool:
    """Return whether a cell's loaders made models, which have a third clock."""
    return any(arm.module_ready for arm in cell.arms)


def _amplified(cell: MeasuredCell) -> bool:
    """Return whether what storage gave for the bytes asked for is the cell's first figure."""
    return cell.cache_state == "cold" and cell.key.part is not None


def _outcome(cell: MeasuredCell, both: bool) -> list[str]:
    """Return a cell's line.

    The ratio by *returned* only where the two clocks differ, which private memory does not let
    them.
    """
    name = cell.key.what.removesuffix("/cpu").replace("/cpu/", "/")
    clocks = ("ratio_returned", "ratio_ready") if both else ("ratio_ready",)
    fastest = next(iter(cell.measured()), None)
    if fastest is None or fastest.ready is None:
        return [
            name,
            *[(cell.reason or "missing").partition(":")[0]] * (1 + len(clocks)),
            str(cell.record.get("blocks") or 0),
            "-",
        ]
    pickle = cell.arm(cell.pair.compared)
    ratios = [
        ratio_text(cell, pickle, getattr(pickle, clock), dash="-") if pickle else "missing"
        for clock in clocks
    ]
    blocks = len({sample.block for sample in cell.samples})
    return [
        name,
        f"{cell.label(fastest)} {time_text(fastest.ready.median)}",
        *ratios,
        str(blocks),
        cell.record.get("stopped") or "-",
    ]


def _median(estimate: Estimate | None) -> float | None:
    return estimate.median if estimate else None


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, the first column to the left and shortened where it must be, the others
    to the right.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    first = min(widths[0], max(WIDTH - sum(2 + width for width in widths[1:]), _SHORTEST_NAME))
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(width=first, no_wrap=True, overflow="ellipsis")
    for width in widths[1:]:
        table.add_column(width=width, no_wrap=True, justify="right")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(file=StringIO(), width=first + sum(2 + width for width in widths[1:]) + 2)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]
