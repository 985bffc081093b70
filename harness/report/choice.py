"""Which loader to use when, on the machine that was measured: the fastest to ready of each situation, and what it could not be told from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.report.cells import FULL_LOAD, PIPELINE_LOAD, Cell, not_told_apart, to_take
from harness.report.evidence import Evidence
from harness.report.hostile import hostile_answer
from harness.report.ledger import by_machine
from harness.report.parts import PARTIAL_LOAD
from harness.report.place import Place
from harness.report.shares import SHARDED_LOAD
from harness.report.tables import markdown
from harness.report.words import size_text, time_spread
from harness.verdicts.binding import binds
from harness.verdicts.cells import ArmSummary

_SITUATIONS = {
    FULL_LOAD: "all of it",
    PARTIAL_LOAD: "a part of it",
    SHARDED_LOAD: "each rank its share",
    PIPELINE_LOAD: "a whole pipeline",
}
_PARTS = ("one-tensor", "eighth-rows")
_STATES = {"cold": "first load", "warm": "loaded before"}
_READING = """
The fastest to *ready*, every page of every tensor touched, and every loader that its blocks could not tell from it. Where the safetensors loader that others are held
against is among those, it is the one to take: it is as fast as can be told, and runs no code of a file.
""".strip()


@dataclass(frozen=True)
class Choice:
    """One situation: its cell, the loader to take, and those as fast as can be told, the fastest first."""

    cell: Cell
    run: str
    take: ArmSummary
    alike: tuple[ArmSummary, ...]


def choices(evidence: Iterable[Evidence]) -> list[Choice]:
    """Return a choice for each situation that was measured with intervals; of several runs, from the one with most loaders, then most blocks."""
    best: dict[str, tuple[int, int, str, Cell]] = {}
    for one in evidence:
        for cell in one.cells:
            if not one.night and _asked(cell):
                blocks = len({sample.block for sample in cell.samples if sample.valid})
                found_here = (len(cell.measured()), blocks, one.name, cell)
                best[cell.name] = max(best.get(cell.name, found_here), found_here, key=lambda found: found[:3])
    found = [_choice(cell, run) for _, _, run, cell in best.values()]
    order = list(_SITUATIONS)
    return sorted(
        filter(None, found), key=lambda one: (order.index(one.cell.scenario), one.cell.device, one.cell.bytes or 0, one.cell.name)
    )


def _asked(cell: Cell) -> bool:
    """Return whether a cell stands for a situation: no readahead set for the purpose, and of many parts two."""
    return cell.scenario in _SITUATIONS and cell.key.read_ahead_kb is None and (cell.key.part is None or cell.key.part in _PARTS)


def _choice(cell: Cell, run: str) -> Choice | None:
    alike, take = not_told_apart(cell), to_take(cell)
    return Choice(cell, run, take, tuple(alike)) if take and len(cell.measured()) > 1 and alike[0].status == "measured" else None


def choice_section(place: Place, evidence: Sequence[Evidence]) -> list[str]:
    """Return what to use when, in Markdown, for each machine; a plain line where no situation was measured."""
    blocks = [place.heading("Which loader to use when")]
    machines = [(machine.name, found) for machine in by_machine(evidence) if (found := choices(machine.runs))]
    if not machines:
        return [*blocks, "No situation was measured by two loaders and six blocks or more, so nothing is advised."]
    blocks.append(_READING)
    for name, found in machines:
        blocks += [f"On {name}:"] if len(machines) > 1 else []
        blocks.append(markdown(choice_table(found)))
    answers: dict[str, list[str]] = {}
    for one in evidence:
        if one.meetings and (answer := hostile_answer(one.manifest, one.meetings)):
            answers.setdefault(answer, []).append(one.name)
    for answer, runs in answers.items():
        named = f"run{'s' if len(runs) > 1 else ''} {', '.join(runs)}"
        blocks.append(f"From a source that is not trusted: a loader that runs no code of a file. {answer} ({named})")
    return [*blocks, "For a file of your own: `weighbridge advise PATH`."]


def choice_table(found: Sequence[Choice]) -> pd.DataFrame:
    """Return a row for each choice: the situation, what to take, how long it takes, what it is as fast as, and what binds it."""
    heads = ["checkpoint", "situation", "take", "as fast as can be told", "slowest measured", "what binds", "run"]
    return pd.DataFrame([_row(one) for one in found], columns=heads)


def _row(one: Choice) -> list[str]:
    cell = one.cell
    what = cell.key.part or (f"{cell.key.ranks} rank{'' if cell.key.ranks == 1 else 's'}" if cell.key.ranks else "")
    where = "" if cell.device == "cpu" else f", to {cell.device}"
    others = [cell.label(arm) for arm in one.alike if arm is not one.take]
    slowest = max(cell.measured(), key=lambda arm: arm.ready.median if arm.ready else 0.0)
    return [
        f"{cell.checkpoint}, {size_text(cell.bytes)}",
        f"{_SITUATIONS[cell.scenario]}{f' ({what})' if what else ''}, {_STATES.get(cell.cache_state, cell.cache_state)}{where}",
        f"**{cell.label(one.take)}**, {time_spread(one.take.ready)}",
        ", ".join(others) or "none",
        f"{cell.label(slowest)}, {time_spread(slowest.ready)}",
        binds(one.take) or "not told",
        f"[{one.run}]({one.run}.md)",
    ]
