"""Whether a candidate loads slower than a baseline, from pairs of samples of the same blocks of one
run: a verdict, and its reason.

Pure functions. The two clocks are judged by the exact interval of the median ratio; beside them
stand counters, which are quiet where time is noisy: one that grows is a regression even where time
cannot tell.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter

from harness.analysis.arms import Paired, paired_ratios, wrong
from harness.analysis.statistics import Estimate, estimate
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.late_storage import late_loads


class Verdict(StrEnum):
    """What the regression check says of one arm."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"
    AMBIGUOUS = "ambiguous"
    INSUFFICIENT = "insufficient"
    MISSING = "missing"


CLOCKS = ("returned_s", "ready_s")


@dataclass(frozen=True)
class Counter:
    """A low-noise metric: a field of a sample, by which share of itself it may grow, and how little
    of it counts for nothing.
    """

    name: str
    share: float
    least: float
    """In the field's own unit: growth below it is the noise of an allocator or of a page more or
    less.
    """


SAFE_WARM, SAFE_COLD, SAFE_SHAPED = 0.10, 0.30, 0.05
"""By which share a clock may grow on a machine without a calibration."""
BASELINE_GONE = "baseline"
"""The metric of a missing arm whose baseline is what is missing."""

COUNTERS = (
    Counter("cpu_s", 0.25, 0.002),
    Counter("storage_read_bytes", 0.05, 1 << 20),
    Counter("minor_faults", 0.25, 256.0),
    Counter("peak_growth_bytes", 0.10, 4 << 20),
)


@dataclass(frozen=True)
class Thresholds:
    """By which share `ready` and `returned` may differ before it is a change.

    From this machine comparing a thing with itself.
    """

    clocks: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(CLOCKS, 0.10))
    counters: tuple[Counter, ...] = COUNTERS
    main: str = "ready_s"
    """The clock that decides on faster and on same."""


@dataclass(frozen=True)
class Change:
    """What pairs of samples say of one arm of one cell, and by which metric."""

    verdict: Verdict
    reason: str
    metric: str | None
    """The field that decided, None where none could."""
    ratio: Estimate | None
    """Candidate over baseline to `ready`, within blocks."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Of what is slower every field that says so, the clocks first, with its words."""


def change(
    baseline: Sequence[Paired],
    candidate: Sequence[Paired],
    thresholds: Thresholds | None = None,
    confirming: Container[str] = (),
) -> Change:
    """Return the verdict on one arm of one cell from the samples of both environments in the same
    blocks.

    `missing` where either has no valid sample or handed back wrong tensors, `insufficient` below 6
    pairs. `slower` needs the whole interval of a clock's median ratio beyond its threshold, or that
    of a counter; `faster` the same below, with no metric against it; `same` the whole interval of
    `ready` within; all else is `ambiguous`. Nothing is a regression before fresh pairs agree
    (`confirmed`): they are fewer, and of a clock that has told it already (`confirming`) the median
    must lie beyond the threshold and the whole interval above 1.
    """
    limits = thresholds or Thresholds()
    for name, samples in (("the baseline", baseline), ("the candidate", candidate)):
        if problem := wrong(samples):
            return Change(Verdict.MISSING, f"{name} returned wrong tensors: {problem}", None, None)
        if not any(sample.valid for sample in samples):
            return Change(
                Verdict.MISSING,
                f"{name} has no valid sample",
                BASELINE_GONE if samples is baseline else None,
                None,
            )
        if late := late_loads(samples):
            return Change(
                Verdict.INSUFFICIENT,
                f"the server of the shaped storage was late in {late} of {len(samples)} loads of"
                f" {name.removeprefix('the ')}",
                None,
                None,
            )
    if always := _always_first(baseline, candidate):
        return Change(
            Verdict.INSUFFICIENT,
            f"{always} came first in every block, so drift within a block would look like a change",
            None,
            None,
        )
    ratios = {
        clock: estimate(paired_ratios(candidate, baseline, attrgetter(clock)))
        for clock in limits.clocks
    }
    clock, name = limits.main, limits.main.removesuffix("_s")
    main = ratios[clock]
    if main is None or main.low is None or main.high is None:
        count = main.count if main else 0
        return Change(
            Verdict.INSUFFICIENT, f"{count} pairs, {MINIMUM_BLOCKS} make an interval", None, main
        )
    if reasons := _slower(ratios, limits, confirming) | _grown(baseline, candidate, limits):
        metric, reason = next(iter(reasons.items()))
        return Change(Verdict.SLOWER, reason, metric, main, reasons)
    limit = 1 + limits.clocks[clock]
    if main.high < 1 / limit:
        return Change(
            Verdict.FASTER,
            f"{name} takes {main.median:.3g} times as long, the whole interval below"
            f" {1 / limit:.3g}",
            clock,
            main,
        )
    if main.low >= 1 / limit and main.high <= limit:
        return Change(
            Verdict.SAME,
            f"the whole interval of {name} lies between {1 / limit:.3g} and {limit:.3g}",
            clock,
            main,
        )
    return Change(
        Verdict.AMBIGUOUS,
        f"the interval of {name}, {main.low:.3g} to {main.high:.3g}, crosses a threshold",
        clock,
        main,
    )


