"""Tables: frames of plain figures for CSV, and the same rows as a person reads them in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from harness.analysis.arms import COUNTED, ArmSummary
from harness.analysis.bottleneck import bottleneck_of
from harness.analysis.ceilings import is_ceiling
from harness.analysis.overhead import SampleCost, sample_costs
from harness.analysis.run_cells import MeasuredCell, invalid_counts, shortfalls
from harness.analysis.statistics import Estimate
from harness.analysis.time_model import Fit
from harness.records.loader_keys import label_of
from harness.records.sample import REASONS, Sample
from harness.report.format import (
    megabytes,
    ratio_text,
    share_text,
    significant,
    size_text,
    spread,
    time_unit,
)

_ESTIMATES = {
    "returned": "returned_s",
    "ready": "ready_s",
    "module_ready": "module_ready_s",
    "ratio_returned": "ratio_returned",
    "ratio_ready": "ratio_ready",
    "ratio_module_ready": "ratio_module_ready",
}
_SHARES = ("share_of_ceiling", "amplification")


def cell_frame(cell: MeasuredCell, fits: Iterable[Fit] = ()) -> pd.DataFrame:
    """Return one row for each arm of a cell, fastest to `ready` first: times in s, sizes in bytes,
    rates in bytes/s, shares 0 to 1.

    `ceiling` is the one that `share_of_ceiling` is of, and `bottleneck` the bottleneck, told with
    the help of `fits`. Loaders that were left out or never sampled follow, so that every loader
    asked for has its row.
    """
    fits = list(fits)
    rows = [_figures(arm) | {"bottleneck": bottleneck_of(arm, fits)} for arm in cell.arms]
    rows += [
        {"loader": loader, "status": "missing", "total": 0, "valid": 0}
        for loader in cell.not_sampled
    ]
    rows += [
        {"loader": loader, "status": "left out", "total": 0, "valid": 0}
        for loader in cell.never_begun
    ]
    columns = ["loader", "environment", "status", "valid", "total", "requested_bytes"]
    for name in (*_ESTIMATES.values(), *_SHARES):
        columns += [name, _bound(name, "low"), _bound(name, "high")]
    return pd.DataFrame(rows, columns=[*columns, "ceiling", "bottleneck", "bytes_per_s", *COUNTED])


def cell_table(cell: MeasuredCell) -> pd.DataFrame:
    """Return the rows of `cell_frame` as a person reads them: units in the heads, and a word
    wherever there is no figure.
    """
    measured = [arm for arm in cell.arms if arm.ready]
    returned = time_unit(arm.returned.median for arm in measured if arm.returned)
    ready = time_unit(arm.ready.median for arm in measured if arm.ready)
    heads = (
        f"returned, {returned[1]}",
        f"ready, {ready[1]}",
        "ratio returned",
        "ratio ready",
        "GB/s",
        "share of ceiling, %",
        "anonymous, MB",
        "mapped, MB",
        "storage read, MB",
    )
    return arm_table(cell, heads, lambda arm: _words(cell, arm, returned[0], ready[0]))


def gpu_lines(cell: MeasuredCell) -> list[str]:
    """Return what is to be said beside the table of a cell on a GPU: device memory, the link, and
    what host memory misses.
    """
    arms = [arm for arm in cell.measured() if arm.peak_device_bytes is not None]
    if cell.device == "cpu" or not arms:
        return []
    at_least = {
        sample.loader
        for sample in cell.samples
        if sample.valid and sample.peak_device_is_lower_bound
    }
    peaks = [
        f"{cell.label(arm)}"
        f" {'at least ' if arm.loader in at_least else ''}{megabytes(arm.peak_device_bytes)}"
        for arm in arms
    ]
    lines = [
        (
            f"Device memory at its peak, MB: {', '.join(peaks)}. *At least*: the library "
            "allocates outside torch, and memory that it freed before it returned is not counted."
        ),
        (
            "The host memory above does not include pinned memory, which the driver keeps "
            "outside the process's resident size. Do not rank loaders by it here."
        ),
    ]
    links = sorted(
        {
            (sample.pcie_generation, sample.pcie_lanes)
            for sample in cell.samples
            if sample.valid and sample.pcie_generation
        }
    )
    if links:
        lines.append(
            "PCI Express link during the loads:"
            f" {', '.join(f'generation {generation} x{lanes}' for generation, lanes in links)}."
        )
    return lines


def without_figure(arm: ArmSummary) -> str:
    """Return the word that stands in the place of a figure that an arm does not have."""
    return arm.status if arm.wrong or arm.late else "missing"


def arm_table(
    cell: MeasuredCell, heads: Sequence[str], words: Callable[[ArmSummary], list[str]]
) -> pd.DataFrame:
    """Return a row for each loader of a cell, what `words` says of its arm between its name, its
    count and its status.

    `heads` are those of the middle. A word stands in each of its places for a loader without a
    figure, so that every one asked for has its row.
    """
    rows = []
    for arm in cell.arms:
        phrases = words(arm) if arm.ready else [without_figure(arm)] * len(heads)
        rows.append([cell.label(arm), *phrases, f"{arm.valid} / {arm.total}", arm.status])
    for status, loaders in (("missing", cell.not_sampled), ("left out", cell.never_begun)):
        rows += [[loader, *[status] * len(heads), "0 / 0", status] for loader in loaders]
    return pd.DataFrame(rows, columns=["loader", *heads, "valid / taken", "status"])


def first_calls_frame(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return what each loader's first call in a process took, in s, slowest first, in each
    environment.
    """
    calls = [
        (label_of(key), environment, float(seconds))
        for environment, installed in (manifest.get("environments") or {}).items()
        for key, seconds in (installed.get("first_calls") or {}).items()
        if seconds is not None
    ]
    return pd.DataFrame(
        sorted(calls, key=lambda call: (call[1], -call[2], call[0])),
        columns=["loader", "environment", "first_call_s"],
    )


