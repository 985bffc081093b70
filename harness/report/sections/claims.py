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

from harness.analysis.claim_rules import Finding
from harness.analysis.claims import (
    ClaimVerdict,
    JudgedClaim,
    JudgedTest,
    _judged,
    _lent,
    _told,
    claims,
    judge_claims,
    judged_here,
)
from harness.analysis.recorded_run import RecordedRun
from harness.report.format import listed, significant, spread
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown
from harness.report.terminal import WIDTH

_READING = """
Every statement of the page under test, of what is known beside it (J), and of the field's bug
reports (F), has a row. A verdict
follows from its tests by a rule that stands beside each: the *whole* interval has to lie within the
limits, or the test is not told. Where a claim holds under some conditions and not under others, the
verdict names those it holds under. Of several runs the one with most pairs counts, whatever it
found. A ratio is taken within blocks.
""".strip()


def ledger_section(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return the ledger in Markdown: the verdicts of the machine that most is known of, and those
    of other machines beside them.

    A machine of which less than a quarter as much is known gets a line and no column.
    """
    machines = [(machine.name, judged) for machine, judged in _judged(evidence)] or [
        ("none", judge_claims([]))
    ]
    judged, elsewhere = _lent(machines)
    blocks = [
        writer.heading("What the page says, and what was found"),
        f"{counted(judged)} {_READING}",
    ]
    blocks.append(markdown(claims_table(judged, elsewhere)))
    below = [
        run.name
        for run in evidence
        if not run.paired and (run.manifest.get("host_cache") or {}).get("likely")
    ]
    if below:
        blocks.append(
            f"In {', '.join(below)} a cache below the machine is likely: cold there means cold in"
            " the machine that was measured, and no further."
        )
    much = [(name, claims) for name, claims in machines if 4 * _told(claims) >= _told(judged)]
    if len(much) > 1:
        blocks += [
            f"The same claims on each machine; above stands {machines[0][0]}:",
            markdown(_machines_table(much)),
        ]
    elif len(machines) > 1:
        blocks.append(f"All of this was found on {machines[0][0]}.")
    for name, claim in machines:
        notes = [
            f"{judged_claim.claim.id} {judged_claim.words}"
            for judged_claim in claim
            if _told([judged_claim])
        ]
        if (name, claim) not in much and notes:
            blocks.append(f"On {name} no more was tested than: {'; '.join(notes)}.")
    return blocks


def tests_section(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return every test that the verdicts follow from, in Markdown, with its rule and what was
    found.
    """
    judged = judged_here(evidence)
    blocks = [writer.heading("Every test of every claim"), markdown(tests_table(judged))]
    return [*blocks, f"In plain figures: {writer.table('claims', tests_frame(judged))}"]


def headline(evidence: Sequence[RecordedRun]) -> str:
    """Return in two sentences what was measured of the page's best-known figure, here and on other
    machines.
    """
    claim = next(claim for claim in claims() if any(test.headline for test in claim.tests))
    opening = (
        f"The page under test says that a pickle takes {claim.figure} times as long to load as"
        " safetensors."
    )
    here, *elsewhere = [_of_headline(judged) for _, judged in _judged(evidence)] or [{}]
    if not here:
        return f"{opening} Nothing here tells of it yet."
    beside = [
        listed([figures[words] for words in here])
        for figures in elsewhere
        if set(here) <= set(figures)
    ]
    others = (
        f" On {'another machine' if len(beside) == 1 else 'other machines'} it is"
        f" {'; '.join(beside)}."
        if beside
        else ""
    )
    return (
        f"{opening} Here it is"
        f" {listed([f'{figure} times {words}' for words, figure in here.items()])}.{others}"
    )


def _of_headline(judged: Sequence[JudgedClaim]) -> dict[str, str]:
    """Return the figures of the headline's tests that were measured, by the words that the headline
    has for each.
    """
    tests = [result for claim in judged for result in claim.tests if result.test.headline]
    return {
        str(result.test.headline): significant(figure.median)
        for result in tests
        if (figure := result.finding.figure)
    }


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
        words = f"**{claim.verdict}**{claim.words.removeprefix(claim.verdict)}"
        if claim.claim.id.startswith("F"):
            words += f" (*{claim.replication}*)"
        left = f" Out of reach: {claim.claim.left}." if claim.claim.left else ""
        where = f" (on {elsewhere[claim.claim.id]})" if claim.claim.id in elsewhere else ""
        rows.append(
            [
                claim.claim.id,
                f"{text}{f' Said of {claim.claim.under}.' if claim.claim.under else ''}",
                f"{words}{where}.{left}",
                _figure(claim.main),
            ]
        )
    return pd.DataFrame(rows, columns=["id", "what is said", "verdict", "found"])


def _figure(tested: JudgedTest | None) -> str:
    if tested is None:
        return "nothing"
    count, run = _resting(tested.finding)
    return f"**{_found(tested.finding)}**: {tested.test.says} ({count}, [{run}]({run}.md))"


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


def _machines_table(machines: Sequence[tuple[str, Sequence[JudgedClaim]]]) -> pd.DataFrame:
    columns = {"id": [claim.claim.id for claim in machines[0][1]]}
    return pd.DataFrame(
        columns
        | {
            name: [claim.words if _told([claim]) else claim.verdict for claim in judged]
            for name, judged in machines
        }
    )


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
        lines += _wrapped(f"    => {claim.words}", "       ")
        for tested in claim.tests:
            rests = f" ({', '.join(_resting(tested.finding))})" if tested.finding.count else ""
            request = f", asked: {tested.criterion}" if tested.criterion else ""
            lines += _wrapped(
                f"       {tested.finding.outcome}: {tested.test.says}:"
                f" {_found(tested.finding)}{request}{rests}",
                "         ",
            )
    for old, new in changes:
        lines += _wrapped(
            f"changed from the committed reference: {new.claim.id}: was {old.words}; is"
            f" {new.words}",
            "  ",
        )
    return [*lines, *_wrapped(counted(judged).strip("*"), "  ")]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
