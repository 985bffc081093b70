"""A verdict as a sentence: each side of the claim with its answer and the figure that matters.

A test's `reads` may name what follows; every figure is the tests' median, a range of several:

- `speed`: how fast the second loader is relative to the first: "36 times as fast", "26 % slower".
  In per cent, whichever is slower takes that much longer;
- `slowness`: how slow the first is relative to the second: "8.8 times as slow";
- `times`, `share`, `time`, `loads`: a multiple, a percentage, a time, a number of loads;
- `hits`, `total`, `of_what`, `counted`: of a count, added up over the tests of the side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from harness.analysis.claim_findings import LimitedTest, RuleOutcome
from harness.analysis.claims import Answer, ClaimVerdict, JudgedClaim, JudgedTest, Side
from harness.analysis.statistics import Estimate
from harness.report.format import listed

_FASTER, _SLOWER = 1.5, 2.0
"""From these ratios on a speed is told as a multiple, below them in per cent."""
_WORDS = 18
"""A sentence of more words than this is told in two."""
NO_DIFFERENCE = "no measurable difference"


def sentence(judged: JudgedClaim) -> str:
    """Return what a verdict rests on: a phrase for each side, such as `Warm: yes, 36 times as
    fast; cold: no, 26 % slower.`, or why the claim was not tested.

    More than two sides, or long ones, have a sentence each.
    """
    sides = [side for side in judged.sides if side.answer != Answer.NOT_MEASURED]
    if judged.verdict == ClaimVerdict.NOT_TESTED and not sides:
        phrases = list(judged.reasons) or ["no run here measured it"]
    else:
        phrases = [_phrase(side) for side in judged.sides]
    if len(phrases) > 2 or sum(len(phrase.split()) for phrase in phrases) > _WORDS:
        return " ".join(f"{_capital(phrase)}." for phrase in phrases)
    return f"{_capital('; '.join(phrases))}."


def verdict_line(judged: JudgedClaim) -> str:
    """Return the verdict and its sentence on one line."""
    return f"{judged.verdict}. {sentence(judged)}"


def speed_text(estimates: Sequence[Estimate], invert: bool = False) -> str:
    """Return ratios of times as the speed of what was divided by; inverted, of what was divided.

    An interval that holds 1 is no measurable difference. Of several ratios a range is told.
    """
    if all(
        estimate.low is not None
        and estimate.high is not None
        and estimate.low <= 1 <= estimate.high
        for estimate in estimates
    ):
        return NO_DIFFERENCE
    ratios = sorted(1 / estimate.median if invert else estimate.median for estimate in estimates)
    least, most = ratios[0], ratios[-1]
    if least >= 1:
        return (
            f"{_range(ratios, number)} times as fast"
            if most >= _FASTER
            else f"{_range(ratios, lambda ratio: number(100 * (ratio - 1)))} % faster"
        )
    if most <= 1:
        longer = [1 / most, 1 / least]
        return (
            f"{_range(longer, number)} times as slow"
            if longer[1] >= _SLOWER
            else f"{_range(longer, lambda ratio: number(100 * (ratio - 1)))} % slower"
        )
    return f"{number(least)} to {number(most)} times as fast"


def comparison(
    subject: str, ratio: Estimate, other: str, mark: str = "", invert: bool = False
) -> str:
    """Return as a clause how fast a subject is beside another, `mark` around the figure.

    `ratio` is the other's time over the subject's; inverted, the subject's over the other's.
    """
    text = speed_text([ratio], invert)
    if text == NO_DIFFERENCE:
        return f"{subject} and {other} show {mark}{text}{mark}"
    join = "as" if text.startswith(tuple("0123456789")) and "times" in text else "than"
    return f"{subject} is {mark}{text}{mark} {join} {other}"


def number(value: float) -> str:
    """Return a number for prose: two significant figures, all before the point from 100 on."""
    if value >= 100 or not math.isfinite(value):
        return f"{value:,.0f}"
    rounded = float(f"{value:.1e}")
    if rounded == 0:
        return "0"
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(abs(rounded))))}f}".removesuffix(".0")


def share_range(shares: Sequence[float]) -> str:
    """Return the smallest and the largest of several shares in per cent, `all` if each is 1."""
    low, high = (number(100 * share) for share in (min(shares), max(shares)))
    if min(shares) == 1:
        return "all"
    return f"{low} %" if low == high else f"{low} to {high} %"


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _holds_one(estimate: Estimate) -> bool:
    low, high = estimate.low, estimate.high
    return low is not None and high is not None and low <= 1 <= high


def _phrase(side: Side) -> str:
    if side.answer == Answer.NOT_MEASURED:
        return f"{side.name}: {side.answer}"
    answer, figure = str(side.answer), _figure(side)
    if side.answer == Answer.YES and all(map(_of_likeness, side.tests)) and figure != NO_DIFFERENCE:
        return f"{side.name}: yes, alike ({figure})"
    if figure == NO_DIFFERENCE:
        return f"{side.name}: {figure}"
    small = side.answer == Answer.NO and all(map(_short_of, side.tests)) and figure[:1].isdigit()
    only = "only " if small else ""
    return f"{side.name}: {answer}, {only}{figure}" if figure else f"{side.name}: {answer}"


def _of_likeness(result: JudgedTest) -> bool:
    """Return whether a test asks that two be alike."""
    test = result.test
    return isinstance(test, LimitedTest) and test.at_least is not None and test.at_most is not None


def _short_of(result: JudgedTest) -> bool:
    """Return whether a gain is there and is less than the claim asks for."""
    figure, test = result.finding.figure, result.test
    return (
        isinstance(test, LimitedTest)
        and test.at_most is None
        and figure is not None
        and figure.low is not None
        and figure.low > 1
        and result.finding.outcome == RuleOutcome.FAILS
    )


def _figure(side: Side) -> str:
    """Return the figures of a side's tests as their first test reads them."""
    measured = [
        result for result in side.tests if result.finding.outcome != RuleOutcome.NOT_MEASURED
    ]
    estimates = [figure for result in measured if (figure := result.finding.figure)]
    counts = [result.finding for result in measured if result.finding.hits is not None]
    places: dict[str, str] = {}
    if estimates:
        medians = [estimate.median for estimate in estimates]
        if min(medians) > 0:  # a share of memory may be nought, and has no speed
            places |= {
                "speed": speed_text(estimates),
                "slowness": speed_text(estimates, invert=True),
            }
        places |= {
            "times": f"{_range(medians, multiple)} times",
            "share": _share(max(medians)),
            "time": _range(medians, prose_time),
            "loads": f"{_range(medians, number)} loads",
        }
    if counts:
        places |= {
            "hits": f"{sum(finding.hits or 0 for finding in counts):,}",
            "total": f"{sum(finding.count for finding in counts):,}",
            "of_what": counts[0].of_what,
            "counted": listed(list(dict.fromkeys(finding.counted for finding in counts))),
        }
    if not places:
        return "; ".join(dict.fromkeys(result.finding.short for result in measured))
    return measured[0].test.phrase.format_map(places)


def _range(values: Sequence[float], text: Callable[[float], str]) -> str:
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low} to {high}"


def multiple(value: float) -> str:
    """Return a multiple for prose: two significant figures, and one after the point below 10."""
    text = number(value)
    return f"{text}.0" if value < 10 and "." not in text and text != "0" else text


def prose_time(seconds: float) -> str:
    """Return a time in s with two significant figures and the unit that suits it."""
    return f"{multiple(seconds)} s" if seconds >= 1 else f"{multiple(seconds * 1e3)} ms"


def _share(value: float) -> str:
    return "under 0.1 %" if abs(value) < 0.001 else f"{number(100 * value)} %"