def first_calls_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `first_calls_frame` with the time in ms as text."""
    table = frame[["loader", "environment"]].copy()
    table["first call in a process, ms"] = [
        significant(value * 1e3) for value in frame["first_call_s"]
    ]
    return table


def invalid_frame(samples: Sequence[Sample]) -> pd.DataFrame:
    """Return one row for each reason samples are invalid for: how many, their share of all samples
    (0 to 1), and what the reason means.
    """
    rows = [
        (reason, count, count / len(samples), REASONS.get(reason, "not explained"))
        for reason, count in invalid_counts(samples).items()
    ]
    return pd.DataFrame(rows, columns=["reason", "samples", "share", "meaning"])


def invalid_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `invalid_frame` with the share in per cent as text."""
    return frame.assign(share=[f"{100 * share:.1f} %" for share in frame["share"]])


def costs_frame(samples: Sequence[Sample]) -> pd.DataFrame:
    """Return one row per checkpoint: what its samples cost beyond their loads, medians in s."""
    return pd.DataFrame(
        [asdict(cost) for cost in sample_costs(samples)],
        columns=[field.name for field in fields(SampleCost)],
    )


def costs_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `costs_frame` as text, in ms."""
    rows = [
        [
            row.checkpoint,
            size_text(row.bytes),
            str(row.samples),
            *("-" if pd.isna(value) else significant(value * 1e3) for value in row[3:]),
        ]
        for row in frame.itertuples(index=False)
    ]
    heads = [
        "process, ms",
        "content check, ms",
        "both, ms",
        "setting cold, ms",
        "setting warm, ms",
        "touching memory, ms",
    ]
    return pd.DataFrame(rows, columns=["checkpoint", "size", "samples", *heads])


def shortfall_frame(manifest: Mapping[str, Any], cells: Sequence[MeasuredCell]) -> pd.DataFrame:
    """Return one row for everything the run does not say, with its reason."""
    return pd.DataFrame(shortfalls(manifest, cells), columns=["kind", "what", "reason"])


def csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV with `null` for what is absent, as in `samples.jsonl`."""
    return str(frame.to_csv(index=False, na_rep="null", lineterminator="\n"))


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame of text as a Markdown table.

    Every column but the first is set to the right where all of it are figures.
    """
    heads = [str(column) for column in frame.columns]
    rows = [[_escaped(str(value)) for value in row] for row in frame.itertuples(index=False)]
    numeric = [
        bool(rows)
        and all(row[column].lstrip("-")[:1].isdigit() or row[column] in _ABSENT for row in rows)
        for column in range(len(heads))
    ]
    rule = ["---:" if right and column else "---" for column, right in enumerate(numeric)]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in ([_escaped(head) for head in heads], rule, *rows)
    )


_ABSENT = (
    "missing",
    "wrong",
    "late",
    "left out",
    "no reference",
    "no pairs",
    "no ceiling",
    "ceiling",
    "unknown",
)


def _figures(arm: ArmSummary) -> dict[str, Any]:
    row: dict[str, Any] = {
        name: getattr(arm, name)
        for name in (
            "loader",
            "environment",
            "status",
            "valid",
            "total",
            "requested_bytes",
            "ceiling",
            *COUNTED,
        )
    }
    for field, name in (*_ESTIMATES.items(), *((name, name) for name in _SHARES)):
        estimate: Estimate | None = getattr(arm, field)
        if estimate:
            row |= {
                name: estimate.median,
                _bound(name, "low"): estimate.low,
                _bound(name, "high"): estimate.high,
            }
    return row | {"bytes_per_s": arm.rate}


def _bound(name: str, which: str) -> str:
    stem, unit = (name[:-2], "_s") if name.endswith("_s") else (name, "")
    return f"{stem}_{which}{unit}"


def _words(cell: MeasuredCell, arm: ArmSummary, returned: float, ready: float) -> list[str]:
    return [
        spread(arm.returned, "missing", returned),
        spread(arm.ready, "missing", ready),
        ratio_text(cell, arm, arm.ratio_returned),
        ratio_text(cell, arm, arm.ratio_ready),
        significant((arm.rate or 0.0) / 1e9),
        share_text(arm),
        *(
            megabytes(size)
            for size in (arm.anonymous_bytes, arm.mapped_bytes, arm.storage_read_bytes)
        ),
    ]


def _escaped(text: str) -> str:
    """Return text that stays in its table cell: a reason may hold anything a library's error
    message does.
    """
    return " ".join(text.replace("|", "\\|").split())


def side_by_side(
    tables: Iterable[tuple[str, str, Callable[[ArmSummary], str]]],
    cells: Sequence[MeasuredCell],
    column: Callable[[MeasuredCell], str],
) -> list[str]:
    """Return tables of loaders by cells in Markdown, ceilings last.

    Each is a title, a cache state and what stands in a field.
    """
    blocks: list[str] = []
    for title, state, text in tables:
        of_state = [cell for cell in cells if cell.cache_state == state and cell.measured()]
        labels = sorted(
            {cell.label(arm) for cell in of_state for arm in cell.arms},
            key=lambda label: (is_ceiling(label), label),
        )
        columns = {"loader": labels}
        for cell in of_state:
            arms = {cell.label(arm): arm for arm in cell.arms if arm.ready}
            columns[column(cell)] = [
                text(arms[label]) if label in arms else "missing" for label in labels
            ]
        blocks += [f"{title}:", markdown(pd.DataFrame(columns))] if of_state else []
    return blocks
