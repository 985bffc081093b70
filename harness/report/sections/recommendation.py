"""Which loader to use when, on the machine that was measured: the fastest to ready of each
situation, and what it could not be told from.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.bottleneck import bottleneck_of
from harness.analysis.claims import by_machine
from harness.analysis.recommendation import _SITUATIONS, Choice, choices
from harness.analysis.recorded_run import RecordedRun
from harness.report.format import size_text, time_spread
from harness.report.section_writer import SectionWriter
from harness.report.sections.hostile_files import hostile_answer
from harness.report.tables import markdown

_STATES = {"cold": "first load", "warm": "loaded before"}
_READING = """
Each row names the fastest loader to *ready* and every loader that is not measurably slower. *ready*
means that every page of every tensor was touched. Where the reference safetensors loader is among
them, take it: no other is measurably faster, and it runs no code from a file.
""".strip()


def choice_section(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return what to use when, in Markdown, for each machine.

    A plain line where no situation was measured.
    """
    blocks = [writer.heading("Which loader to use when")]
    machines = [
        (machine.name, recommended)
        for machine in by_machine(evidence)
        if (recommended := choices(machine.runs))
    ]
    if not machines:
        return [
            *blocks,
            (
                "No situation was measured with two loaders in at least six blocks, so there is "
                "no advice."
            ),
        ]
    blocks.append(_READING)
    for name, recommended in machines:
        blocks += [f"On {name}:"] if len(machines) > 1 else []
        blocks.append(markdown(choice_table(recommended)))
    answers: dict[str, list[str]] = {}
    for run in evidence:
        if run.trials and (answer := hostile_answer(run.manifest, run.trials)):
            answers.setdefault(answer, []).append(run.name)
    for answer, runs in answers.items():
        named = f"run{'s' if len(runs) > 1 else ''} {', '.join(runs)}"
        blocks.append(
            "From a source that you do not trust, use a loader that runs no code from a file. "
            f"{answer} ({named})"
        )
    return [*blocks, "For a file of your own: `weighbridge advise PATH`."]


def choice_table(choices: Sequence[Choice]) -> pd.DataFrame:
    """Return a row for each choice: the situation, what to take, how long it takes, what it is as
    fast as, and its bottleneck.
    """
    heads = [
        "checkpoint",
        "situation",
        "take",
        "no other is measurably faster",
        "slowest measured",
        "the bottleneck",
        "run",
    ]
    return pd.DataFrame([_row(choice) for choice in choices], columns=heads)


def _row(choice: Choice) -> list[str]:
    cell = choice.cell
    what = cell.key.part or (
        f"{cell.key.ranks} rank{'' if cell.key.ranks == 1 else 's'}" if cell.key.ranks else ""
    )
    where = "" if cell.device == "cpu" else f", to {cell.device}"
    others = [cell.label(arm) for arm in choice.alike if arm is not choice.take]
    slowest = max(cell.measured(), key=lambda arm: arm.ready.median if arm.ready else 0.0)
    return [
        f"{cell.checkpoint}, {size_text(cell.bytes)}",
        (
            f"{_SITUATIONS[cell.scenario]}{f' ({what})' if what else ''},"
            f" {_STATES.get(cell.cache_state, cell.cache_state)}{where}"
        ),
        f"**{cell.label(choice.take)}**, {time_spread(choice.take.ready)}",
        ", ".join(others) or "none",
        f"{cell.label(slowest)}, {time_spread(slowest.ready)}",
        bottleneck_of(choice.take) or "not told",
        f"[{choice.run}]({choice.run}.md)",
    ]
