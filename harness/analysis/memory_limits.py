"""The smallest memory limit under which a loader still loads: which limit to try next, and what the
tries so far come to.

Limits lie on a grid of steps of 2 % of the checkpoint, so that two searches try the same ones. A
limit is enough where two tries load under it and no try failed under it or under a larger one. A
try is hung once it takes ten times as long as the load without a limit, and ten seconds at least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.records.sample import FAILURES, Sample

STEPS = 50
"""Steps of the grid that make up the checkpoint's size."""
FACTORS = (2.0, 1.5, 1.1, 1.0, 0.5)
"""Limits, as multiples of the checkpoint, that every loader is timed under."""
TRIES_AT_LIMIT = 2
"""How many tries have to load under a limit for it to be enough."""
TIMEOUT_TIMES, TIMEOUT_AT_LEAST_S = 10.0, 10.0
LOADED = "loaded"
"""How a try ended that came to ready; any other end is one of `FAILURES`."""
_PAGE = 4096
_MOST_TRIES = 60
_UNDECIDED_AT_MOST = 4
"""How many samples in a row may tell nothing before a loader is given up."""


@dataclass(frozen=True)
class Try:
    """One load under a limit, and how it ended."""

    limit_bytes: int
    outcome: str
    ready_s: float | None = None
    """Time to ready of a valid sample; a busy machine's is no figure."""

    @property
    def loaded(self) -> bool:
        """Whether it came to ready."""
        return self.outcome == LOADED


@dataclass(frozen=True)
class NextTry:
    """What to try next: under which limit, None for none, and how long it may take, None for as
    long as any sample.
    """

    limit_bytes: int | None
    timeout_s: float | None = None


@dataclass(frozen=True)
class Floor:
    """The smallest limit under which a loader still loads.

    `failed_bytes` is the largest one under which it did not, None where it loads under a single
    step of the grid; `outcome` is how it ended there.
    """

    limit_bytes: int
    failed_bytes: int | None
    outcome: str | None
    tries: int


def step_of(size: int) -> int:
    """Return the grid's step for a checkpoint of `size` bytes: 2 % of it in whole pages."""
    return max(-(-size // (STEPS * _PAGE)), 1) * _PAGE


def limit_at(factor: float, size: int) -> int:
    """Return the limit on the grid that is `factor` times a checkpoint's size."""
    return round(factor * STEPS) * step_of(size)


def tries_of(samples: Iterable[Sample]) -> list[Try]:
    """Return the tries under a limit among the samples of one loader.

    A sample whose end was not the load's own is none. A load that came to ready with the right
    content has shown that its limit is enough, whatever else makes the sample invalid.
    """
    tries = []
    for sample in samples:
        outcome = outcome_of(sample)
        if sample.memory_limit_bytes is not None and outcome is not None:
            seconds = sample.ready_s if sample.valid else None
            tries.append(Try(sample.memory_limit_bytes, outcome, seconds))
    return tries


def outcome_of(sample: Sample) -> str | None:
    """Return how a load ended: `LOADED`, one of `FAILURES`, or None where the sample does not
    tell.
    """
    if sample.ready_s is not None and sample.content_ok:
        return LOADED
    return sample.reason if sample.reason in FAILURES else None


def next_try(
    samples: Sequence[Sample], size: int, repeats: int, factors: Sequence[float] = FACTORS
) -> NextTry | None:
    """Return what to try next of one loader, None where nothing more is to be learnt.

    First comes a load without a limit, then `repeats` loads at each of `factors` until one fails,
    then the bisection. `samples` are those of the loader so far, `size` the checkpoint's bytes.
    """
    free = [sample for sample in samples if sample.memory_limit_bytes is None]
    loads = [sample for sample in free if outcome_of(sample) == LOADED]
    if not loads:
        return None if len(free) >= TRIES_AT_LIMIT else NextTry(None)
    tries = tries_of(samples)
    last = samples[-_UNDECIDED_AT_MOST:]
    if len(tries) >= _MOST_TRIES or (
        len(last) == _UNDECIDED_AT_MOST and not any(map(outcome_of, last))
    ):
        return None
    whole_s = min(sample.sample_s for sample in loads)
    timeout_s = max(TIMEOUT_AT_LEAST_S, TIMEOUT_TIMES * whole_s)
    for factor in factors:
        limit = limit_at(factor, size)
        failed = any(not attempt.loaded and attempt.limit_bytes >= limit for attempt in tries)
        if not failed and sum(attempt.limit_bytes == limit for attempt in tries) < repeats:
            return NextTry(limit, timeout_s)
    step = step_of(size)
    number = _bisect(tries, step, max(map(_kept, loads)) // step)
    return None if number is None else NextTry(number * step, timeout_s)


def floor_of(samples: Iterable[Sample], size: int) -> Floor | None:
    """Return the smallest limit under which one loader still loads, None where the tries do not
    tell yet.
    """
    tries = tries_of(samples)
    failed = _largest_failed(tries)
    least = failed.limit_bytes if failed else 0
    enough = [
        attempt.limit_bytes for attempt in tries if attempt.loaded and attempt.limit_bytes > least
    ]
    smallest = min(enough, default=0)
    if enough.count(smallest) < TRIES_AT_LIMIT or smallest - least > step_of(size):
        return None
    return Floor(
        smallest,
        failed.limit_bytes if failed else None,
        failed.outcome if failed else None,
        len(tries),
    )


def _largest_failed(tries: Iterable[Try]) -> Try | None:
    return max(
        (attempt for attempt in tries if not attempt.loaded),
        key=lambda attempt: attempt.limit_bytes,
        default=None,
    )


def _bisect(tries: Sequence[Try], step: int, likely: int) -> int | None:
    """Return the number of steps to try next, None where the floor is known.

    `likely` is a guess in steps. Right or wrong, it only saves tries.
    """
    failed = _largest_failed(tries)
    low = failed.limit_bytes // step if failed else 0
    enough = [
        number
        for attempt in tries
        if attempt.loaded and (number := attempt.limit_bytes // step) > low
    ]
    if not enough:
        return max(likely + 1, low + (1 << sum(not attempt.loaded for attempt in tries)))
    high = min(enough)
    if high - low == 1:
        return high if enough.count(high) < TRIES_AT_LIMIT else None
    if low < likely + 1 < high:
        return likely + 1
    if high == likely + 1 and high - 2 > low:
        return high - 2
    return (low + high) // 2


def _kept(sample: Sample) -> int:
    """Return about how many bytes a load without a limit could not do without at its peak."""
    in_process = (sample.peak_growth_bytes or 0) - (sample.mapped_bytes or 0)
    in_group = (sample.group_peak_bytes or 0) - sample.bytes
    return max(in_process, in_group, sample.anonymous_bytes or 0, 0)
