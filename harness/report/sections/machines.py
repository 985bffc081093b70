"""The part of a page that sets several machines side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.arms import REFERENCE
from harness.analysis.machines import Machine, machines_of
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate
from harness.report.figures.style import (
    INK,
    PALETTE,
    STATES,
    Drawn,
    grouped_rows,
    heading,
    plain_log,
    room_on_log,
)
from harness.report.format import size_text, slug, spread
from harness.report.section_writer import SectionWriter
from harness.report.sections.environment import conditions_table
from harness.report.tables import markdown
from harness.scenarios import FULL_LOAD

_LOADER = "torch-load"
_MARKERS = "osD^vPX"
_TOLD = ("system", "processor", "memory", "GPU", "storage", "readahead", "cold")
"""The conditions that belong to a machine, not to a run."""
_NONE = "No run here describes its machine."


@dataclass(frozen=True)
class _Ratio:
    checkpoint: str
    bytes: int
    device: str
    cache_state: str
    clock: str
    machine: str
    run: str
    estimate: Estimate


def machines_section(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return the machines with their runs and, of two or more, the claim's ratio side by side, as
    blocks of Markdown.
    """
    machines = machines_of(evidence)
    if not machines:
        return [writer.heading("The machines"), _NONE]
    blocks = [writer.heading("The machines"), markdown(_conditions(machines))]
    if len(machines) < 2:
        return [
            *blocks,
            (
                "Only one machine was measured so far. CONTRIBUTING.md says how to add a run of "
                "another one."
            ),
        ]
    ratios = _ratios(machines)
    if not ratios:
        return [
            *blocks,
            f"No two of these machines measured {_LOADER} and {REFERENCE} on the same checkpoint.",
        ]
    blocks.append(
        f"The time of `{_LOADER}` divided by the time of `{REFERENCE}`, for every checkpoint that "
        "two or more machines loaded. Where a machine has several runs, the run with the most "
        "pairs counts, and the newest of equals. Do not compare times between machines. Compare "
        "ratios that were taken within blocks."
    )
    for device in dict.fromkeys(ratio.device for ratio in ratios):
        of_device = [ratio for ratio in ratios if ratio.device == device]
        blocks += [f"**On {device}**", markdown(_table(machines, of_device))]
        blocks += writer.figure(partial(_draw, machines, of_device, device))
    return [*blocks, f"As CSV: {writer.table('machines', _frame(ratios))}"]


def _conditions(machines: Sequence[Machine]) -> pd.DataFrame:
    """Return a row for each machine: what it is, by its newest run, and its runs."""
    rows = []
    for machine in machines:
        table = conditions_table(machine.runs[-1].manifest)
        conditions = dict(zip(table["condition"], table["found"], strict=True))
        rows.append(
            [
                machine.name,
                *(conditions[what] for what in _TOLD),
                ", ".join(run.name for run in machine.runs),
            ]
        )
    return pd.DataFrame(rows, columns=["machine", *_TOLD, "runs"])


def _ratios(machines: Sequence[Machine]) -> list[_Ratio]:
    """Return the claim's ratio of each checkpoint, device, cache state and clock that two or more
    machines know.
    """
    known: dict[tuple[Any, ...], dict[str, _Ratio]] = {}
    for machine in machines:
        for run in machine.runs:  # oldest first, so that of as many pairs the newest are what stays
            for cell in run.cells if not run.paired else ():
                for clock, estimate in _of_cell(cell):
                    key = (cell.device, cell.bytes or 0, cell.checkpoint, cell.cache_state, clock)
                    ratio = _Ratio(
                        cell.checkpoint,
                        cell.bytes or 0,
                        cell.device,
                        cell.cache_state,
                        clock,
                        machine.name,
                        run.name,
                        estimate,
                    )
                    of_key = known.setdefault(key, {})
                    if (
                        machine.name not in of_key
                        or estimate.count >= of_key[machine.name].estimate.count
                    ):
                        of_key[machine.name] = ratio
    order = [machine.name for machine in machines]
    return [
        of_key[name]
        for key, of_key in sorted(known.items(), key=_sorting)
        if len(of_key) > 1
        for name in order
        if name in of_key
    ]


def _sorting(entry: tuple[tuple[Any, ...], Any]) -> tuple[Any, ...]:
    (device, size, checkpoint, state, clock), _ = entry
    return device, size, checkpoint, state, clock != "returned"


def _of_cell(cell: MeasuredCell) -> list[tuple[str, Estimate]]:
    arm = cell.arm(_LOADER) if cell.scenario == FULL_LOAD else None
    clocks = (("returned", arm.ratio_returned), ("ready", arm.ratio_ready)) if arm else ()
    return [(clock, estimate) for clock, estimate in clocks if estimate]


