"""The part of a page that lays two runs of one machine over each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.analysis.arms import ArmSummary
from harness.analysis.machines import machines_of
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.repeatability import Shared, shared_ratios
from harness.analysis.statistics import Estimate
from harness.report.format import spread
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown

_NONE = (
    "No two runs here measured the same ratio on one machine. A second run of the same cells "
    "would show how well a run repeats."
)


@dataclass(frozen=True)
class _Pair:
    machine: str
    a: RecordedRun
    b: RecordedRun
    shared: list[Shared]

    @property
    def disagreeing(self) -> list[Shared]:
        return [ratio for ratio in self.shared if not ratio.agree]


def agreement_section(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return how two runs of each machine agree, as blocks of Markdown, their figures and tables
    written; regression runs are left aside.

    Of a machine's pairs under one kernel, and then of those under two, one of different days is
    preferred, and then the one that shares the most ratios.
    """
    blocks = [writer.heading("Two runs of one machine")]
    pairs = _pairs([run for run in evidence if not run.paired])
    if not pairs:
        return [*blocks, _NONE]
    for name, pair in pairs.items():
        agreeing = len(pair.shared) - len(pair.disagreeing)
        blocks.append(
            f"Runs [{pair.a.name}]({pair.a.name}.md) and [{pair.b.name}]({pair.b.name}.md) were "
            f"taken on the same machine ({pair.machine}){_when(pair)}. Of {len(pair.shared)} "
            f"ratios that both runs measured with an interval, **{agreeing} agree** "
            f"({100 * agreeing / len(pair.shared):.1f} %): their intervals overlap."
        )
        if pair.disagreeing:
            blocks += ["These ratios do not agree:", markdown(_table(pair))]
        blocks.append(f"As CSV, all ratios: {writer.table(name, _frame(pair))}")
    return blocks


def _pairs(evidence: Sequence[RecordedRun]) -> dict[str, _Pair]:
    """Return of each machine a pair taken under one kernel and one taken under two, as far as there
    are such, by the name of their figure.
    """
    named: dict[str, _Pair] = {}
    for machine in machines_of(evidence):
        pairs = [
            _Pair(machine.name, a, b, shared_ratios(_arms(a), _arms(b)))
            for a, b in itertools.combinations(machine.runs, 2)
            if _alike(a, b)
        ]
        for name, one_kernel in (("agreement", True), ("agreement-other-kernel", False)):
            of_kind = [pair for pair in pairs if pair.shared and _one_kernel(pair) == one_kernel]
            if of_kind:
                number = next(
                    number for number in itertools.count(1) if _numbered(name, number) not in named
                )
                named[_numbered(name, number)] = max(of_kind, key=_preferred)
    return named


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _preferred(pair: _Pair) -> tuple[bool, int, str, str]:
    return _day(pair.a) != _day(pair.b), len(pair.shared), pair.a.name, pair.b.name


def _one_kernel(pair: _Pair) -> bool:
    return len({run.manifest["machine"].get("kernel") for run in (pair.a, pair.b)}) == 1


def _alike(a: RecordedRun, b: RecordedRun) -> bool:
    """Return whether no checkpoint has other content in one run than in the other."""
    theirs = b.manifest.get("checkpoints") or {}
    return all(
        checkpoint.get("digest") == theirs[name].get("digest")
        for name, checkpoint in (a.manifest.get("checkpoints") or {}).items()
        if name in theirs
    )


def _arms(run: RecordedRun) -> list[ArmSummary]:
    return [arm for cell in run.cells for arm in cell.arms]


def _day(run: RecordedRun) -> str:
    return str(run.manifest.get("created_at") or "")[:10]


def _when(pair: _Pair) -> str:
    times = [
        str(run.manifest.get("created_at") or "")[:16].replace("T", " ") for run in (pair.a, pair.b)
    ]
    when = f", on {times[0]} and on {times[1]} (UTC)" if all(times) else ""
    kernels = [str((run.manifest.get("machine") or {}).get("kernel")) for run in (pair.a, pair.b)]
    if _one_kernel(pair):
        return when
    commits = [str((run.manifest.get("git") or {}).get("commit"))[:12] for run in (pair.a, pair.b)]
    return (
        f"{when}, but under kernel {kernels[0]} and {kernels[1]}, by commits {commits[0]} and"
        f" {commits[1]} of this suite"
    )


def _table(pair: _Pair) -> pd.DataFrame:
    rows = [
        (
            str(number),
            ratio.cell,
            ratio.loader,
            ratio.clock,
            spread(ratio.a, ""),
            spread(ratio.b, ""),
        )
        for number, ratio in enumerate(pair.disagreeing, 1)
    ]
    return pd.DataFrame(
        rows,
        columns=[
            "number",
            "cell",
            "loader",
            "clock",
            f"ratio in {pair.a.name}",
            f"ratio in {pair.b.name}",
        ],
    )


def _frame(pair: _Pair) -> pd.DataFrame:
    rows = [
        (ratio.cell, ratio.loader, ratio.clock, *_figures(ratio.a), *_figures(ratio.b), ratio.agree)
        for ratio in pair.shared
    ]
    ratios = [
        f"{name}_{which}"
        for which in ("a", "b")
        for name in ("ratio", "ratio_low", "ratio_high", "pairs")
    ]
    return pd.DataFrame(rows, columns=["cell", "loader", "clock", *ratios, "agree"]).assign(
        run_a=pair.a.name, run_b=pair.b.name
    )


def _figures(estimate: Estimate) -> tuple[float, float | None, float | None, int]:
    return estimate.median, estimate.low, estimate.high, estimate.count