def confirmed(first: Change, fresh: Change) -> Change:
    """Return a change after fresh pairs of its cell alone: only what is slower by the same metric
    twice is; else it is ambiguous.
    """
    if first.verdict != Verdict.SLOWER:
        return first
    if metric := next((name for name in first.reasons if name in fresh.reasons), None):
        return Change(
            Verdict.SLOWER,
            f"{fresh.reasons[metric]}; fresh pairs confirm it",
            metric,
            fresh.ratio,
            fresh.reasons,
        )
    return Change(
        Verdict.AMBIGUOUS,
        f"{first.reason}, but fresh pairs say {fresh.verdict}: {fresh.reason}",
        first.metric,
        fresh.ratio,
    )


def _always_first(baseline: Sequence[Paired], candidate: Sequence[Paired]) -> str | None:
    """Return which side came first in every block of one run that has both, where there are enough
    to tell that from chance, or None.
    """
    base = {(sample.run, sample.block): sample.position for sample in baseline if sample.valid}
    later = [
        sample.position > base[at]
        for sample in candidate
        if sample.valid and (at := (sample.run, sample.block)) in base
    ]
    same = [
        sample.position == base[at]
        for sample in candidate
        if sample.valid and (at := (sample.run, sample.block)) in base
    ]
    if len(later) < 2 * MINIMUM_BLOCKS or any(same) or len(set(later)) > 1:
        return None
    return "the baseline" if later[0] else "the candidate"


def _slower(
    ratios: Mapping[str, Estimate | None], thresholds: Thresholds, confirming: Container[str]
) -> dict[str, str]:
    """Return the clocks that are slower, each with the words for it."""
    reasons = {}
    for clock in sorted(thresholds.clocks, key=lambda clock: clock != thresholds.main):
        estimate, limit, name = (
            ratios[clock],
            1 + thresholds.clocks[clock],
            clock.removesuffix("_s"),
        )
        if estimate is None or estimate.low is None:
            continue
        if estimate.low > limit:
            reasons[clock] = (
                f"{name} takes {estimate.median:.3g} times as long, the whole interval above"
                f" {limit:.3g}"
            )
        elif clock in confirming and estimate.low > 1 and estimate.median > limit:
            reasons[clock] = (
                f"{name} takes {estimate.median:.3g} times as long, beyond {limit:.3g}, the whole"
                " interval above 1"
            )
    return reasons


def _grown(
    baseline: Sequence[Paired], candidate: Sequence[Paired], thresholds: Thresholds
) -> dict[str, str]:
    """Return the counters whose growth within blocks is told from their threshold, each with the
    words for it.
    """
    reasons = {}
    for counter in thresholds.counters:
        grown = _growth(baseline, candidate, counter.name)
        base = estimate(
            [
                value
                for sample in baseline
                if sample.valid and (value := getattr(sample, counter.name)) is not None
            ]
        )
        if (
            grown
            and grown.low is not None
            and base
            and grown.low > max(counter.least, counter.share * base.median)
        ):
            reasons[counter.name] = (
                f"{counter.name} grew by {grown.median:.4g} over {base.median:.4g}, the whole"
                " interval beyond its threshold"
            )
    return reasons


def _growth(baseline: Sequence[Paired], candidate: Sequence[Paired], name: str) -> Estimate | None:
    """Return the estimate of candidate less baseline of a field within blocks."""
    base = {sample.block: getattr(sample, name) for sample in baseline if sample.valid}
    pairs = (
        (getattr(sample, name), base.get(sample.block)) for sample in candidate if sample.valid
    )
    return estimate(
        [after - before for after, before in pairs if after is not None and before is not None]
    )
