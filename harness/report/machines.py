"""The part of a page that sets several machines side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.records.manifest import same_machine
from harness.report.cells import FULL_LOAD, Cell
from harness.report.conditions import conditions_table
from harness.report.drawing import INK, PALETTE, STATES, Drawn, grouped_rows, heading, plain_log, room_on_log
from harness.report.evidence import Evidence
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.words import size_text, slug, spread
from harness.verdicts.cells import REFERENCE
from harness.verdicts.statistics import Estimate

_LOADER = "torch-load"
_MARKERS = "osD^vPX"
_TOLD = ("system", "processor", "memory", "GPU", "storage", "readahead", "cold")
"""The conditions that belong to a machine, not to a run."""
_NONE = "No run here tells of its machine."


@dataclass(frozen=True)
class Machine:
    """A machine by a short plain name, with its runs, oldest first."""

    name: str
    runs: tuple[Evidence, ...]


@dataclass(frozen=True)
class _Ratio:
    checkpoint: str
    bytes: int
    device: str
    cache_state: str
    clock: str
    machine: str
    run: str
    found: Estimate


def machines_of(evidence: Sequence[Evidence]) -> list[Machine]:
    """Return the machines of these runs, the one met first standing first; runs that do not tell of theirs are left aside.

    Those that tell the model of their processor come first, so that an older one, which does not, finds the machine it belongs to.
    """
    telling = [one for one in evidence if one.manifest.get("machine") and one.manifest.get("storage")]
    groups: list[list[Evidence]] = []
    for one in sorted(telling, key=lambda one: one.manifest["machine"].get("cpu_model") is None):
        own = next((group for group in groups if any(same_machine(one.manifest, other.manifest) for other in group)), None)
        if own is None:
            groups.append(own := [])
        own.append(one)
    runs = sorted((sorted(group, key=telling.index) for group in groups), key=lambda group: telling.index(group[0]))
    for name in (_short, _with_device, _with_model):
        names = [name(group[-1].manifest) for group in runs]
        if len(set(names)) == len(names):
            return [Machine(name, tuple(group)) for name, group in zip(names, runs, strict=True)]
    return [Machine(f"{name} (number {number})", tuple(group)) for number, (name, group) in enumerate(zip(names, runs, strict=True), 1)]


def machines_section(place: Place, evidence: Sequence[Evidence]) -> list[str]:
    """Return the machines with their runs and, of two or more, the claim's ratio side by side, as blocks of Markdown."""
    machines = machines_of(evidence)
    if not machines:
        return [place.heading("The machines"), _NONE]
    blocks = [place.heading("The machines"), markdown(_conditions(machines))]
    if len(machines) < 2:
        return [*blocks, "A run of another machine would stand beside it here; CONTRIBUTING.md says how to add one."]
    ratios = _ratios(machines)
    if not ratios:
        return [*blocks, f"No two of these machines measured {_LOADER} and {REFERENCE} on the same checkpoint."]
    blocks.append(
        f"How many times as long `{_LOADER}` takes as `{REFERENCE}`, of every checkpoint that two or more of these machines loaded; of a machine's "
        "runs the one with most pairs speaks, and of as many the newest. Times belong to one machine; what may be set beside one another is ratios taken within blocks."
    )
    for device in dict.fromkeys(one.device for one in ratios):
        of_device = [one for one in ratios if one.device == device]
        blocks += [f"**On {device}**", markdown(_table(machines, of_device))]
        blocks += place.figure(lambda of_device=of_device, device=device: _draw(machines, of_device, device))  # type: ignore[misc]
    return [*blocks, f"In plain figures: {place.table('machines', _frame(ratios))}"]


