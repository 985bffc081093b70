"""The part of a page about the claims: a verdict on each, and under it every test that the verdict
follows from.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from harness.analysis.claim_findings import Finding
from harness.analysis.claims import (
    ClaimVerdict,
    JudgedClaim,
    judge_claims,
    judged_here,
    judged_machines,
    with_verdicts_lent,
)
from harness.analysis.recorded_run import RecordedRun
from harness.report.format import spread
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown
from harness.report.terminal import WIDTH
from harness.report.verdict_text import sentence, verdict_line

_READING = """
Each verdict follows from its tests, by the rule shown beside each test. A test is unclear unless
the whole interval of its figure lies within the limits. Where several runs measured it, the run
with the most pairs counts, and of as many the one with most loaders, whatever its figure. Ratios
are taken within blocks.
""".strip()


def ledger_section(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return the ledger in Markdown: the verdicts of the machine with most samples, and where
    those of other machines differ.
    """
    machines = [(machine.name, judged) for machine, judged in judged_machines(evidence)] or [
        ("none", judge_claims([]))
    ]
    judged, elsewhere = with_verdicts_lent(machines)
    blocks = [
        writer.heading("What is claimed, and what was measured"),
        f"{counted(judged)} {_READING}",
        markdown(claims_table(judged, elsewhere)),
    ]
    below = [
        run.name
        for run in evidence
        if not run.paired and (run.manifest.get("host_cache") or {}).get("likely")
    ]
    if below:
        blocks.append(
            f"In {len(below)} of {len(evidence)} runs, a cache below the machine is likely "
            f"({', '.join(below)}). There, cold means cold only inside the machine that was "
            "measured."
        )
    if len(machines) > 1:
        blocks.append(f"A row that names no machine was measured on {machines[0][0]}.")
    if others := other_verdicts(machines, judged, elsewhere):
        blocks += ["On other machines the verdict differs for:", "\n".join(others)]
    return blocks


def other_verdicts(
    machines: Sequence[tuple[str, Sequence[JudgedClaim]]],
    judged: Sequence[JudgedClaim],
    elsewhere: Mapping[str, str],
) -> list[str]:
    """Return a line for each claim on which another machine tested it and came to another verdict
    than the one shown.
    """
    return [
        f"- {shown.claim.id} on {name}: {verdict_line(other[number])}"
        for number, shown in enumerate(judged)
        for name, other in machines
        if name != elsewhere.get(shown.claim.id, machines[0][0])
        and other[number].verdict not in (shown.verdict, ClaimVerdict.NOT_TESTED)
    ]