def _table(machines: Sequence[Machine], ratios: Sequence[_Ratio]) -> pd.DataFrame:
    names = [
        machine.name for machine in machines if any(pair.machine == machine.name for pair in ratios)
    ]
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for ratio in ratios:
        row = rows.setdefault((ratio.checkpoint, ratio.cache_state, ratio.clock), {})
        row[ratio.machine] = spread(ratio.estimate, "")
    lines = [
        [*key, *(row.get(name, "not measured") for name in names)] for key, row in rows.items()
    ]
    return pd.DataFrame(lines, columns=["checkpoint", "cache state", "clock", *names])


def _frame(ratios: Sequence[_Ratio]) -> pd.DataFrame:
    rows = [
        (
            ratio.machine,
            ratio.run,
            ratio.device,
            ratio.checkpoint,
            ratio.bytes,
            ratio.cache_state,
            ratio.clock,
            ratio.estimate.median,
            ratio.estimate.low,
            ratio.estimate.high,
            ratio.estimate.count,
        )
        for ratio in ratios
    ]
    heads = [
        "machine",
        "run",
        "device",
        "checkpoint",
        "bytes",
        "cache_state",
        "clock",
        "ratio",
        "ratio_low",
        "ratio_high",
        "pairs",
    ]
    return pd.DataFrame(rows, columns=heads)


def _draw(
    machines: Sequence[Machine], ratios: Sequence[_Ratio], device: str
) -> tuple[Figure, Drawn]:
    states = sorted({pair.cache_state for pair in ratios})
    names = [
        machine.name for machine in machines if any(pair.machine == machine.name for pair in ratios)
    ]
    clocks = [
        clock for clock in ("returned", "ready") if any(pair.clock == clock for pair in ratios)
    ]
    groups = {
        f"{checkpoint}, {size_text(size)}": clocks
        for checkpoint, size in dict.fromkeys((pair.checkpoint, pair.bytes) for pair in ratios)
    }
    height = (
        1.4
        + sum(len(group) * max(0.3, 0.16 * len(names)) + 0.3 for group in groups.values())
        + 0.2 * len(names)
    )
    figure = Figure(figsize=(3.6 * len(states) + 1.8, height), layout="constrained")
    grid = list(figure.subplots(1, len(states), sharey=True, squeeze=False)[0])
    for axes, state in zip(grid, states, strict=True):
        axes.set_title(STATES.get(state, state).partition(":")[0])
        axes.set_xscale("log")
        places = grouped_rows(axes, groups)
        axes.axvline(1.0, color="#333333", linewidth=1.0, zorder=1)
        shown = [1.0]
        for ratio in (pair for pair in ratios if pair.cache_state == state):
            number = names.index(ratio.machine)
            row = places[f"{ratio.checkpoint}, {size_text(ratio.bytes)}", ratio.clock] + 0.7 * (
                (number + 0.5) / len(names) - 0.5
            )
            low, high = (
                ratio.estimate.low or ratio.estimate.median,
                ratio.estimate.high or ratio.estimate.median,
            )
            colour = PALETTE[number % len(PALETTE)]
            axes.errorbar(
                ratio.estimate.median,
                row,
                xerr=[[ratio.estimate.median - low], [high - ratio.estimate.median]],
                color=colour,
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5,
                elinewidth=1.2,
                capsize=2,
                markerfacecolor="white" if ratio.clock == "returned" else colour,
            )
            shown += [low, high]
        room_on_log(axes, shown)
        plain_log(axes.xaxis)
        axes.set_xlabel(
            f"\N{LEFTWARDS ARROW} {_LOADER} faster   |   {REFERENCE} faster"
            f" \N{RIGHTWARDS ARROW}\nratio of their times (logarithmic)"
        )
    handles = [
        Line2D(
            [],
            [],
            color=PALETTE[number % len(PALETTE)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            label=name,
        )
        for number, name in enumerate(names)
    ]
    handles.append(
        Line2D(
            [],
            [],
            color=INK,
            marker="o",
            markersize=5,
            mfc="white",
            linestyle="",
            label="hollow: returned, full: ready",
        )
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=1, fontsize=8)
    what = f"{_LOADER} over {REFERENCE} on {len(names)} machines"
    heading(figure, what)
    reading = (
        f"each mark is a machine. To the right of the line at 1, {REFERENCE} is faster. A hollow "
        "mark is *returned*, a full mark is *ready*, and a bar is the interval"
    )
    file = "machines.svg" if device == "cpu" else f"machines-{slug(device)}.svg"
    return figure, Drawn(
        file, f"{what}, by checkpoint, cache state and clock, on {device}", reading
    )
