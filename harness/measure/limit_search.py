"""The search of one cell for the smallest memory limit of every arm: one try of each a block, in
random order, until every limit is known or the time is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count

from harness.analysis.memory_limits import NextTry
from harness.measure.blocks import Limits, spent, until_quiet
from harness.records.sample import Sample


def search_limits(
    arms: Sequence[str],
    arm_samples: Sequence[Sample],
    limits: Limits,
    order: Callable[[int], list[str]],
    ahead: Callable[[Sequence[Sample]], NextTry | None],
    take: Callable[[str, int, int, NextTry], Sample],
    again: Callable[[Sequence[Sample]], bool] = lambda _: False,
) -> Iterator[Sample | str]:
    """Yield each new sample as it is taken and, last, why the cell stopped.

    `arm_samples` are those of an earlier part of the same run. `ahead(samples)` says what to try
    next of the arm whose samples these are, None where its limit is known; `take` tries it. One
    that is invalid as busy is taken again as long as `again(samples)` says so.
    """
    samples = list(arm_samples)
    first = max((sample.block for sample in samples), default=-1) + 1
    for block in count(first):
        tried = False
        if samples and spent(samples) >= limits.hard_s:
            yield "budget"
            return
        for position, arm in enumerate(order(block)):
            upcoming = ahead([sample for sample in samples if sample.loader == arm])
            if upcoming is None:
                continue
            tried = True
            for sample in until_quiet(
                partial(take, arm, block, position, upcoming), lambda: again(samples)
            ):
                samples.append(sample)
                yield sample
        if not tried:
            yield "precision" if arms else "nothing to measure"
            return
