"""The claims as cards: what is said, the verdict, one sentence, a drawing, and the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from harness.analysis.claim_findings import LimitedTest, RuleOutcome
from harness.analysis.claims import (
    Answer,
    ClaimVerdict,
    JudgedClaim,
    JudgedTest,
    Side,
    judge_claims,
    judged_machines,
    with_verdicts_lent,
)
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.statistics import Estimate
from harness.report.format import spread
from harness.report.verdict_text import sentence, verdict_line

KINDS = {
    ClaimVerdict.HOLDS: "ok",
    ClaimVerdict.PARTLY: "part",
    ClaimVerdict.DOES_NOT: "no",
    ClaimVerdict.NOT_TESTED: "none",
}
"""The class by which the style sheet knows each verdict."""
_ANSWERS = {Answer.YES: "ok", Answer.NO: "no", Answer.IN_PART: "part", Answer.UNCLEAR: "none"}
_OUTCOMES = {RuleOutcome.HOLDS: "ok", RuleOutcome.FAILS: "no"}


@dataclass(frozen=True)
class Deck:
    """All claims with the verdicts that are shown, and those of every other machine."""

    judged: tuple[JudgedClaim, ...]
    machine: str
    """The machine of every verdict that `elsewhere` does not name."""
    elsewhere: Mapping[str, str]
    others: Mapping[str, Sequence[tuple[str, JudgedClaim]]]
    """Of each claim the verdicts of other machines that tested it."""

    @property
    def tally(self) -> dict[ClaimVerdict, int]:
        """How many claims have each verdict, none left out that has one."""
        counts = {
            verdict: sum(claim.verdict == verdict for claim in self.judged)
            for verdict in ClaimVerdict
        }
        return {verdict: count for verdict, count in counts.items() if count}


def deck(evidence: Sequence[RecordedRun]) -> Deck:
    """Return the claims as the page shows them."""
    machines = [(machine.name, judged) for machine, judged in judged_machines(evidence)] or [
        ("no machine", judge_claims([]))
    ]
    judged, elsewhere = with_verdicts_lent(machines)
    others = {
        shown.claim.id: [
            (name, claims[place])
            for name, claims in machines
            if name != elsewhere.get(shown.claim.id, machines[0][0])
            and claims[place].verdict != ClaimVerdict.NOT_TESTED
        ]
        for place, shown in enumerate(judged)
    }
    return Deck(tuple(judged), machines[0][0], elsewhere, others)


def cards(of: Deck, inline: Callable[[str], str], run_link: Callable[[str], str]) -> str:
    """Return every claim as a card, in HTML.

    `inline` turns a line of Markdown into HTML, `run_link` the name of a run into a link.
    """
    return "".join(_card(of, judged, inline, run_link) for judged in of.judged)


def _card(
    of: Deck, judged: JudgedClaim, inline: Callable[[str], str], run_link: Callable[[str], str]
) -> str:
    claim, kind = judged.claim, KINDS[judged.verdict]
    quoted = "; ".join(filter(None, (claim.figure_text, claim.under and f"of {claim.under}")))
    said = f'<p class="said">{inline(f"Said: {quoted}.")}</p>' if quoted else ""
    where = of.elsewhere.get(claim.id)
    measured = f'<p class="where">Measured on {escape(where)}.</p>' if where else ""
    left = f'<p class="where">Out of reach: {inline(claim.left)}.</p>' if claim.left else ""
    return (
        f'<article class="card {kind}" id="claim-{claim.id}">'
        f'<p class="top"><span class="badge {kind}">{judged.verdict}</span>'
        f'<a class="id" href="#claim-{claim.id}">{claim.id}</a></p>'
        f"<h3>{inline(claim.says)}</h3>{said}<p>{inline(sentence(judged))}</p>{measured}"
        f"{_strips(judged)}{_evidence(of, judged, inline, run_link)}{left}</article>"
    )


def _evidence(
    of: Deck, judged: JudgedClaim, inline: Callable[[str], str], run_link: Callable[[str], str]
) -> str:
    tests = [result for result in judged.tests if result.finding.run]
    if not tests:
        return ""
    lines = "".join(f"<li>{_test(result, inline, run_link)}</li>" for result in tests)
    others = "".join(
        f"<li>{escape(name)}: {inline(verdict_line(other))}</li>"
        for name, other in of.others.get(judged.claim.id, ())
    )
    beside = f"<p>Other machines:</p><ul>{others}</ul>" if others else ""
    return (
        f"<details><summary>Evidence: {_resting(tests)}</summary>"
        f"<ul>{lines}</ul>{beside}<p>Said in: {inline(judged.claim.where)}.</p></details>"
    )


def _resting(tests: Sequence[JudgedTest]) -> str:
    counts: dict[str, int] = {}
    for result in tests:
        what = result.finding.of_what
        counts[what] = counts.get(what, 0) + result.finding.count
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _test(result: JudgedTest, inline: Callable[[str], str], run_link: Callable[[str], str]) -> str:
    finding, test = result.finding, result.test
    figure = f"{spread(finding.figure, '')} {finding.unit}" if finding.figure else finding.short
    asked = f" Asked for: {escape(result.criterion)}." if isinstance(test, LimitedTest) else ""
    aside = " It decides nothing." if test.aside else ""
    kind = _OUTCOMES.get(finding.outcome, "none")
    return (
        f'<b class="{kind}">{finding.outcome}</b>: {inline(test.says)}: {escape(figure)}.{asked}'
        f"{aside} {finding.count:,} {finding.of_what}, {run_link(finding.run or '')}."
    )


# The drawing: each side's interval on a scale of ratios, beside what is said


def _strips(judged: JudgedClaim) -> str:
    """Return the interval of each side against what is said; of counts, the share."""
    sides = [side for side in judged.sides if side.answer != Answer.NOT_MEASURED]
    ratios = [(side, figures) for side in sides if (figures := _ratios(side))]
    if not ratios:
        return ""
    said = judged.claim.figure
    values = [1.0, *([said] if said else [])]
    values += [
        bound
        for _, figures in ratios
        for figure in figures
        for bound in (figure.low, figure.high)
        if bound
    ]
    scale = _Scale(min(values), max(values))
    marks = f'<em style="left:{scale.place(1.0)}%"></em>'
    if said:
        marks += f'<u style="left:{scale.place(said)}%"></u>'
    rows = "".join(
        f'<div class="strip"><span>{escape(side.name.replace("`", ""))}</span>'
        f'<span class="ax {_ANSWERS.get(side.answer, "none")}">{marks}'
        f"{''.join(map(scale.mark, figures))}</span></div>"
        for side, figures in ratios
    )
    key = f"line: no difference; dashed: said, {said:g} times" if said else "line: no difference"
    return f'<div class="strips" aria-hidden="true">{rows}<p class="key">{key}</p></div>'


def _ratios(side: Side) -> list[Estimate]:
    return [
        figure
        for result in side.tests
        if (figure := result.finding.figure)
        and result.finding.unit == "times"
        and figure.low is not None
        and figure.low > 0.01
    ]


@dataclass(frozen=True)
class _Scale:
    """A logarithmic scale across, with room at both ends."""

    least: float
    most: float

    def place(self, value: float) -> str:
        """Return where a ratio lies, in per cent to a tenth."""
        span = max(math.log10(self.most / self.least), 0.1)
        return f"{4 + 92 * math.log10(value / self.least) / span:.1f}"

    def mark(self, figure: Estimate) -> str:
        """Return an interval with its median."""
        low, high = (float(self.place(bound)) for bound in (figure.low or 1, figure.high or 1))
        return (
            f'<b style="left:{low:.1f}%;width:{high - low:.1f}%"></b>'
            f'<s style="left:{self.place(figure.median)}%"></s>'
        )
