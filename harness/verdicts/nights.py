"""Nights that might have been: drawn from samples of a thing compared with itself, judged by the gate as it is, to know how often it would cry wolf.

Pure functions. A night is a stretch of blocks as they were taken, one after the other, from a random place on, so that what noise has in common
from block to block stays in it; its fresh pairs are another stretch that shares no block with the first. Which side is the candidate is tossed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.measure.cell import Cell
from harness.measure.sample import Sample
from harness.verdicts.regression import CLOCKS, SLOWER, Change, Thresholds, change, confirmed
from harness.verdicts.statistics import estimate

Pairs = Mapping[tuple[str, str], Sequence[tuple[Sample, Sample]]]
"""By cell and loader: the valid samples of both sides of each block in which both are, in the order taken."""
LEAST, MARGIN, BEYOND = 0.04, 1.25, 0.005
"""No threshold is less than 4 %: two installations of the same differed by up to 2.5 % for as long as they lived, and a calibration sees one pair of them. Each is a quarter and half a per cent farther than the farthest that a night of no change went."""


@dataclass(frozen=True)
class Drawn:
    """One arm of one night: its first pairs and its fresh ones, as (baseline, candidate)."""

    first: Sequence[tuple[Sample, Sample]]
    fresh: Sequence[tuple[Sample, Sample]]


def pairs_of(samples: Iterable[Sample], baseline: str, candidate: str) -> dict[tuple[str, str], list[tuple[Sample, Sample]]]:
    """Return the pairs of two environments, by cell and loader."""
    base: dict[tuple[str, str, int], Sample] = {}
    new: dict[tuple[str, str, int], Sample] = {}
    for sample in samples:
        if sample.valid and sample.environment in (baseline, candidate):
            (base if sample.environment == baseline else new)[Cell.of(sample).name, sample.loader, sample.block] = sample
    found: dict[tuple[str, str], list[tuple[Sample, Sample]]] = {}
    for cell, loader, block in sorted(key for key in base if key in new):
        found.setdefault((cell, loader), []).append((base[cell, loader, block], new[cell, loader, block]))
    return found


def draw(pairs: Sequence[tuple[Sample, Sample]], first: int, fresh: int, where: float, swapped: bool) -> Drawn:
    """Return one arm's night of `first` and `fresh` pairs, from `where` of its recording on, 0 to 1, with the sides as they were or `swapped`.

    Blocks follow each other, and the last is followed by the first. Where the recording is too short for both, the night is shorter.
    """
    count = len(pairs)
    first = min(first, count * 2 // 3)
    start = int(where * count)
    turned = [*pairs[start:], *pairs[:start]]
    turned = [(b, a) for a, b in turned] if swapped else turned
    return Drawn(turned[:first], turned[first : first + min(fresh, count - first)])


def slowed(night: Drawn, share: float) -> Drawn:
    """Return a night whose candidate is slower by a share on both clocks, with every counter as it was."""
    if not share:
        return night

    def slower(sample: Sample) -> Sample:
        return replace(sample, ready_s=(sample.ready_s or 0) * (1 + share), returned_s=(sample.returned_s or 0) * (1 + share))

    return Drawn([(a, slower(b)) for a, b in night.first], [(a, slower(b)) for a, b in night.fresh])


def alarms(night: Drawn, held: Thresholds) -> tuple[bool, bool]:
    """Return whether the first pairs of an arm's night call it slower, and whether fresh ones confirm that."""
    first = _change(night.first, held)
    if first.verdict != SLOWER:
        return False, False
    return True, confirmed(first, _change(night.fresh, held, first.told)).verdict == SLOWER


def nights(pairs: Pairs, lengths: Mapping[str, int], fresh: int, count: int, seed: int) -> list[dict[tuple[str, str], Drawn]]:
    """Return `count` nights of every arm; `lengths` are the first pairs that a night's time gives for each cell."""
    rng = random.Random(seed)  # noqa: S311  # a draw, no secret
    found = []
    for _ in range(count):
        where, swapped = rng.random(), rng.random() < 0.5
        found.append({arm: draw(taken, lengths[arm[0]], fresh, where, swapped) for arm, taken in pairs.items()})
    return found


def thresholds(pairs: Pairs, lengths: Mapping[str, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by cell, loader and clock, the share by which it may grow: beyond all that any stretch of blocks of no change showed either way."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (cell, loader), taken in pairs.items():
        count = len(taken)
        clocks = {}
        for clock in CLOCKS:
            farthest = 0.0
            for start in range(count):
                for swapped in (False, True):
                    ratios = _ratios(draw(taken, lengths[cell], 0, start / count, swapped).first, clock)
                    interval = estimate(ratios)
                    if interval and interval.low is not None:
                        farthest = max(farthest, interval.low - 1)
            clocks[clock] = round(max(LEAST, MARGIN * farthest + BEYOND), 4)
        found.setdefault(cell, {})[loader] = clocks
    return found


def rate(drawn: Sequence[Mapping[tuple[str, str], Drawn]], arm: tuple[str, str], held: Thresholds, share: float) -> float:
    """Return on which share of nights an arm that is slower by a share is confirmed to be."""
    return sum(alarms(slowed(night[arm], share), held)[1] for night in drawn) / len(drawn)


def any_alarm(drawn: Sequence[Mapping[tuple[str, str], Drawn]], says: Callable[[tuple[str, str], Drawn], bool]) -> float:
    """Return on which share of nights any arm at all is called slower."""
    return sum(any(says(arm, one) for arm, one in night.items()) for night in drawn) / len(drawn)


def _change(pairs: Sequence[tuple[Sample, Sample]], held: Thresholds, confirming: Container[str] = ()) -> Change:
    return change([a for a, _ in pairs], [b for _, b in pairs], held, confirming)


def _ratios(pairs: Sequence[tuple[Sample, Sample]], clock: str) -> list[float]:
    return [getattr(b, clock) / getattr(a, clock) for a, b in pairs if getattr(a, clock)]
