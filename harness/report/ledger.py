"""The part of a page about the claims: a verdict on each, and under it every test that the verdict follows from."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from harness.report.evidence import Evidence
from harness.report.machines import Machine, machines_of
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.terminal import WIDTH
from harness.report.words import listed, significant, spread
from harness.verdicts.ledger import NOT_TESTED, VERDICTS, Judged, Tested, claims, judge_claims
from harness.verdicts.rules import FAILS, HOLDS, Finding, Recorded

_READING = """
Every statement of the page under test, and of what is known beside it (J), has a row. A verdict follows from its tests by a rule that stands
beside each: the *whole* interval has to lie within the limits, or the test is not told. Where a claim holds under some conditions and not under others,
the verdict names those it holds under. Of several runs the one with most pairs counts, whatever it found. A ratio is taken within blocks.
""".strip()

_HEADLINE = {
    ("C3", 0): "until the call returns",
    ("C3", 1): "until the tensors can be used",
    ("C5", 1): "if the file was not in memory yet",
}
"""What the page's best-known figure is held against: claim and number of its test, in words."""


def recorded(evidence: Sequence[Evidence]) -> list[Recorded]:
    """Return what the rules look at, of every run that is no night: there environments stand side by side."""
    return [Recorded.of(one.name, one.manifest, one.samples, one.checks, one.meetings) for one in evidence if not one.night]


def by_machine(evidence: Sequence[Evidence]) -> list[Machine]:
    """Return the machines of these runs, nights left aside, the one whose runs tell of most tests first, and of as many the one with most samples."""
    return [machine for machine, _ in _judged(evidence)]


def _judged(evidence: Sequence[Evidence]) -> list[tuple[Machine, list[Judged]]]:
    machines = machines_of([one for one in evidence if not one.night])
    found = [(machine, judge_claims(recorded(machine.runs))) for machine in machines]
    return sorted(found, key=lambda one: (-_told(one[1]), -sum(len(run.samples) for run in one[0].runs)))


def _told(judged: Sequence[Judged]) -> int:
    """Return how many tests were told, one way or the other."""
    return sum(tested.finding.outcome in (HOLDS, FAILS) for one in judged for tested in one.tests)


def ledger_section(place: Place, evidence: Sequence[Evidence]) -> list[str]:
    """Return the ledger in Markdown: the verdicts of the machine that most is known of, and those of other machines beside them.

    A machine of which less than a quarter as much is known gets a line and no column.
    """
    machines = [(machine.name, judged) for machine, judged in _judged(evidence)] or [("none", judge_claims([]))]
    judged, elsewhere = _lent(machines)
    blocks = [place.heading("What the page says, and what was found"), f"{counted(judged)} {_READING}"]
    blocks.append(markdown(claims_table(judged, elsewhere)))
    below = [one.name for one in evidence if not one.night and (one.manifest.get("host_cache") or {}).get("likely")]
    if below:
        blocks.append(
            f"In {', '.join(below)} a cache below the machine is likely: cold there means cold in the machine that was measured, and no further."
        )
    much = [(name, found) for name, found in machines if 4 * _told(found) >= _told(judged)]
    if len(much) > 1:
        blocks += [f"The same claims on each machine; above stands {machines[0][0]}:", markdown(_machines_table(much))]
    elif len(machines) > 1:
        blocks.append(f"All of this was found on {machines[0][0]}.")
    for name, found in machines:
        told = [f"{one.claim.id} {one.words}" for one in found if _told([one])]
        if (name, found) not in much and told:
            blocks.append(f"On {name} no more was tested than: {'; '.join(told)}.")
    return blocks


def tests_section(place: Place, evidence: Sequence[Evidence]) -> list[str]:
    """Return every test that the verdicts follow from, in Markdown, with its rule and what was found."""
    judged = judged_here(evidence)
    blocks = [place.heading("Every test of every claim"), markdown(tests_table(judged))]
    return [*blocks, f"In plain figures: {place.table('claims', tests_frame(judged))}"]


def judged_here(evidence: Sequence[Evidence]) -> list[Judged]:
    """Return the verdicts of the machine that most is known of, of claims it could not test another's."""
    machines = [(machine.name, judged) for machine, judged in _judged(evidence)]
    return _lent(machines)[0] if machines else judge_claims([])


def _lent(machines: Sequence[tuple[str, Sequence[Judged]]]) -> tuple[list[Judged], dict[str, str]]:
    """Return each claim's verdict from the first machine that could test it, and which machine that was where it is not the first of all.

    A claim is judged on a machine that has what it needs: one about a GPU by the machine with a GPU, beside the others' verdicts.
    """
    first = list(machines[0][1])
    elsewhere: dict[str, str] = {}
    for number, judged in enumerate(first):
        if judged.verdict == NOT_TESTED:
            able = ((name, other[number]) for name, other in machines[1:] if other[number].verdict != NOT_TESTED)
            if better := next(able, None):
                elsewhere[judged.claim.id], first[number] = better
    return first, elsewhere


def headline(evidence: Sequence[Evidence]) -> str:
    """Return what was found of the page's best-known figure in a sentence, warm by both clocks and cold, and on other machines in another."""
    claim = next(one for one in claims() if one.id == "C3")
    said = f"The page under test says that a pickle takes {claim.figure} times as long to load as safetensors."
    here, *elsewhere = [_of_headline(judged) for _, judged in _judged(evidence)] or [{}]
    if not here:
        return f"{said} Nothing here tells of it yet."
    beside = [listed([found[which] for which in here]) for found in elsewhere if set(here) <= set(found)]
    others = f" On {'another machine' if len(beside) == 1 else 'other machines'} it is {'; '.join(beside)}." if beside else ""
    return f"{said} Here it is {listed([f'{figure} times {_HEADLINE[which]}' for which, figure in here.items()])}.{others}"


