"""The experiment of one cell: blocks of every arm in random order, until enough is known or the
time is spent.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from harness.records.cell import MINIMUM_BLOCKS
from harness.records.late_storage import kept_late
from harness.records.sample import BUSY, FAILURES, Sample

_OVERRUN = 1.15
"""By how much a cell that was begun may overrun its time to come to `MINIMUM_BLOCKS`: blocks are
not all alike.
"""

TRIES = 3
"""How often a sample is taken at most for its place in a block, where the machine was busy with
something else.
"""

FAILED_ENOUGH = 2
"""After as many failures in the same way, and no success, an arm is left out of what follows."""


class _WithReason(Protocol):
    """What may be invalid as busy: a sample, or a weighing."""

    @property
    def reason(self) -> str | None:
        """Why it is invalid, None where it is valid."""


_Taken = TypeVar("_Taken", bound=_WithReason)


@dataclass(frozen=True)
class Limits:
    """When a cell is over; seconds are of measuring, cache preparation included."""

    blocks: int
    """Most blocks to take."""
    budget_s: float
    """The cell's share of time: no further block is begun that would overrun it, once there are
    enough for an interval.
    """

    hard_s: float
    """Time after which no further block is begun, enough or not."""
    until_precise: bool = True
    """Whether to stop as soon as the figure is known well enough."""


def order_of_block(seed: int, cell: str, block: int, arms: Sequence[str]) -> list[str]:
    """Return the arms in the random order of one block: the same for the same arguments on every
    machine, so that a run can be resumed.
    """
    order = sorted(arms)
    random.Random(f"{seed}/{cell}/{block}").shuffle(order)  # noqa: S311  # an order, no secret
    return order


def stop_reason(
    blocks: int, whole: int, spent_s: float, limits: Limits, precise: bool
) -> str | None:
    """Return why a cell with this many finished blocks is over ("precision", "rounds", "budget"),
    or None while it is not.

    `whole` of the blocks have a valid sample of every arm: those that have not are made up for, up
    to as many as an interval takes. By what the first block took, a cell whose blocks will not
    suffice for an interval is over at once: its time is better given to others.
    """
    if blocks >= limits.blocks:
        return "rounds"
    if limits.until_precise and blocks >= MINIMUM_BLOCKS and precise:
        return "precision"
    next_block_s = spent_s / blocks if blocks else 0.0
    enough = whole >= MINIMUM_BLOCKS or blocks >= 2 * MINIMUM_BLOCKS
    if enough:
        over = spent_s + next_block_s > min(limits.hard_s, limits.budget_s)
    elif blocks == 1:
        over = spent_s * min(MINIMUM_BLOCKS, limits.blocks) > limits.hard_s
    else:
        over = spent_s + next_block_s > limits.hard_s * (
            _OVERRUN if blocks < MINIMUM_BLOCKS else 1.0
        )
    return "budget" if limits.hard_s <= 0 or over else None


def spent(samples: Sequence[Sample]) -> float:
    """Return the seconds that samples took, the setting of their cache states included."""
    return sum(sample.prepare_s + sample.sample_s for sample in samples)


def whole_blocks(samples: Sequence[Sample]) -> int:
    """Return in how many blocks every arm has a valid sample, arms that never had one aside: no
    block will be whole for those.
    """
    hopeful = {sample.loader for sample in samples if sample.valid}
    arms: dict[int, set[str]] = {}
    for sample in samples:
        if sample.valid:
            arms.setdefault(sample.block, set()).add(sample.loader)
    return sum(valid == hopeful for valid in arms.values())


def keeps_failing(samples: Sequence[Sample]) -> dict[str, str]:
    """Return the arms that failed twice in the same way and never succeeded, each with its words: a
    third try would tell nothing new.
    """
    succeeded = {sample.loader for sample in samples if sample.valid}
    failures = Counter(
        (sample.loader, sample.reason, sample.detail)
        for sample in samples
        if sample.reason in FAILURES
    )
    return {
        loader: f"failed {count} times in the same way: {reason}: {detail}"
        for (loader, reason, detail), count in failures.items()
        if count >= FAILED_ENOUGH and loader not in succeeded
    }


def run_blocks(
    arms: Sequence[str],
    arm_samples: Sequence[Sample],
    limits: Limits,
    order: Callable[[int], list[str]],
    take: Callable[[str, int, int], Sample],
    precise: Callable[[Sequence[Sample]], bool],
    again: Callable[[Sequence[Sample]], bool] = lambda _: False,
) -> Iterator[Sample | str]:
    """Yield each new sample as it is taken and, last, why the cell stopped.

    `taken` are the samples of an earlier part of the same run: they are counted, timed and not
    taken again. `take(arm, block, position)` takes one; `precise(samples)` says whether the cell's
    figure is known well enough. An arm that keeps failing in the same way, or that shaped storage
    keeps late, takes part in no further block. One that is invalid as busy is taken again, up to
    `TRIES` times in all, as long as `again(samples)` says so.
    """
    samples = list(arm_samples)
    done = {(sample.block, sample.loader) for sample in samples}
    for block in itertools.count():
        hopeless = keeps_failing(samples) | kept_late(samples)
        if len(hopeless) == len(arms):
            yield "every loader kept failing"
            return
        missing = [
            (position, arm)
            for position, arm in enumerate(order(block))
            if arm not in hopeless and (block, arm) not in done
        ]
        if len(missing) == len(arms) - len(hopeless) and (
            reason := _over(block, samples, limits, precise)
        ):
            yield reason  # only between blocks: one that has been begun is finished
            return
        for position, arm in missing:
            for sample in until_quiet(partial(take, arm, block, position), lambda: again(samples)):
                samples.append(sample)
                yield sample


def until_quiet(take: Callable[[], _Taken], again: Callable[[], bool]) -> Iterator[_Taken]:
    """Yield a sample, and another one in its place as long as the last was invalid as busy and
    `again()` says so, `TRIES` at most.
    """
    for attempt in range(TRIES):
        sample = take()
        yield sample
        if sample.reason != BUSY or attempt == TRIES - 1 or not again():
            return


def _over(
    block: int,
    samples: Sequence[Sample],
    limits: Limits,
    precise: Callable[[Sequence[Sample]], bool],
) -> str | None:
    return stop_reason(block, whole_blocks(samples), spent(samples), limits, precise(samples))
