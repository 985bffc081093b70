"""What the rules of other benchmark tools would have said of the same samples; each takes the times of a baseline and of a candidate, in s.

All are given both sides from the same blocks of one run, which is kinder than how most are used: against figures of another night.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby

COMPARE_FAIL, ASV_FACTOR, ASV_P, MANN_WHITNEY_P = 0.10, 1.1, 0.002, 0.05


def pytest_benchmark(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether `--benchmark-compare-fail=median:10%` fails: one figure against another, no interval."""
    return statistics.median(new) / statistics.median(base) - 1 > COMPARE_FAIL


def pyperf(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether `pyperf compare_to` calls it slower: Student's t test on all values pooled, two tails, 95 %."""
    count = len(base) + len(new) - 2
    pooled = ((len(base) - 1) * statistics.variance(base) + (len(new) - 1) * statistics.variance(new)) / count
    if pooled == 0:
        return statistics.mean(new) > statistics.mean(base)
    score = (statistics.mean(new) - statistics.mean(base)) / math.sqrt(pooled * (1 / len(base) + 1 / len(new)))
    z = statistics.NormalDist().inv_cdf(0.975)
    return score > z + (z**3 + z) / (4 * count)  # the t quantile to first order


def asv(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether `asv continuous` calls it a regression: medians apart by its factor of 1.1, and Mann-Whitney's p below 0.002."""
    return statistics.median(new) / statistics.median(base) > ASV_FACTOR and _p(base, new) < ASV_P


def mann_whitney(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether a plain Mann-Whitney test calls it slower, two tails, p below 0.05."""
    return _p(base, new) < MANN_WHITNEY_P and statistics.median(new) > statistics.median(base)


RIVALS = {
    "pytest-benchmark, compare-fail=median:10%": pytest_benchmark,
    "pyperf compare_to": pyperf,
    "asv continuous": asv,
    "Mann-Whitney, p < 0.05": mann_whitney,
}


def _p(base: Sequence[float], new: Sequence[float]) -> float:
    """Return Mann-Whitney's p of two tails, by the normal approximation with its corrections for ties and continuity."""
    n, m = len(base), len(new)
    ordered = sorted([(value, 0) for value in base] + [(value, 1) for value in new])
    ranks, place, ties = 0.0, 1, 0
    for _, same in groupby(ordered, key=lambda one: one[0]):
        group = list(same)
        mean = place + (len(group) - 1) / 2
        ranks += mean * sum(side for _, side in group)
        ties += len(group) ** 3 - len(group)
        place += len(group)
    u = ranks - m * (m + 1) / 2
    spread = math.sqrt(n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1))))
    if spread == 0:
        return 1.0
    return 2 * (1 - statistics.NormalDist().cdf(max(abs(u - n * m / 2) - 0.5, 0.0) / spread))