def _of_headline(judged: Sequence[Judged]) -> dict[tuple[str, int], str]:
    """Return the figures of the headline's tests, by claim and number of the test; of those that were measured."""
    found = {(one.claim.id, number): tested.finding for one in judged for number, tested in enumerate(one.tests)}
    return {which: significant(figure.median) for which in _HEADLINE if (finding := found.get(which)) and (figure := finding.figure)}


def counted(judged: Sequence[Judged]) -> str:
    """Return how many claims have each verdict, in a sentence."""
    counts = Counter(one.verdict for one in judged)
    told = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    return f"**Of {len(judged)} claims, {told}.**"


def claims_table(judged: Sequence[Judged], elsewhere: Mapping[str, str] = MappingProxyType({})) -> pd.DataFrame:
    """Return a row for each claim: what is said with its figure, the verdict, and what was found, with what that rests on.

    `elsewhere` names the machine of each verdict that is not of the machine the table is about.
    """
    rows = []
    for one in judged:
        said = " ".join(filter(None, (one.claim.says, one.claim.figure_text and f"*{one.claim.figure_text}.*")))
        words = f"**{one.verdict}**{one.words.removeprefix(one.verdict)}"
        left = f" Out of reach: {one.claim.left}." if one.claim.left else ""
        where = f" (on {elsewhere[one.claim.id]})" if one.claim.id in elsewhere else ""
        rows.append(
            [
                one.claim.id,
                f"{said}{f' Said of {one.claim.under}.' if one.claim.under else ''}",
                f"{words}{where}.{left}",
                _figure(one.main),
            ]
        )
    return pd.DataFrame(rows, columns=["id", "what is said", "verdict", "found"])


def _figure(tested: Tested | None) -> str:
    if tested is None:
        return "nothing"
    count, run = _resting(tested.finding)
    return f"**{_found(tested.finding)}**: {tested.test.says} ({count}, [{run}]({run}.md))"


def _found(finding: Finding) -> str:
    if finding.figure is None:
        return finding.short or finding.reason or "nothing"
    return f"{spread(finding.figure, '')} {finding.unit}"


def _resting(finding: Finding) -> list[str]:
    return [f"{finding.count} {finding.of_what}" if finding.count else "nothing", finding.run or "none"]


def tests_table(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return a row for each test: its claim, what is looked at, under which condition, by which rule, and what was found."""
    rows = [
        [
            one.claim.id,
            tested.test.says,
            "decides nothing" if tested.test.aside else tested.test.condition or "always",
            tested.criterion or "all or none",
            _found(tested.finding),
            tested.finding.outcome,
            *_resting(tested.finding),
        ]
        for one in judged
        for tested in one.tests
    ]
    return pd.DataFrame(rows, columns=["id", "test", "if", "asked for", "found", "outcome", "rests on", "run"])


def tests_frame(judged: Sequence[Judged]) -> pd.DataFrame:
    """Return the same rows in plain figures, with the verdict of the claim."""
    return pd.DataFrame(list(_plain(judged)))


def _plain(judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    for one in judged:
        for tested in one.tests:
            found = tested.finding.figure
            yield {
                "claim": one.claim.id,
                "verdict": one.verdict,
                "test": tested.test.says,
                "condition": tested.test.condition,
                "rule": tested.test.rule,
                "asked_for": tested.criterion or None,
                "outcome": tested.finding.outcome,
                "figure": found.median if found else None,
                "low": found.low if found else None,
                "high": found.high if found else None,
                "count": tested.finding.count or None,
                "of_what": tested.finding.of_what or None,
                "run": tested.finding.run,
                "reason": tested.finding.reason,
            }


def _machines_table(machines: Sequence[tuple[str, Sequence[Judged]]]) -> pd.DataFrame:
    columns = {"id": [one.claim.id for one in machines[0][1]]}
    return pd.DataFrame(columns | {name: [one.words if _told([one]) else one.verdict for one in judged] for name, judged in machines})


def ledger_lines(judged: Sequence[Judged], changes: Sequence[tuple[Judged, Judged]] = ()) -> list[str]:
    """Return the ledger as lines of a terminal: each claim, its verdict, its tests; then which verdicts changed, and the count."""
    lines: list[str] = []
    for one in judged:
        lines += _wrapped(f"{one.claim.id}  {one.claim.says}{f' ({one.claim.figure_text})' if one.claim.figure_text else ''}", "    ")
        lines += _wrapped(f"    => {one.words}", "       ")
        for tested in one.tests:
            rests = f" ({', '.join(_resting(tested.finding))})" if tested.finding.count else ""
            asked = f", asked: {tested.criterion}" if tested.criterion else ""
            lines += _wrapped(f"       {tested.finding.outcome}: {tested.test.says}: {_found(tested.finding)}{asked}{rests}", "         ")
    for old, new in changes:
        lines += _wrapped(f"changed from the committed reference: {new.claim.id}: was {old.words}; is {new.words}", "  ")
    return [*lines, *_wrapped(counted(judged).strip("*"), "  ")]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
