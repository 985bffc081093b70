"""Verdicts: medians with intervals that hold what they promise, ratios within blocks, and nothing
invalid in any of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.analysis.arms import PRECISION, REFERENCE, by_cell, paired_ratios, precise, summarise
from harness.analysis.host_cache import host_cache
from harness.analysis.overhead import sample_costs
from harness.analysis.statistics import Estimate, estimate, interval_rank
from harness.records.cell import Cell
from harness.records.sample import Sample
from tests.helpers import make_sample


def _arm(
    loader: str,
    ready: Sequence[float | None],
    returned: float | None = 0.5,
    first_block: int = 0,
    **overrides: object,
) -> list[Sample]:
    """Return an arm's samples, one a block; a time of None is an invalid sample's."""
    return [
        make_sample(
            loader=loader,
            block=first_block + number,
            ready_s=seconds,
            returned_s=None if seconds is None else returned,
            valid=seconds is not None,
            reason=None if seconds is not None else "hung",
            **overrides,
        )
        for number, seconds in enumerate(ready)
    ]


# Statistics


@pytest.mark.parametrize(
    ("count", "rank"),
    [
        (0, None),
        (1, None),
        (5, None),
        (6, 1),
        (7, 1),
        (8, 1),
        (9, 2),
        (12, 3),
        (20, 6),
        (25, 8),
        (50, 18),
        (100, 40),
    ],
)
def test_the_interval_runs_between_the_ranks_of_the_sign_test(count: int, rank: int | None) -> None:
    """The values a table of it has for 95 %.

    That they follow from the binomial is the next promise.
    """

    assert interval_rank(count) == rank


@pytest.mark.parametrize("count", [*range(6, 60), 400, 441, 2001])
def test_no_narrower_interval_would_keep_the_confidence(count: int) -> None:
    def confidence(rank: int) -> float:
        below: float = sum(math.comb(count, smaller) for smaller in range(rank)) / 2**count
        return 1 - 2 * below

    rank = interval_rank(count)
    assert rank is not None
    assert confidence(rank) >= 0.95 > confidence(rank + 1)


def test_more_confidence_takes_a_wider_interval() -> None:
    assert [interval_rank(20, confidence) for confidence in (0.9, 0.95, 0.99)] == [6, 6, 4]
    assert interval_rank(7, 0.99) is None


@pytest.mark.parametrize("count", [6, 9, 20])
@pytest.mark.parametrize(
    ("draw", "median"), [("lognormal", 1.0), ("uniform", 0.5), ("two lumps", 1.0)]
)
def test_the_interval_holds_the_true_median_as_often(count: int, draw: str, median: float) -> None:
    """Whatever the distribution: skewed, flat, and one of two lumps such as a frequency that
    switches makes.
    """

    chance = random.Random(f"{count} {draw}")
    draws: dict[str, Callable[[], float]] = {
        "lognormal": lambda: chance.lognormvariate(0, 1),
        "uniform": chance.random,
        "two lumps": lambda: (0.9 if chance.random() < 0.5 else 1.1) + chance.gauss(0, 0.01),
    }
    trials = 8000
    held = 0
    for _ in range(trials):
        found = estimate([draws[draw]() for _ in range(count)])
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= median <= found.high
    assert held / trials >= 0.95


def test_an_estimate_is_the_median_with_its_ranks() -> None:
    values = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]
    assert estimate(values) == Estimate(median=5.0, low=2.0, high=8.0, count=9)
    assert estimate([4.0, 1.0, 3.0, 2.0, 6.0, 5.0]) == Estimate(
        median=3.5, low=1.0, high=6.0, count=6
    )


def test_an_outlier_is_kept_and_does_not_move_the_median() -> None:
    assert estimate([1.0] * 5 + [1000.0]) == Estimate(median=1.0, low=1.0, high=1000.0, count=6)


def test_fewer_than_six_values_have_a_median_and_no_interval() -> None:
    assert estimate([]) is None
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == Estimate(median=3.0, low=None, high=None, count=5)
    assert found.half_width == math.inf


def test_a_half_width_is_relative_to_the_median() -> None:
    assert Estimate(median=2.0, low=1.9, high=2.3, count=9).half_width == pytest.approx(0.1)
    assert Estimate(median=0.0, low=0.0, high=0.0, count=9).half_width == math.inf


# Ratios within blocks


def _ready(sample: Sample) -> float | None:
    return sample.ready_s


def test_ratios_are_taken_within_blocks() -> None:
    """A drift of the machine that both arms of a block share leaves no trace."""
    drift = [1.0, 2.0, 4.0, 8.0]
    assert (
        paired_ratios(_arm("a", [3 * value for value in drift]), _arm("b", drift), _ready)
        == [3.0] * 4
    )


def test_blocks_are_matched_by_their_number() -> None:
    over, under = _arm("a", [10.0, 20.0, 30.0]), _arm("b", [1.0, 2.0, 5.0])
    assert paired_ratios(over, under[::-1], _ready) == [10.0, 10.0, 6.0]


def test_a_block_without_two_valid_samples_gives_no_ratio() -> None:
    over, under = _arm("a", [10.0, None, 30.0, 40.0]), _arm("b", [1.0, 2.0, None])
    assert paired_ratios(over, under, _ready) == [10.0]
    assert paired_ratios(over, [], _ready) == []
    assert paired_ratios([], under, _ready) == []


def test_an_invalid_sample_gives_no_ratio_although_it_has_a_time() -> None:
    slow = [make_sample(loader="a", block=0, ready_s=100.0, valid=False, reason="storage-short")]
    fast = [make_sample(loader="b", block=0, ready_s=1.0)]
    assert paired_ratios(slow, fast, _ready) == []
    assert paired_ratios(fast, slow, _ready) == []


def test_a_value_that_was_not_measured() -> None:
    over = [
        make_sample(block=block, major_faults=value) for block, value in enumerate([4, 0, None, 4])
    ]
    under = [
        make_sample(block=block, major_faults=value) for block, value in enumerate([2, 2, 2, 0])
    ]
    assert paired_ratios(over, under, lambda sample: sample.major_faults) == [2.0, 0.0]


# Cells


def test_samples_are_parted_into_cells_in_the_order_taken() -> None:
    samples = [
        make_sample(checkpoint=name, block=block, cache_state=state)
        for block in (0, 1)
        for name in "ab"
        for state in ("cold", "warm")
    ]
    cells = by_cell(samples)
    assert list(cells) == [
        Cell("everything", name, state, "cpu") for name in "ab" for state in ("cold", "warm")
    ]
    assert all(Cell.of(sample) == cell for cell, held in cells.items() for sample in held)
    assert [[sample.block for sample in held] for held in cells.values()] == [[0, 1]] * 4


def test_a_summary_is_of_its_arm_s_valid_samples_alone() -> None:
    lukewarm = {
        "ready_s": 1000.0,
        "returned_s": 1000.0,
        "anonymous_bytes": 10**9,
        "valid": False,
        "reason": "not-cold",
    }
    samples = [
        *_arm("torch-load", [3.0, None, 1.0, 2.0, None]),
        make_sample(loader="torch-load", block=9, **lukewarm),
    ]
    (arm,) = summarise(samples)
    assert (arm.loader, arm.total, arm.valid, dict(arm.invalid)) == (
        "torch-load",
        6,
        3,
        {"hung": 2, "not-cold": 1},
    )
    assert arm.ready == Estimate(2.0, None, None, 3)
    assert arm.returned == Estimate(0.5, None, None, 3)
    assert arm.anonymous_bytes is None
    assert arm.rate == 1000 / 2.0


@pytest.mark.parametrize(
    ("valid", "status", "interval"),
    [
        (0, "missing", False),
        (1, "insufficient", False),
        (5, "insufficient", False),
        (6, "measured", True),
    ],
)
def test_an_arm_is_measured_when_its_interval_can_be_told(
    valid: int, status: str, interval: bool
) -> None:
    (arm,) = summarise(_arm("torch-load", [None, *[1.0] * valid]))
    assert arm.status == status
    assert (arm.ready is not None and arm.ready.low is not None) == interval


def test_an_arm_without_a_valid_sample_has_no_figure_at_all() -> None:
    missing = summarise(
        _arm(REFERENCE, [1.0] * 6)
        + _arm("ceiling-read", [1.0] * 6)
        + _arm("torch-load", [None] * 6)
    )[-1]
    assert missing.loader == "torch-load"
    figures = (
        missing.returned,
        missing.ready,
        missing.ratio_returned,
        missing.ratio_ready,
        missing.share_of_ceiling,
        missing.rate,
    )
    assert figures == (None,) * 6
    assert (missing.cpu_s, missing.touch_s, missing.storage_read_bytes) == (None, None, None)


def test_counters_are_medians_of_what_was_told() -> None:
    (arm,) = summarise(
        [
            make_sample(block=block, minor_faults=value, mapped_bytes=0)
            for block, value in enumerate([10, None, 30, 50])
        ]
    )
    assert (arm.minor_faults, arm.mapped_bytes, arm.peak_rss_bytes) == (30, 0, None)


def test_the_fastest_arm_comes_first_and_the_missing_last() -> None:
    samples = (
        _arm("slow", [3.0])
        + _arm("missing", [None])
        + _arm("fast", [1.0])
        + _arm("middling", [2.0])
    )
    assert [arm.loader for arm in summarise(samples)] == ["fast", "middling", "slow", "missing"]


def test_ratios_are_to_the_reference_of_the_same_blocks() -> None:
    drift = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    samples = _arm(REFERENCE, drift, returned=0.25) + _arm(
        "torch-load", [2 * value for value in drift], returned=1.0
    )
    arms = {arm.loader: arm for arm in summarise(samples)}
    assert arms["torch-load"].ratio_ready == Estimate(2.0, 2.0, 2.0, 6)
    assert arms["torch-load"].ratio_returned == Estimate(4.0, 4.0, 4.0, 6)
    assert arms[REFERENCE].ratio_ready == Estimate(1.0, 1.0, 1.0, 6)


def test_the_share_of_the_ceiling_is_one_for_a_plain_read() -> None:
    drift = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    samples = _arm("ceiling-read", drift) + _arm("torch-load", [4 * value for value in drift])
    arms = {arm.loader: arm for arm in summarise(samples)}
    assert arms["ceiling-read"].share_of_ceiling == Estimate(1.0, 1.0, 1.0, 6)
    assert arms["torch-load"].share_of_ceiling == Estimate(0.25, 0.25, 0.25, 6)
    assert summarise(_arm("torch-load", drift))[0].share_of_ceiling is None


def test_an_environment_is_compared_with_its_own_reference() -> None:
    samples = _arm(REFERENCE, [1.0], environment="old") + _arm(REFERENCE, [2.0], environment="new")
    samples += _arm("torch-load", [4.0], environment="old") + _arm(
        "torch-load", [4.0], environment="new"
    )
    ratios = {
        arm.environment: arm.ratio_ready for arm in summarise(samples) if arm.loader == "torch-load"
    }
    assert ratios == {"old": Estimate(4.0, None, None, 1), "new": Estimate(2.0, None, None, 1)}


# Precision

TIGHT = [1.0, 1.0 + 1.9 * PRECISION, 1.0, 1.0 + 1.9 * PRECISION, 1.0, 1.0 + 1.9 * PRECISION]
WIDE = [1.0, 1.0 + 2.2 * PRECISION, 1.0, 1.0 + 2.2 * PRECISION, 1.0, 1.0 + 2.2 * PRECISION]
"""Around a median of 1 + 1.1 `PRECISION`, by 1.1 `PRECISION` to either side: just too wide; `TIGHT`
is just narrow enough.
"""


def test_a_cell_is_precise_when_every_ratio_is_known_well_enough() -> None:
    reference = _arm(REFERENCE, [1.0] * 6)
    assert precise(reference + _arm("a", TIGHT) + _arm("b", TIGHT))
    assert not precise(reference + _arm("a", TIGHT) + _arm("b", WIDE))


def test_both_clocks_have_to_be_known() -> None:
    reference = _arm(REFERENCE, [1.0] * 6)
    arm = _arm("a", [1.0] * 6)
    unsteady = [
        make_sample(loader="a", block=block, ready_s=1.0, returned_s=0.5 * value)
        for block, value in enumerate(WIDE)
    ]
    assert precise(reference + arm)
    assert not precise(reference + unsteady)


def test_a_drift_shared_by_a_block_does_not_make_a_cell() -> None:
    drift = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert precise(_arm(REFERENCE, drift) + _arm("a", [2 * value for value in drift]))


def test_a_cell_with_too_few_pairs_or_none_is_not_precise() -> None:
    assert not precise(_arm(REFERENCE, [1.0] * 5) + _arm("a", [1.0] * 5))
    assert not precise(_arm(REFERENCE, [1.0] * 6) + _arm("a", [1.0] * 5 + [None]))


def test_an_arm_that_never_gives_a_valid_sample_keeps_no_cell() -> None:
    assert precise(_arm(REFERENCE, [1.0] * 6) + _arm("a", [None] * 6))
    assert not precise(_arm(REFERENCE, [1.0, 2.0] * 3) + _arm("a", [None] * 6))


def test_how_steady_the_ceiling_is_does_not_keep_a_cell_going() -> None:
    assert precise(
        _arm(REFERENCE, [1.0] * 6)
        + _arm("a", TIGHT)
        + _arm("ceiling-read", [1.0, 9.0, 1.0, 9.0, 1.0, 9.0])
    )


def test_without_the_reference_each_arm_own_time_has_to_be_known() -> None:
    assert precise(_arm("a", TIGHT) + _arm("b", TIGHT))
    assert not precise(_arm("a", TIGHT) + _arm("b", WIDE))


# A cache below this machine


def _cold(
    ready: Sequence[float | None], first_block: int = 0, fmt: str = "safetensors"
) -> list[Sample]:
    return _arm("torch-load", ready, first_block=first_block, cache_state="cold", format=fmt)


def test_a_first_cold_read_that_took_longer_tells() -> None:
    found = host_cache(_cold([2.6, 2.0, 2.0, 2.0]))
    assert found.likely is True
    assert found.ratio == pytest.approx(1.3)
    assert "1.30 times" in found.note
    assert "cold only inside this machine" in found.note


def test_a_first_cold_read_like_the_others_tells_of_none() -> None:
    found = host_cache(_cold([2.4, 2.0, 2.0]))
    assert found.likely is False
    assert found.ratio == pytest.approx(1.2)
    assert "no sign of a cache below" in found.note


def test_only_reads_of_one_file_by_one_loader_are_compared() -> None:
    """Another loader is slower for its own reasons, another format is another file."""
    first = _cold([2.0])
    other_loader = _arm("torch-load-unsafe", [1.0, 1.0], cache_state="cold", first_block=1)
    other_format = _cold([1.0, 1.0], first_block=1, fmt="torch-zip")
    assert host_cache(first + other_loader).ratio is None
    assert host_cache(first + other_format).ratio == pytest.approx(1.0)


def test_shaped_storage_tells_nothing_of_a_cache_below() -> None:
    """Its first read waits as long as its shape says, and not for what lies below."""
    shaped = _arm("torch-load", [9.0], cache_state="cold", storage="network-disk")
    assert host_cache(shaped + _cold([2.0, 2.0], first_block=1)).ratio == pytest.approx(1.0)


def test_warm_and_invalid_samples_tell_nothing_of_a_cache_below() -> None:
    assert host_cache(_arm("torch-load", [9.0, 1.0, 1.0])).likely is None
    lukewarm = [
        make_sample(
            loader="torch-load", cache_state="cold", ready_s=9.0, valid=False, reason="not-cold"
        )
    ]
    assert host_cache(lukewarm + _cold([2.0, 2.0, 2.0], first_block=1)).ratio == pytest.approx(1.0)
    assert host_cache([]).note == "too few cold reads to tell"


# What the harness costs


def _cost(block: int, sample_s: float, check_s: float | None = 0.25, **overrides: Any) -> Sample:
    return make_sample(block=block, sample_s=sample_s, ready_s=1.0, check_s=check_s, **overrides)


def test_a_samples_cost_is_neither_load_nor_preparation() -> None:
    (cost,) = sample_costs([_cost(0, 1.5), _cost(1, 1.625), _cost(2, 5.0)])
    assert (cost.checkpoint, cost.bytes, cost.samples) == ("lora-1000", 1000, 3)
    assert (cost.beyond_load_s, cost.check_s, cost.process_s) == (0.625, 0.25, 0.375)
    assert (cost.prepare_cold_s, cost.prepare_warm_s) == (None, 0.25)


def test_costs_are_told_for_each_checkpoint_smallest_first() -> None:
    samples = [
        _cost(0, 2.0, checkpoint="large", bytes=2000, cache_state="cold", prepare_s=7.0),
        _cost(0, 3.0, checkpoint="small"),
        _cost(1, 900.0, checkpoint="small", valid=False, reason="hung"),
        _cost(0, 900.0, checkpoint="broken", valid=False, reason="raised"),
    ]
    costs = sample_costs(samples)
    assert [(cost.checkpoint, cost.samples, cost.beyond_load_s) for cost in costs] == [
        ("small", 1, 2.0),
        ("large", 1, 1.0),
    ]
    assert (costs[1].prepare_cold_s, costs[1].prepare_warm_s) == (7.0, None)
