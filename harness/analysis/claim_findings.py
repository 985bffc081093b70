"""A test of a claim, and what judging it by one run finds.

Each rule is a record of its own keys in `claims.toml`. An unknown key, a missing one or a missing
limit is an error when the file is read: a limit that nobody reads would let any figure hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from string import Formatter
from typing import Any, Literal

import msgspec

from harness.analysis.arms import by_cell
from harness.analysis.statistics import Estimate
from harness.records.cell import MINIMUM_BLOCKS, Cell
from harness.records.checks import Check
from harness.records.sample import Sample
from harness.records.trials import Trial


class RuleOutcome(StrEnum):
    """How one test of a claim ends."""

    HOLDS = "holds"
    FAILS = "does not"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Limits:
    """Where the whole interval of a figure has to lie, and that in words.

    One of the two is given.
    """

    at_least: float | None
    at_most: float | None
    words: str

    def __post_init__(self) -> None:
        """Refuse limits that any figure would meet."""
        if self.at_least is None and self.at_most is None:
            raise ValueError("no limit, so that any figure would hold")

    def judge(self, figure: Estimate) -> RuleOutcome:
        """Return whether the whole interval lies within the limits, all of it outside, or
        neither.
        """
        if figure.low is None or figure.high is None:
            return RuleOutcome.NOT_MEASURED
        least, most = self.at_least, self.at_most
        if (most is None or figure.high <= most) and (least is None or figure.low >= least):
            return RuleOutcome.HOLDS
        beyond = (most is not None and figure.low > most) or (
            least is not None and figure.high < least
        )
        return RuleOutcome.FAILS if beyond else RuleOutcome.INCONCLUSIVE


@dataclass(frozen=True)
class Finding:
    """What one test found: whether it holds, its figure with the interval, on how many of what it
    rests, and in which run.
    """

    outcome: RuleOutcome
    figure: Estimate | None = None
    count: int = 0
    of_what: str = ""
    run: str | None = None
    unit: str = ""
    """Of the figure: times, s, or loads."""
    short: str = ""
    """What was found in a few words."""
    hits: int | None = None
    """Of a count: how many of `count` ended as `counted` says."""
    counted: str = ""
    reason: str | None = None
    """Why nothing was measured."""


@dataclass(frozen=True)
class Recorded:
    """What a run holds that rules look at."""

    run: str
    manifest: Mapping[str, Any]
    cells: Mapping[str, Sequence[Sample]]
    """Its samples by the name of their cell."""
    checks: Sequence[Check] = ()
    trials: Sequence[Trial] = ()

    @classmethod
    def of(
        cls,
        run: str,
        manifest: Mapping[str, Any],
        samples: Iterable[Sample],
        checks: Sequence[Check] = (),
        trials: Sequence[Trial] = (),
    ) -> Recorded:
        """Return what a run recorded, its samples put to their cells."""
        return cls(
            run,
            manifest,
            {cell.name: of_cell for cell, of_cell in by_cell(samples).items()},
            checks,
            trials,
        )


class ClaimTest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule"
):
    """One test of a claim. Its subclass is its rule, and holds what the rule is told."""

    says: str
    measure: str
    """What takes its samples: the name of a `measure` in `claims.toml`."""
    side: str | None = None
    """What it looks at, in a few words; tests with the same side share a phrase of the verdict."""
    reads: str | None = None
    """How that phrase gives the figure, None for the rule's own way: a text with names of
    `PLACES`.
    """
    condition: str | None = None
    """Under which condition it holds or not; None where the claim needs it always."""
    aside: bool = False
    """Whether it is shown beside the others and decides nothing."""
    headline: Literal["returned", "ready", "first load"] | None = None
    """Which figure of the index page's first sentences it gives, None where it gives none."""

    @property
    def phrase(self) -> str:
        """How a verdict's sentence gives its figure: `reads`, or its rule's own way."""
        return self.reads or "{hits} of {total} {of_what} {counted}"

    @property
    def name(self) -> str:
        """What a verdict's sentence calls it."""
        return self.side or self.condition or self.says

    def criterion(self, figure: float | None) -> str:
        """Return in words what is asked of the figure; `figure` is the claim's own."""
        return "all or none"

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return what a run says of this test."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Refuse a `reads` that names what there is not."""
        check_reads(self.reads)