def _short(manifest: Mapping[str, Any]) -> str:
    machine, storage = manifest["machine"], manifest["storage"]
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    parts = [
        machine.get("cpu") or "unknown processor",
        f"{cores} core{'' if cores == 1 else 's'}" if cores else None,
        f"{memory / 1e9:.0f} GB" if memory else None,
        ", ".join(map(str, machine.get("gpus") or [])),
        storage.get("file_system"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _with_device(manifest: Mapping[str, Any]) -> str:
    return f"{_short(manifest)} on {manifest['storage'].get('device') or 'unknown storage'}"


def _with_model(manifest: Mapping[str, Any]) -> str:
    """Return its name with the model of the processor; one that was not told is told apart by its kernel, and so goes by that."""
    machine = manifest["machine"]
    return ", ".join((_short(manifest), machine.get("cpu_model") or f"kernel {machine.get('kernel')}"))


def _conditions(machines: Sequence[Machine]) -> pd.DataFrame:
    """Return a row for each machine: what it is, by its newest run, and its runs."""
    rows = []
    for machine in machines:
        table = conditions_table(machine.runs[-1].manifest)
        found = dict(zip(table["condition"], table["found"], strict=True))
        rows.append([machine.name, *(found[what] for what in _TOLD), ", ".join(one.name for one in machine.runs)])
    return pd.DataFrame(rows, columns=["machine", *_TOLD, "runs"])


def _ratios(machines: Sequence[Machine]) -> list[_Ratio]:
    """Return the claim's ratio of each checkpoint, device, cache state and clock that two or more machines know."""
    known: dict[tuple[Any, ...], dict[str, _Ratio]] = {}
    for machine in machines:
        for one in machine.runs:  # oldest first, so that of as many pairs the newest are what stays
            for cell in one.cells if not one.night else ():
                for clock, found in _of_cell(cell):
                    key = (cell.device, cell.bytes or 0, cell.checkpoint, cell.cache_state, clock)
                    ratio = _Ratio(cell.checkpoint, cell.bytes or 0, cell.device, cell.cache_state, clock, machine.name, one.name, found)
                    of_key = known.setdefault(key, {})
                    if machine.name not in of_key or found.count >= of_key[machine.name].found.count:
                        of_key[machine.name] = ratio
    order = [machine.name for machine in machines]
    return [of_key[name] for key, of_key in sorted(known.items(), key=_sorting) if len(of_key) > 1 for name in order if name in of_key]


def _sorting(entry: tuple[tuple[Any, ...], Any]) -> tuple[Any, ...]:
    (device, size, checkpoint, state, clock), _ = entry
    return device, size, checkpoint, state, clock != "returned"


def _of_cell(cell: Cell) -> list[tuple[str, Estimate]]:
    arm = cell.arm(_LOADER) if cell.scenario == FULL_LOAD else None
    clocks = (("returned", arm.ratio_returned), ("ready", arm.ratio_ready)) if arm else ()
    return [(clock, found) for clock, found in clocks if found]


def _table(machines: Sequence[Machine], ratios: Sequence[_Ratio]) -> pd.DataFrame:
    names = [machine.name for machine in machines if any(one.machine == machine.name for one in ratios)]
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in ratios:
        row = rows.setdefault((one.checkpoint, one.cache_state, one.clock), {})
        row[one.machine] = spread(one.found, "")
    lines = [[*key, *(row.get(name, "not measured") for name in names)] for key, row in rows.items()]
    return pd.DataFrame(lines, columns=["checkpoint", "cache state", "clock", *names])


def _frame(ratios: Sequence[_Ratio]) -> pd.DataFrame:
    rows = [
        (one.machine, one.run, one.device, one.checkpoint, one.bytes, one.cache_state, one.clock, one.found.median, one.found.low,
         one.found.high, one.found.count)
        for one in ratios
    ]  # fmt: skip
    heads = ["machine", "run", "device", "checkpoint", "bytes", "cache_state", "clock", "ratio", "ratio_low", "ratio_high", "pairs"]
    return pd.DataFrame(rows, columns=heads)


def _draw(machines: Sequence[Machine], ratios: Sequence[_Ratio], device: str) -> tuple[Figure, Drawn]:
    states = sorted({one.cache_state for one in ratios})
    names = [machine.name for machine in machines if any(one.machine == machine.name for one in ratios)]
    clocks = [clock for clock in ("returned", "ready") if any(one.clock == clock for one in ratios)]
    groups = {
        f"{checkpoint}, {size_text(size)}": clocks for checkpoint, size in dict.fromkeys((one.checkpoint, one.bytes) for one in ratios)
    }
    height = 1.4 + sum(len(group) * max(0.3, 0.16 * len(names)) + 0.3 for group in groups.values()) + 0.2 * len(names)
    figure = Figure(figsize=(3.6 * len(states) + 1.8, height), layout="constrained")
    grid = list(figure.subplots(1, len(states), sharey=True, squeeze=False)[0])
    for axes, state in zip(grid, states, strict=True):
        axes.set_title(STATES.get(state, state).partition(":")[0])
        axes.set_xscale("log")
        places = grouped_rows(axes, groups)
        axes.axvline(1.0, color="#333333", linewidth=1.0, zorder=1)
        shown = [1.0]
        for one in (one for one in ratios if one.cache_state == state):
            number = names.index(one.machine)
            row = places[f"{one.checkpoint}, {size_text(one.bytes)}", one.clock] + 0.7 * ((number + 0.5) / len(names) - 0.5)
            low, high = one.found.low or one.found.median, one.found.high or one.found.median
            colour = PALETTE[number % len(PALETTE)]
            axes.errorbar(
                one.found.median, row, xerr=[[one.found.median - low], [high - one.found.median]], color=colour,
                marker=_MARKERS[number % len(_MARKERS)], markersize=5, elinewidth=1.2, capsize=2,
                markerfacecolor="white" if one.clock == "returned" else colour,
            )  # fmt: skip
            shown += [low, high]
        room_on_log(axes, shown)
        plain_log(axes.xaxis)
        axes.set_xlabel(
            f"\N{LEFTWARDS ARROW} {_LOADER} faster   |   {REFERENCE} faster \N{RIGHTWARDS ARROW}\nratio of their times (logarithmic)"
        )
    handles = [
        Line2D([], [], color=PALETTE[number % len(PALETTE)], marker=_MARKERS[number % len(_MARKERS)], markersize=5, label=name)
        for number, name in enumerate(names)
    ]
    handles.append(Line2D([], [], color=INK, marker="o", markersize=5, mfc="white", linestyle="", label="hollow: returned, full: ready"))
    figure.legend(handles=handles, loc="outside lower center", ncols=1, fontsize=8)
    what = f"{_LOADER} over {REFERENCE} on {len(names)} machines"
    heading(figure, what)
    reading = (
        f"each mark is a machine; right of the line at 1 {REFERENCE} is the faster one there. Hollow marks go by returned, full ones by ready, and a "
        "bar is the interval."
    )
    file = "machines.svg" if device == "cpu" else f"machines-{slug(device)}.svg"
    return figure, Drawn(file, f"{what}, by checkpoint, cache state and clock, on {device}", reading)
