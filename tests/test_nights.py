"""Simulated nights and other tools' rules, from made-up samples whose truth is known."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from harness.measure.sample import Sample
from harness.verdicts.nights import LEAST, alarms, any_alarm, draw, nights, pairs_of, rate, slowed, thresholds
from harness.verdicts.regression import Thresholds, safe_thresholds
from harness.verdicts.rivals import RIVALS, asv, mann_whitney, pyperf, pytest_benchmark
from tests.helpers import make_sample

ARM = ("everything/lora-1000/warm/cpu", "safetensors-load-file")


def recorded(count: int = 60, noise: float = 0.02, seed: int = 0) -> list[Sample]:
    rng = random.Random(seed)
    return [
        make_sample(block=block, position=rng.random() < 0.5, environment=side, ready_s=time, returned_s=time / 2, cpu_s=0.1)
        for block in range(count)
        for side in ("a", "b")
        for time in [rng.gauss(1.0, noise)]
    ]


def test_pairs_are_of_one_block_and_leave_invalid_samples_out() -> None:
    samples = [*recorded(3), make_sample(block=3, environment="a"), make_sample(block=3, environment="b", valid=False, reason="raised")]
    found = pairs_of(samples, "a", "b")
    assert {(a.block, b.block) for a, b in found[ARM]} == {(0, 0), (1, 1), (2, 2)}


def test_a_night_is_a_stretch_of_blocks_and_its_fresh_pairs_are_others() -> None:
    pairs = pairs_of(recorded(30), "a", "b")[ARM]
    night = draw(pairs, 12, 6, 0.9, swapped=False)
    blocks = [a.block for a, _ in (*night.first, *night.fresh)]
    assert blocks == [*range(27, 30), *range(15)]
    assert draw(pairs, 12, 6, 0.9, swapped=True).first[0] == night.first[0][::-1]


def test_a_recording_too_short_for_a_night_still_keeps_its_fresh_pairs_apart() -> None:
    night = draw(pairs_of(recorded(12), "a", "b")[ARM], 40, 12, 0.0, swapped=False)
    assert len({a.block for a, _ in (*night.first, *night.fresh)}) == len(night.first) + len(night.fresh) == 12


def test_nights_of_no_change_stay_quiet_and_a_tenth_slower_is_found() -> None:
    pairs = pairs_of(recorded(), "a", "b")
    lengths = {ARM[0]: 24}
    held = safe_thresholds(*ARM, thresholds(pairs, lengths))
    drawn = nights(pairs, lengths, 12, 100, 0)
    assert any_alarm(drawn, lambda _, one: alarms(one, held)[1]) == 0
    assert rate(drawn, ARM, held, 0.10) == 1
    assert rate(drawn, ARM, held, 0.01) == 0


def test_thresholds_are_past_what_two_installations_of_the_same_differ_by() -> None:
    lengths = {ARM[0]: 24}
    base = recorded()
    apart = [replace(one, ready_s=(one.ready_s or 0) * 1.06) if one.environment == "b" else one for one in base]
    same, other = (thresholds(pairs_of(samples, "a", "b"), lengths)[ARM[0]][ARM[1]] for samples in (base, apart))
    assert same["ready_s"] == LEAST
    assert other["ready_s"] > 0.06
    assert other["returned_s"] == same["returned_s"]


def test_a_slow_down_moves_both_clocks_and_no_counter() -> None:
    night = draw(pairs_of(recorded(12), "a", "b")[ARM], 6, 6, 0.0, swapped=False)
    before, after = night.first[0], slowed(night, 0.5).first[0]
    assert after[0] == before[0]
    assert (after[1].ready_s, after[1].returned_s, after[1].cpu_s) == (before[1].ready_s * 1.5, before[1].returned_s * 1.5, 0.1)  # type: ignore[operator]


def test_one_alarm_without_fresh_pairs_that_agree_is_not_confirmed() -> None:
    pairs = pairs_of(recorded(24), "a", "b")[ARM]
    night = draw(pairs, 12, 12, 0.0, swapped=False)
    half = type(night)(slowed(night, 0.5).first, night.fresh)
    assert alarms(half, Thresholds()) == (True, False)


@pytest.mark.parametrize("rule", RIVALS.values(), ids=list(RIVALS))
def test_every_rule_finds_what_is_twice_as_slow_and_passes_the_same_figures(rule) -> None:  # type: ignore[no-untyped-def]
    times = [1.0 + 0.001 * number for number in range(20)]
    assert rule(times, [2 * time for time in times])
    assert not rule(times, times)


def test_the_rules_differ_where_they_are_known_to() -> None:
    times = [1.0 + 0.001 * number for number in range(20)]
    barely = [time * 1.03 for time in times]
    assert (pyperf(times, barely), mann_whitney(times, barely)) == (True, True)
    assert (pytest_benchmark(times, barely), asv(times, barely)) == (False, False)