PLACES = (
    "speed",
    "slowness",
    "times",
    "share",
    "time",
    "loads",
    "hits",
    "total",
    "of_what",
    "counted",
)
"""What a `reads` may name. `speed` is that of the second loader relative to the first, `slowness`
that of the first relative to the second.
"""


def check_reads(reads: str | None) -> None:
    """Raise `ValueError` where a `reads` names what there is not."""
    named = {name for _, name, _, _ in Formatter().parse(reads or "") if name is not None}
    if unknown := sorted(named - set(PLACES)):
        raise ValueError(f"reads names {', '.join(unknown)}; there are: {', '.join(PLACES)}")


class LimitedTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test whose figure has limits."""

    at_least: float | None = None
    at_most: float | None = None
    gain: bool = False
    """Asks for half of the gain that the claim's figure is over 1: machines differ."""

    def __post_init__(self) -> None:
        """Refuse a test without a limit."""
        check_reads(self.reads)
        if self.at_least is None and self.at_most is None and not self.gain:
            raise ValueError(
                "no limit, so any figure would hold; it needs at_least, at_most or gain"
            )

    def limits(self, figure: float | None) -> Limits:
        """Return the limits of the figure."""
        if self.gain:
            if figure is None:
                raise ValueError("a test that asks for the gain needs the claim's figure")
            least = 1 + (figure - 1) / 2
            return Limits(
                least, self.at_most, f"at least {least:.3g}, half the gain of {figure:.3g}"
            )
        words = [
            f"{name} {limit:.3g}"
            for name, limit in (("at least", self.at_least), ("at most", self.at_most))
            if limit is not None
        ]
        return Limits(self.at_least, self.at_most, " and ".join(words))

    def criterion(self, figure: float | None) -> str:
        """Return the limits in words."""
        return self.limits(figure).words


def within_limits(
    run: Recorded, figure: Estimate | None, limits: Limits, of_what: str, unit: str
) -> Finding:
    """Return the finding that a figure gives by its limits, not measured where it has no interval.

    `of_what` and `unit` are the words for what was counted and for the figure.
    """
    if figure is None or figure.low is None or figure.high is None:
        count = figure.count if figure else 0
        return Finding(
            RuleOutcome.NOT_MEASURED,
            reason=f"{count} {of_what} in {run.run}, and at least {MINIMUM_BLOCKS} are needed",
        )
    short = f"{figure.median:.3g} {unit} [{figure.low:.3g}\u2013{figure.high:.3g}]"
    return Finding(limits.judge(figure), figure, figure.count, of_what, run.run, unit, short)


def counted(run: Recorded, holds: bool, count: int, total: int, of_what: str, what: str) -> Finding:
    """Return the finding that `count` of `total` things were `what`."""
    return Finding(
        RuleOutcome.HOLDS if holds else RuleOutcome.FAILS,
        None,
        total,
        of_what,
        run.run,
        short=f"{count} of {total} {of_what} {what}",
        hits=count,
        counted=what,
    )


def nothing_measured(run: Recorded, cell: str, count: int) -> Finding:
    """Return the finding that a cell has too little, with the reason that the run recorded."""
    entries = [
        entry
        for entry in run.manifest.get("cells") or ()
        if (known := Cell.recorded(entry)) and known.name == cell
    ]
    reasons = [str(entry["reason"]) for entry in entries if entry.get("reason")]
    few = f"{count} of it in {run.run}, and at least {MINIMUM_BLOCKS} are needed" if count else None
    return Finding(RuleOutcome.NOT_MEASURED, reason=next(iter(reasons), few))