def tests_section(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return every test that the verdicts follow from, in Markdown, with its rule and what was
    found.
    """
    judged = judged_here(evidence)
    blocks = [writer.heading("Every test of every claim"), markdown(tests_table(judged))]
    return [*blocks, f"As CSV: {writer.table('claims', tests_frame(judged))}"]


def counted(judged: Sequence[JudgedClaim]) -> str:
    """Return how many claims have each verdict, in a sentence."""
    counts = Counter(claim.verdict for claim in judged)
    message = ", ".join(
        f"{verdict}: {counts[verdict]}" for verdict in ClaimVerdict if counts[verdict]
    )
    return f"**Of {len(judged)} claims, {message}.**"


def claims_table(
    judged: Sequence[JudgedClaim], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """Return a row for each claim: what is said with its figure, the verdict, and what was found,
    with what that rests on.

    `elsewhere` names the machine of each verdict that is not of the machine the table is about.
    """
    rows = []
    for claim in judged:
        text = " ".join(
            filter(
                None,
                (claim.claim.says, claim.claim.figure_text and f"*{claim.claim.figure_text}.*"),
            )
        )
        left = f" Out of reach: {claim.claim.left}." if claim.claim.left else ""
        where = f" On {elsewhere[claim.claim.id]}." if claim.claim.id in elsewhere else ""
        rows.append(
            [
                claim.claim.id,
                f"**{claim.verdict}**",
                f"{text}{f' Said of {claim.claim.under}.' if claim.claim.under else ''}",
                f"{sentence(claim)}{where}{left}",
                _evidence(claim),
            ]
        )
    return pd.DataFrame(rows, columns=["id", "verdict", "what is said", "because", "evidence"])


def _evidence(judged: JudgedClaim) -> str:
    """Return on how much a verdict rests, run by run."""
    counts: dict[str, Counter[str]] = {}
    for result in judged.tests:
        if result.finding.run and not result.test.aside:
            counts.setdefault(result.finding.run, Counter())[result.finding.of_what] += (
                result.finding.count
            )
    lines = [
        f"{', '.join(f'{count:,} {what}' for what, count in of_run.items())}, [{run}]({run}.md)"
        for run, of_run in counts.items()
    ]
    return "; ".join(lines) or "none"


def _found(finding: Finding) -> str:
    if finding.figure is None:
        return finding.short or finding.reason or "nothing"
    return f"{spread(finding.figure, '')} {finding.unit}"


def _resting(finding: Finding) -> list[str]:
    return [
        f"{finding.count} {finding.of_what}" if finding.count else "nothing",
        finding.run or "none",
    ]


def tests_table(judged: Sequence[JudgedClaim]) -> pd.DataFrame:
    """Return a row for each test: its claim, what is looked at, under which condition, by which
    rule, and what was found.
    """
    rows = [
        [
            claim.claim.id,
            tested.test.says,
            "decides nothing" if tested.test.aside else tested.test.condition or "always",
            tested.criterion or "all or none",
            _found(tested.finding),
            tested.finding.outcome,
            *_resting(tested.finding),
        ]
        for claim in judged
        for tested in claim.tests
    ]
    return pd.DataFrame(
        rows, columns=["id", "test", "if", "asked for", "found", "outcome", "rests on", "run"]
    )


def tests_frame(judged: Sequence[JudgedClaim]) -> pd.DataFrame:
    """Return the same rows in plain figures, with the verdict of the claim."""
    return pd.DataFrame(list(_plain(judged)))


def _plain(judged: Sequence[JudgedClaim]) -> Iterator[dict[str, Any]]:
    for claim in judged:
        for tested in claim.tests:
            estimate = tested.finding.figure
            yield {
                "claim": claim.claim.id,
                "verdict": claim.verdict,
                "test": tested.test.says,
                "condition": tested.test.condition,
                "rule": type(tested.test).__struct_config__.tag,
                "asked_for": tested.criterion or None,
                "outcome": tested.finding.outcome,
                "figure": estimate.median if estimate else None,
                "low": estimate.low if estimate else None,
                "high": estimate.high if estimate else None,
                "count": tested.finding.count or None,
                "of_what": tested.finding.of_what or None,
                "run": tested.finding.run,
                "reason": tested.finding.reason,
            }


def ledger_lines(
    judged: Sequence[JudgedClaim], changes: Sequence[tuple[JudgedClaim, JudgedClaim]] = ()
) -> list[str]:
    """Return the ledger as lines of a terminal: each claim, its verdict, its tests.

    Then which verdicts changed, and the count.
    """
    lines: list[str] = []
    for claim in judged:
        figure = f" ({claim.claim.figure_text})" if claim.claim.figure_text else ""
        lines += _wrapped(
            f"{claim.claim.id}  {claim.claim.says}{figure}",
            "    ",
        )
        lines += _wrapped(f"    => {verdict_line(claim)}", "       ")
        for tested in claim.tests:
            rests = f" ({', '.join(_resting(tested.finding))})" if tested.finding.count else ""
            request = f", asked: {tested.criterion}" if tested.criterion else ""
            aside = ", decides nothing" if tested.test.aside else ""
            lines += _wrapped(
                f"       {tested.finding.outcome}: {tested.test.says}:"
                f" {_found(tested.finding)}{request}{aside}{rests}",
                "         ",
            )
    for old, new in changes:
        lines += _wrapped(
            f"changed from the committed reference: {new.claim.id}: was {verdict_line(old)}"
            f" Is {verdict_line(new)}",
            "  ",
        )
    return [*lines, *_wrapped(counted(judged).strip("*"), "  ")]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
