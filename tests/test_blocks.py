"""The experiment: every arm once a block, in an order that chance chose and a seed can repeat,
until it is over for a told reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf

import pytest

from harness.measure.blocks import (
    Limits,
    keeps_failing,
    order_of_block,
    run_blocks,
    spent,
    stop_reason,
)
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.sample import BUSY, Sample
from tests.helpers import make_sample

ARMS = ("a", "b", "c")
SAMPLE_S = 2.0
"""Seconds a sample takes by the fake clock: half of them preparation."""


def _take(arm: str, block: int, position: int) -> Sample:
    return make_sample(
        loader=arm, block=block, position=position, prepare_s=SAMPLE_S / 2, sample_s=SAMPLE_S / 2
    )


def _never(samples: Sequence[Sample]) -> bool:
    return False


def _limits(blocks: int = 100, budget_s: float = inf, hard_s: float = inf) -> Limits:
    return Limits(blocks, budget_s, hard_s)


def _order(block: int) -> list[str]:
    return order_of_block(0, "cell", block, ARMS)


def _run(
    limits: Limits,
    taken: Sequence[Sample] = (),
    take: Callable[[str, int, int], Sample] = _take,
    precise: Callable[[Sequence[Sample]], bool] = _never,
) -> tuple[list[Sample], str]:
    """Return the new samples and why the cell stopped; the reason has to come last and once."""
    *samples, reason = run_blocks(ARMS, taken, limits, _order, take, precise)
    assert isinstance(reason, str)
    assert all(isinstance(sample, Sample) for sample in samples)
    return [sample for sample in samples if isinstance(sample, Sample)], reason


def test_a_block_is_every_arm_once() -> None:
    for block in range(20):
        assert sorted(order_of_block(3, "cell", block, "dcbae")) == list("abcde")


def test_an_order_is_the_same_on_every_machine() -> None:
    """Written out, so that a change of the shuffle shows: a resumed run would be in another order
    than it began.
    """

    assert [order_of_block(0, "everything/gpt2/cold/cpu", block, "abcd") for block in range(3)] == [
        list("bcda"),
        list("cbad"),
        list("cadb"),
    ]


def test_an_order_does_not_depend_on_how_the_arms_were_listed() -> None:
    assert order_of_block(0, "cell", 5, "abcdef") == order_of_block(0, "cell", 5, "fedcba")


def test_orders_differ_between_blocks_cells_and_seeds() -> None:
    def orders(seed: int, cell: str) -> list[tuple[str, ...]]:
        return [tuple(order_of_block(seed, cell, block, "abcdef")) for block in range(10)]

    assert len(set(orders(0, "cell"))) == 10
    assert orders(0, "cell") != orders(1, "cell")
    assert orders(0, "cell") != orders(0, "other")


def test_no_arm_has_a_place_of_its_own() -> None:
    """Over 300 blocks each of three arms comes first, second and last about 100 times."""
    counts = {(arm, place): 0 for arm in ARMS for place in range(3)}
    for block in range(300):
        for place, arm in enumerate(_order(block)):
            counts[arm, place] += 1
    assert 70 < min(counts.values()) <= max(counts.values()) < 130


@pytest.mark.parametrize(
    ("blocks", "spent_s", "limits", "precise", "reason"),
    [
        (0, 0.0, _limits(), False, None),
        (0, 0.0, _limits(), True, None),
        (5, 5.0, _limits(), True, None),
        (6, 6.0, _limits(), True, "precision"),
        (6, 6.0, _limits(), False, None),
        (9, 9.0, _limits(blocks=10), False, None),
        (10, 10.0, _limits(blocks=10), False, "rounds"),
        (10, 10.0, _limits(blocks=10), True, "rounds"),
        (3, 3.0, _limits(blocks=3), False, "rounds"),
        (6, 12.0, _limits(budget_s=14.0), False, None),
        (6, 12.1, _limits(budget_s=14.0), False, "budget"),
        (5, 100.0, _limits(budget_s=1.0), False, None),
        (6, 100.0, _limits(budget_s=1.0), True, "precision"),
        (2, 10.0, _limits(hard_s=15.0), False, None),
        (2, 11.5, _limits(hard_s=15.0), False, None),
        (2, 11.6, _limits(hard_s=15.0), False, "budget"),
        (1, 2.5, _limits(hard_s=15.0), False, None),
        (1, 2.6, _limits(hard_s=15.0), False, "budget"),
        (1, 7.5, _limits(blocks=2, hard_s=15.0), False, None),
        (0, 0.0, _limits(hard_s=0.0), False, "budget"),
        (0, 0.0, _limits(hard_s=0.1), False, None),
    ],
)
def test_a_cell_stops_for_its_reason_and_not_before(
    blocks: int, spent_s: float, limits: Limits, precise: bool, reason: str | None
) -> None:
    """Too little for an interval is not stopped by the cell's share of time, but by the time there
    is at all; a block has to fit whole.
    """

    assert stop_reason(blocks, blocks, spent_s, limits, precise) == reason


def test_time_spent_holds_the_setting_of_the_cache_states() -> None:
    assert spent([]) == 0
    assert (
        spent([make_sample(prepare_s=1.0, sample_s=0.5), make_sample(prepare_s=0.25, sample_s=2.0)])
        == 3.75
    )


def test_blocks_are_interleaved_in_the_order_given() -> None:
    samples, reason = _run(_limits(blocks=7))
    assert reason == "rounds"
    assert [(sample.block, sample.position, sample.loader) for sample in samples] == [
        (block, position, arm) for block in range(7) for position, arm in enumerate(_order(block))
    ]


def test_each_sample_is_handed_on_before_the_next_is_taken() -> None:
    """So that a killed run keeps all but the one in flight."""
    events: list[str] = []

    def take(arm: str, block: int, position: int) -> Sample:
        events.append("taken")
        return _take(arm, block, position)

    stream = run_blocks(ARMS, (), _limits(blocks=1), _order, take, _never)
    counts = [len(events) for _ in stream]
    assert counts == [1, 2, 3, 3]


def test_a_resumed_cell_takes_nothing_twice() -> None:
    whole, _ = _run(_limits(blocks=8))
    new, reason = _run(_limits(blocks=8), taken=whole[: 5 * len(ARMS)])
    assert new == whole[5 * len(ARMS) :]
    assert reason == "rounds"
    assert _run(_limits(blocks=8), taken=whole) == ([], "rounds")


def test_a_half_finished_block_is_completed_first() -> None:
    whole, _ = _run(_limits(blocks=8))
    taken = whole[: 5 * len(ARMS) + 1]
    new, _ = _run(_limits(blocks=8), taken=taken)
    assert [*taken, *new] == whole


def test_a_half_finished_block_is_completed_out_of_time() -> None:
    """A block is what arms are compared within: half of one is worth nothing."""
    whole, _ = _run(_limits(blocks=8))
    new, reason = _run(_limits(hard_s=0.0), taken=whole[: 5 * len(ARMS) + 1])
    assert [(sample.block, sample.loader) for sample in new] == [(5, arm) for arm in _order(5)[1:]]
    assert reason == "budget"


def test_a_cell_stops_as_soon_as_its_figure_is_precise() -> None:
    seen: list[int] = []

    def precise(samples: Sequence[Sample]) -> bool:
        seen.append(len(samples))
        return len(samples) >= 8 * len(ARMS)

    samples, reason = _run(_limits(), precise=precise)
    assert (len(samples), reason) == (8 * len(ARMS), "precision")
    assert seen == [block * len(ARMS) for block in range(9)], (
        "it is asked between blocks, of all samples so far"
    )


def test_samples_taken_before_a_kill_count_towards_precision() -> None:
    whole, _ = _run(_limits(blocks=8))
    assert _run(_limits(), taken=whole, precise=lambda samples: len(samples) >= len(whole)) == (
        [],
        "precision",
    )


def test_a_figure_precise_by_chance_does_not_stop_a_cell() -> None:
    samples, reason = _run(_limits(), precise=lambda samples: True)
    assert (len(samples), reason) == (MINIMUM_BLOCKS * len(ARMS), "precision")


@pytest.mark.parametrize(("budget_s", "blocks"), [(48.0, 8), (47.9, 7), (1.0, MINIMUM_BLOCKS)])
def test_a_cell_stops_before_the_block(budget_s: float, blocks: int) -> None:
    """A block takes 6 s.

    A budget too small for an interval is overrun, since the cell would be worth nothing.
    """

    samples, reason = _run(_limits(budget_s=budget_s))
    assert (len(samples), reason) == (blocks * len(ARMS), "budget")


@pytest.mark.parametrize(("hard_s", "blocks"), [(36.0, 6), (35.9, 1)])
def test_a_cell_goes_on_only_if_enough_blocks(hard_s: float, blocks: int) -> None:
    """A block takes 6 s."""
    samples, reason = _run(_limits(budget_s=1.0, hard_s=hard_s))
    assert (len(samples), reason) == (blocks * len(ARMS), "budget")


def test_time_spent_before_a_kill_counts_after_it() -> None:
    whole, _ = _run(_limits(blocks=7))
    assert _run(_limits(budget_s=47.9), taken=whole) == ([], "budget")


@pytest.mark.parametrize(
    ("busy", "quiet", "tries"), [(1, True, 2), (2, True, 3), (9, True, 3), (9, False, 1)]
)
def test_a_busy_sample_is_taken_again_in_its_place(busy: int, quiet: bool, tries: int) -> None:
    """Of block 0 the arm "b" is invalid as busy `busy` times; everything else is valid at once."""
    left = [busy]

    def take(arm: str, block: int, position: int) -> Sample:
        if (arm, block) == ("b", 0) and left[0]:
            left[0] -= 1
            return make_sample(loader=arm, block=block, position=position, valid=False, reason=BUSY)
        return _take(arm, block, position)

    *samples, _ = run_blocks(ARMS, [], _limits(blocks=2), _order, take, _never, lambda _: quiet)
    of_b = [
        sample
        for sample in samples
        if isinstance(sample, Sample) and (sample.loader, sample.block) == ("b", 0)
    ]
    assert len(of_b) == tries
    assert {sample.position for sample in of_b} == {_order(0).index("b")}
    assert len(samples) == 2 * len(ARMS) + tries - 1


def test_an_invalid_sample_is_counted_and_not_taken_again() -> None:
    """A load that always fails must not keep its cell going for ever."""

    def take(arm: str, block: int, position: int) -> Sample:
        return make_sample(
            loader=arm,
            block=block,
            position=position,
            valid=arm != "b",
            reason="not-cold" if arm == "b" else None,
        )

    samples, reason = _run(_limits(blocks=6), take=take)
    assert (len(samples), reason) == (18, "rounds")


def test_the_reason_is_told_even_when_no_block_can_be_begun() -> None:
    stream: Iterator[Sample | str] = run_blocks(ARMS, (), _limits(blocks=0), _order, _take, _never)
    assert list(stream) == ["rounds"]


@pytest.mark.parametrize(
    ("details", "tries"),
    [(["x"] * 6, 2), (["x", "y", "z", "x", "y", "z"], 4), (["x", None, "x", "x", "x", "x"], 6)],
)
def test_an_arm_that_fails_twice_alike_is_left_out(details: list[str | None], tries: int) -> None:
    """None stands for a sample that succeeded: an arm that ever did is tried to the end."""

    def take(arm: str, block: int, position: int) -> Sample:
        detail = details[block] if arm == "b" else None
        return make_sample(
            loader=arm,
            block=block,
            position=position,
            valid=detail is None,
            reason="raised" if detail else None,
            detail=detail,
        )

    samples, reason = _run(_limits(blocks=6), take=take)
    assert [sample.loader for sample in samples].count("b") == tries
    assert [sample.loader for sample in samples].count("a") == 6 and reason == "rounds"
    assert ("b" in keeps_failing(samples)) == (None not in details)


def test_a_cell_of_which_every_arm_keeps_failing_ends() -> None:
    def take(arm: str, block: int, position: int) -> Sample:
        return make_sample(
            loader=arm,
            block=block,
            position=position,
            valid=False,
            reason="hung",
            detail="no result",
        )

    samples, reason = _run(_limits(blocks=6), take=take)
    assert (len(samples), reason) == (2 * len(ARMS), "every loader kept failing")
