"""Which loader for my case: every whole load as data for the chooser, and as one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from operator import attrgetter
from typing import Any

from harness.analysis.arms import ArmSummary, paired_ratios
from harness.analysis.bottleneck import bottleneck_of
from harness.analysis.claims import by_machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, to_take
from harness.analysis.shaped_storage import words_of
from harness.analysis.statistics import estimate
from harness.report.format import size_text
from harness.report.front.names import CALLS, plain
from harness.report.verdict_text import multiple, prose_time
from harness.scenarios import AS_IS, FULL_LOAD, PIPELINE_LOAD, STORAGE

STATES = {"cold": "no, first load", "warm": "yes, in memory"}
_WHOLE = (FULL_LOAD, PIPELINE_LOAD, STORAGE)
"""The scenarios that load everything."""
_DIGITS = 4
"""Significant figures of what the page's data holds."""


@dataclass(frozen=True)
class Case:
    """One case that was measured: a cell of one machine's run."""

    machine: str
    run: str
    storage: str
    cell: MeasuredCell


def cases(evidence: Sequence[RecordedRun]) -> list[Case]:
    """Return every case with two loaders or more, largest files last, one run for each.

    Of several runs of a machine the one with most loaders speaks, then the one with most blocks.
    """
    best: dict[tuple[Any, ...], tuple[tuple[int, int, str], Case]] = {}
    for machine in by_machine(evidence):
        for run in machine.runs:
            for cell in run.cells:
                if cell.scenario not in _WHOLE or cell.key.part or len(cell.measured()) < 2:
                    continue
                case = Case(machine.name, run.name, _storage(cell, run), cell)
                blocks = len({sample.block for sample in cell.samples if sample.valid})
                rank = (len(cell.measured()), blocks, run.name)
                key = (machine.name, cell.checkpoint, cell.cache_state, cell.device, case.storage)
                if key not in best or rank > best[key][0]:
                    best[key] = (rank, case)
    order = {machine.name: place for place, machine in enumerate(by_machine(evidence))}
    return sorted(
        (case for _, case in best.values()),
        key=lambda case: (
            case.cell.bytes or 0,
            case.cell.checkpoint,
            case.storage,
            case.cell.cache_state,
            case.cell.device,
            order[case.machine],
        ),
    )


def data(chosen: Sequence[Case], first: str | None) -> str:
    """Return the cases as compact JSON, `first` the checkpoint that is chosen at the beginning.

    Of each loader: name, median to ready and its interval in s, peak memory in bytes, samples, and
    the places of the slower loaders that its blocks cannot tell from it. Fastest first.
    """
    machines = list(dict.fromkeys(case.machine for case in chosen))
    runs = list(dict.fromkeys(case.run for case in chosen))
    storages = list(dict.fromkeys(case.storage for case in chosen))
    loaders = list(dict.fromkeys(arm.loader for case in chosen for arm in case.cell.measured()))
    content = {
        "machines": machines,
        "runs": runs,
        "storages": storages,
        "states": STATES,
        "loaders": [[loader, plain(loader), CALLS.get(loader)] for loader in loaders],
        "start": next(
            (
                place
                for place, case in enumerate(chosen)
                if (case.cell.checkpoint, case.cell.cache_state) == (first, "warm")
            ),
            0,
        ),
        "cells": [
            {
                "size": case.cell.bytes,
                "label": f"{size_text(case.cell.bytes)} ({case.cell.checkpoint})",
                "state": case.cell.cache_state,
                "device": case.cell.device,
                "storage": storages.index(case.storage),
                "machine": machines.index(case.machine),
                "run": runs.index(case.run),
                "reference": case.cell.pair.reference,
                "bottleneck": bottleneck_of(case.cell.measured()[0]),
                "arms": _arms(case.cell, loaders),
            }
            for case in chosen
        ],
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def table(chosen: Sequence[Case], run_link: Callable[[str], str]) -> str:
    """Return the cases as rows of a table in HTML: the case, what to take, and what that costs."""
    heads = ("case", "take", "ready", "peak memory", "as fast", "measured on")
    rows = "".join(_row(case, heads, run_link) for case in chosen)
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(case: Case, heads: Sequence[str], run_link: Callable[[str], str]) -> str:
    cell = case.cell
    take = to_take(cell)
    if take is None or take.ready is None:
        return ""
    alike = [plain(arm.loader) for arm in _alike(cell, take) if arm is not take]
    device = "" if cell.device == "cpu" else f", to {cell.device}"
    where = f"{size_text(cell.bytes)}, {cell.cache_state}, {case.storage}{device}"
    short = case.machine.partition(":")[0]
    cells = (
        escape(f"{where} ({cell.checkpoint})"),
        f"<b>{escape(plain(take.loader))}</b>",
        prose_time(take.ready.median),
        _multiple(take),
        escape(", ".join(alike) or "none"),
        f"{escape(short)}, {run_link(case.run)}",
    )
    return "<tr>" + "".join(map(_labelled, heads, cells)) + "</tr>"


def _labelled(head: str, content: str) -> str:
    return f'<td data-label="{head}"><div>{content}</div></td>'


def _multiple(arm: ArmSummary) -> str:
    if arm.peak_growth_bytes is None:
        return "not recorded"
    return f"{multiple(arm.peak_growth_bytes / arm.bytes)} times the file"


def _storage(cell: MeasuredCell, run: RecordedRun) -> str:
    """Return where the files lay, in words a reader can choose by."""
    key = cell.key
    where = "local disk" if key.storage == AS_IS else words_of(key.storage, run.manifest)
    where = where.removeprefix("your own (").removesuffix(")") if "your own" in where else where
    ahead = key.read_ahead_kb
    return where if ahead is None else f"{where}, readahead {ahead} KiB"


def _arms(cell: MeasuredCell, loaders: Sequence[str]) -> list[list[Any]]:
    arms = cell.measured()
    rows = []
    for place, arm in enumerate(arms):
        assert arm.ready is not None
        slower = [
            place + 1 + step
            for step, other in enumerate(arms[place + 1 :])
            if not _told_apart(cell, other, arm)
        ]
        rows.append(
            [
                loaders.index(arm.loader),
                _rounded(arm.ready.median),
                _rounded(arm.ready.low),
                _rounded(arm.ready.high),
                arm.peak_growth_bytes and int(arm.peak_growth_bytes),
                arm.ready.count,
                slower,
            ]
        )
    return rows


def _alike(cell: MeasuredCell, fastest: ArmSummary) -> list[ArmSummary]:
    """Return the arms that the blocks of a cell cannot tell from one of them."""
    return [
        arm
        for arm in cell.measured()
        if not _told_apart(cell, arm, fastest) and not _told_apart(cell, fastest, arm)
    ]


def _told_apart(cell: MeasuredCell, slower: ArmSummary, faster: ArmSummary) -> bool:
    """Return whether the whole interval of the ratio of two arms lies above 1."""
    ratio = estimate(paired_ratios(cell.valid(slower), cell.valid(faster), attrgetter("ready_s")))
    return ratio is not None and ratio.low is not None and ratio.low > 1.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
