"""Simulated runs that might have been: drawn from samples of a thing compared with itself, judged
by the gate as it is, to know how often it would cry wolf.

Pure functions. A simulated run is a stretch of blocks as they were taken, one after the other, from
a random place on, so that what noise has in common from block to block stays in it; its fresh pairs
are another stretch that shares no block with the first. Which side is the candidate is tossed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.regression import CLOCKS, Change, Thresholds, Verdict, change, confirmed
from harness.analysis.statistics import estimate
from harness.records.cell import Cell
from harness.records.sample import Sample

Pairs = Mapping[tuple[str, str], Sequence[tuple[Sample, Sample]]]
"""By cell and loader: the valid samples of both sides of each block in which both are, in the order
taken.
"""

LEAST, MARGIN, BEYOND = 0.04, 1.25, 0.005
"""No threshold is less than 4 %: two installations of the same differed by up to 2.5 % for as long
as they lived, and a calibration sees one pair of them. Each is a quarter and half a per cent
farther than the farthest that a simulated run of no change went.
"""


@dataclass(frozen=True)
class Drawn:
    """One arm of one simulated run: its first pairs and its fresh ones, as (baseline,
    candidate).
    """

    first: Sequence[tuple[Sample, Sample]]
    fresh: Sequence[tuple[Sample, Sample]]


def pairs_of(
    samples: Iterable[Sample], baseline: str, candidate: str
) -> dict[tuple[str, str], list[tuple[Sample, Sample]]]:
    """Return the pairs of two environments, by cell and loader."""
    base: dict[tuple[str, str, int], Sample] = {}
    new: dict[tuple[str, str, int], Sample] = {}
    for sample in samples:
        if sample.valid and sample.environment in (baseline, candidate):
            (base if sample.environment == baseline else new)[
                Cell.of(sample).name, sample.loader, sample.block
            ] = sample
    pairs: dict[tuple[str, str], list[tuple[Sample, Sample]]] = {}
    for cell, loader, block in sorted(key for key in base if key in new):
        pairs.setdefault((cell, loader), []).append(
            (base[cell, loader, block], new[cell, loader, block])
        )
    return pairs


def draw(
    pairs: Sequence[tuple[Sample, Sample]], first: int, fresh: int, where: float, swapped: bool
) -> Drawn:
    """Return one arm's simulated run of `first` and `fresh` pairs, from `where` of its recording
    on, 0 to 1, with the sides as they were or `swapped`.

    Blocks follow each other, and the last is followed by the first. Where the recording is too
    short for both, the simulated run is shorter.
    """
    count = len(pairs)
    first = min(first, count * 2 // 3)
    start = int(where * count)
    turned = [*pairs[start:], *pairs[:start]]
    turned = [(b, a) for a, b in turned] if swapped else turned
    return Drawn(turned[:first], turned[first : first + min(fresh, count - first)])


def slowed(simulated: Drawn, share: float) -> Drawn:
    """Return a simulated run whose candidate is slower by a share on both clocks, with every
    counter as it was.
    """
    if not share:
        return simulated

    def slower(sample: Sample) -> Sample:
        return replace(
            sample,
            ready_s=(sample.ready_s or 0) * (1 + share),
            returned_s=(sample.returned_s or 0) * (1 + share),
        )

    return Drawn(
        [(a, slower(b)) for a, b in simulated.first], [(a, slower(b)) for a, b in simulated.fresh]
    )


def alarms(simulated: Drawn, thresholds: Thresholds) -> tuple[bool, bool]:
    """Return whether the first pairs of an arm's simulated run call it slower, and whether fresh
    ones confirm that.
    """
    first = _change(simulated.first, thresholds)
    if first.verdict != Verdict.SLOWER:
        return False, False
    return (
        True,
        confirmed(first, _change(simulated.fresh, thresholds, first.reasons)).verdict
        == Verdict.SLOWER,
    )


def simulated_runs(
    pairs: Pairs, lengths: Mapping[str, int], fresh: int, count: int, seed: int
) -> list[dict[tuple[str, str], Drawn]]:
    """Return `count` simulated runs of every arm.

    `lengths` are the first pairs that a run's time gives for each cell.
    """
    rng = random.Random(seed)  # noqa: S311  # a draw, no secret
    results = []
    for _ in range(count):
        where, swapped = rng.random(), rng.random() < 0.5
        results.append(
            {
                arm: draw(recorded, lengths[arm[0]], fresh, where, swapped)
                for arm, recorded in pairs.items()
            }
        )
    return results


def thresholds(pairs: Pairs, lengths: Mapping[str, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by cell, loader and clock, the share by which it may grow: beyond all that any
    stretch of blocks of no change showed either way.
    """
    thresholds: dict[str, dict[str, dict[str, float]]] = {}
    for (cell, loader), recorded in pairs.items():
        count = len(recorded)
        clocks = {}
        for clock in CLOCKS:
            farthest = 0.0
            for start in range(count):
                for swapped in (False, True):
                    ratios = _ratios(
                        draw(recorded, lengths[cell], 0, start / count, swapped).first, clock
                    )
                    interval = estimate(ratios)
                    if interval and interval.low is not None:
                        farthest = max(farthest, interval.low - 1)
            clocks[clock] = round(max(LEAST, MARGIN * farthest + BEYOND), 4)
        thresholds.setdefault(cell, {})[loader] = clocks
    return thresholds


def rate(
    drawn: Sequence[Mapping[tuple[str, str], Drawn]],
    arm: tuple[str, str],
    thresholds: Thresholds,
    share: float,
) -> float:
    """Return on which share of simulated runs an arm that is slower by a share is confirmed to
    be.
    """
    return sum(alarms(slowed(simulated[arm], share), thresholds)[1] for simulated in drawn) / len(
        drawn
    )


def any_alarm(
    drawn: Sequence[Mapping[tuple[str, str], Drawn]], says: Callable[[tuple[str, str], Drawn], bool]
) -> float:
    """Return on which share of simulated runs any arm at all is called slower."""
    return sum(
        any(says(arm, drawn) for arm, drawn in simulated.items()) for simulated in drawn
    ) / len(drawn)


def _change(
    pairs: Sequence[tuple[Sample, Sample]], thresholds: Thresholds, confirming: Container[str] = ()
) -> Change:
    return change([a for a, _ in pairs], [b for _, b in pairs], thresholds, confirming)


def _ratios(pairs: Sequence[tuple[Sample, Sample]], clock: str) -> list[float]:
    return [getattr(b, clock) / getattr(a, clock) for a, b in pairs if getattr(a, clock)]
