"""Simulated simulated runs and other tools' rules, from made-up samples whose truth is known."""

from __future__ import annotations

import random
from dataclasses import replace

from harness.analysis.regression import Thresholds
from harness.analysis.regression_verdicts import safe_thresholds
from harness.analysis.simulated_runs import (
    LEAST,
    alarms,
    any_alarm,
    draw,
    pairs_of,
    rate,
    simulated_runs,
    slowed,
    thresholds,
)
from harness.records.sample import Sample
from tests.helpers import make_sample

ARM = ("everything/lora-1000/warm/cpu", "safetensors-load-file")


def recorded(count: int = 60, noise: float = 0.02, seed: int = 0) -> list[Sample]:
    rng = random.Random(seed)
    return [
        make_sample(
            block=block,
            position=rng.random() < 0.5,
            environment=side,
            ready_s=time,
            returned_s=time / 2,
            cpu_s=0.1,
        )
        for block in range(count)
        for side in ("a", "b")
        for time in [rng.gauss(1.0, noise)]
    ]


def test_pairs_are_of_one_block_and_leave_invalid_samples_out() -> None:
    samples = [
        *recorded(3),
        make_sample(block=3, environment="a"),
        make_sample(block=3, environment="b", valid=False, reason="raised"),
    ]
    found = pairs_of(samples, "a", "b")
    assert {(a.block, b.block) for a, b in found[ARM]} == {(0, 0), (1, 1), (2, 2)}


def test_a_simulated_run_is_a_stretch_of_blocks() -> None:
    pairs = pairs_of(recorded(30), "a", "b")[ARM]
    simulated = draw(pairs, 12, 6, 0.9, swapped=False)
    blocks = [a.block for a, _ in (*simulated.first, *simulated.fresh)]
    assert blocks == [*range(27, 30), *range(15)]
    assert draw(pairs, 12, 6, 0.9, swapped=True).first[0] == simulated.first[0][::-1]


def test_a_short_recording_keeps_its_fresh_pairs_apart() -> None:
    simulated = draw(pairs_of(recorded(12), "a", "b")[ARM], 40, 12, 0.0, swapped=False)
    assert (
        len({a.block for a, _ in (*simulated.first, *simulated.fresh)})
        == len(simulated.first) + len(simulated.fresh)
        == 12
    )


def test_simulated_runs_of_no_change_stay_quiet() -> None:
    pairs = pairs_of(recorded(), "a", "b")
    lengths = {ARM[0]: 24}
    held = safe_thresholds(*ARM, thresholds(pairs, lengths))
    drawn = simulated_runs(pairs, lengths, 12, 100, 0)
    assert any_alarm(drawn, lambda _, one: alarms(one, held)[1]) == 0
    assert rate(drawn, ARM, held, 0.10) == 1
    assert rate(drawn, ARM, held, 0.01) == 0


def test_thresholds_are_past_what_two_installations() -> None:
    lengths = {ARM[0]: 24}
    base = recorded()
    apart = [
        replace(one, ready_s=(one.ready_s or 0) * 1.06) if one.environment == "b" else one
        for one in base
    ]
    same, other = (
        thresholds(pairs_of(samples, "a", "b"), lengths)[ARM[0]][ARM[1]]
        for samples in (base, apart)
    )
    assert same["ready_s"] == LEAST
    assert other["ready_s"] > 0.06
    assert other["returned_s"] == same["returned_s"]


def test_a_slow_down_moves_both_clocks_and_no_counter() -> None:
    simulated = draw(pairs_of(recorded(12), "a", "b")[ARM], 6, 6, 0.0, swapped=False)
    before, after = simulated.first[0], slowed(simulated, 0.5).first[0]
    assert before[1].ready_s and before[1].returned_s
    assert after[0] == before[0]
    assert (after[1].ready_s, after[1].returned_s, after[1].cpu_s) == (
        before[1].ready_s * 1.5,
        before[1].returned_s * 1.5,
        0.1,
    )


def test_one_alarm_without_fresh_pairs() -> None:
    pairs = pairs_of(recorded(24), "a", "b")[ARM]
    simulated = draw(pairs, 12, 12, 0.0, swapped=False)
    half = type(simulated)(slowed(simulated, 0.5).first, simulated.fresh)
    assert alarms(half, Thresholds()) == (True, False)
