"""Medians and their exact intervals.

No distribution is assumed, nothing is pooled, no outlier is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
_MANY = 1000
"""How many values are sorted faster as an array."""


@dataclass(frozen=True)
class Estimate:
    """A median with the interval that holds the true one with at least 95 % confidence.

    `low` and `high` are None below 6 values.
    """

    median: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float:
        """Half the interval's width relative to the median; infinite where there is no interval."""
        if self.low is None or self.high is None or self.median == 0:
            return math.inf
        return (self.high - self.low) / 2 / self.median


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the median of `values` with its interval, or None of no values.

    The interval runs between order statistics: with n values, the k-th smallest and the k-th
    largest enclose the true median with probability 1 - 2 P(Binomial(n, 1/2) < k), whatever the
    distribution. The largest k that keeps 95 % is taken.
    """
    if not values:
        return None
    ordered = _ordered(values)
    rank = interval_rank(len(ordered))
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    if rank is None:
        return Estimate(median, None, None, len(ordered))
    return Estimate(median, ordered[rank - 1], ordered[-rank], len(ordered))


def _ordered(values: Sequence[float]) -> list[float]:
    """Return values, smallest first."""
    if len(values) <= _MANY:
        return sorted(values)
    import numpy as np  # only here, for it is slow to import and what measures has no use for it

    ordered: list[float] = np.sort(np.array(values)).tolist()
    return ordered


@cache
def interval_rank(count: int, confidence: float = CONFIDENCE) -> int | None:
    """Return the largest k for which the k-th smallest and k-th largest of `count` values enclose
    the median with this confidence.

    None where even the smallest and the largest do not: below 6 values for 95 %.
    """
    below = 0.0
    rank = None
    whole = 2**count
    # Further than 20 standard deviations from the middle there is nothing to add up.
    first = max(1, count // 2 - 10 * math.isqrt(count))
    ways = math.comb(count, first - 1)
    for k in range(first, count // 2 + 1):
        below += ways / whole
        ways = ways * (count - k + 1) // k
        if 1 - 2 * below < confidence:
            break
        rank = k
    return rank
