"""Whether a candidate loads slower than a baseline, from pairs of samples of the same blocks of one run: a verdict, and its reason.

Pure functions. The two clocks are judged by the exact interval of the median ratio; beside them stand counters, which are quiet where time
is noisy: one that grows is a regression even where time cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.measure.experiment import MINIMUM_BLOCKS
from harness.measure.sample import Sample
from harness.verdicts.cells import paired_ratios, wrong
from harness.verdicts.statistics import Estimate, estimate

SLOWER, FASTER, SAME, AMBIGUOUS, INSUFFICIENT, MISSING = VERDICTS = ("slower", "faster", "same", "ambiguous", "insufficient", "missing")
CLOCKS = ("returned_s", "ready_s")


@dataclass(frozen=True)
class Counter:
    """A quiet witness: a field of a sample, by which share of itself it may grow, and how little of it counts for nothing."""

    name: str
    share: float
    least: float
    """In the field's own unit: growth below it is the noise of an allocator or of a page more or less."""


COUNTERS = (
    Counter("cpu_s", 0.25, 0.002),
    Counter("storage_read_bytes", 0.05, 1 << 20),
    Counter("minor_faults", 0.25, 256.0),
    Counter("peak_growth_bytes", 0.10, 4 << 20),
)


@dataclass(frozen=True)
class Thresholds:
    """By which share `ready` and `returned` may differ before it is a change; from this machine comparing a thing with itself."""

    clocks: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(CLOCKS, 0.10))
    counters: tuple[Counter, ...] = COUNTERS


@dataclass(frozen=True)
class Change:
    """What pairs of samples say of one arm of one cell, and by which witness."""

    verdict: str
    reason: str
    witness: str | None
    """The field that decided, None where none could."""
    ratio: Estimate | None
    """Candidate over baseline to `ready`, within blocks."""


def change(baseline: Sequence[Sample], candidate: Sequence[Sample], thresholds: Thresholds | None = None) -> Change:
    """Return the verdict on one arm of one cell from the samples of both environments in the same blocks.

    `missing` where either has no valid sample or handed back wrong tensors, `insufficient` below 6 pairs. `slower` needs the whole
    interval of a clock's median ratio beyond its threshold, or that of a counter; `faster` the same below, with no witness against it;
    `same` the whole interval of `ready` within; all else is `ambiguous`. Nothing is a regression before fresh pairs agree (`confirmed`).
    """
    held = thresholds or Thresholds()
    for name, samples in (("the baseline", baseline), ("the candidate", candidate)):
        if found := wrong(samples):
            return Change(MISSING, f"{name} handed back wrong tensors: {found}", None, None)
        if not any(sample.valid for sample in samples):
            return Change(MISSING, f"{name} has no valid sample", None, None)
    ratios = {clock: estimate(paired_ratios(candidate, baseline, lambda sample, clock=clock: getattr(sample, clock))) for clock in CLOCKS}  # type: ignore[misc]
    ready = ratios["ready_s"]
    if ready is None or ready.low is None or ready.high is None:
        count = ready.count if ready else 0
        return Change(INSUFFICIENT, f"{count} pairs, {MINIMUM_BLOCKS} make an interval", None, ready)
    if slow := _slower(ratios, held) or _grown(baseline, candidate, held):
        return Change(SLOWER, slow[1], slow[0], ready)
    limit = 1 + held.clocks["ready_s"]
    if ready.high < 1 / limit:
        return Change(FASTER, f"ready takes {ready.median:.3g} times as long, the whole interval below {1 / limit:.3g}", "ready_s", ready)
    if ready.low >= 1 / limit and ready.high <= limit:
        return Change(SAME, f"the whole interval of ready lies between {1 / limit:.3g} and {limit:.3g}", "ready_s", ready)
    return Change(AMBIGUOUS, f"the interval of ready, {ready.low:.3g} to {ready.high:.3g}, reaches over a threshold", "ready_s", ready)


def confirmed(first: Change, fresh: Change) -> Change:
    """Return a change after fresh pairs of its cell alone: only what is slower by the same witness twice is; else it is ambiguous."""
    if first.verdict != SLOWER:
        return first
    if fresh.verdict == SLOWER and fresh.witness == first.witness:
        return Change(SLOWER, f"{fresh.reason}; fresh pairs confirm it", fresh.witness, fresh.ratio)
    return Change(AMBIGUOUS, f"{first.reason}, but fresh pairs say {fresh.verdict}: {fresh.reason}", first.witness, fresh.ratio)


def _slower(ratios: Mapping[str, Estimate | None], held: Thresholds) -> tuple[str, str] | None:
    for clock in ("ready_s", "returned_s"):
        found, limit = ratios[clock], 1 + held.clocks[clock]
        if found and found.low is not None and found.low > limit:
            name = clock.removesuffix("_s")
            return clock, f"{name} takes {found.median:.3g} times as long, the whole interval above {limit:.3g}"
    return None


def _grown(baseline: Sequence[Sample], candidate: Sequence[Sample], held: Thresholds) -> tuple[str, str] | None:
    """Return the first counter whose growth within blocks is told from its threshold, and the words for it."""
    for counter in held.counters:
        grown = _growth(baseline, candidate, counter.name)
        base = estimate([value for sample in baseline if sample.valid and (value := getattr(sample, counter.name)) is not None])
        if grown and grown.low is not None and base and grown.low > max(counter.least, counter.share * base.median):
            return (
                counter.name,
                f"{counter.name} grew by {grown.median:.4g} over {base.median:.4g}, the whole interval beyond its threshold",
            )
    return None


def _growth(baseline: Sequence[Sample], candidate: Sequence[Sample], name: str) -> Estimate | None:
    """Return the estimate of candidate less baseline of a field within blocks."""
    base = {sample.block: getattr(sample, name) for sample in baseline if sample.valid}
    pairs = ((getattr(sample, name), base.get(sample.block)) for sample in candidate if sample.valid)
    return estimate([after - before for after, before in pairs if after is not None and before is not None])
