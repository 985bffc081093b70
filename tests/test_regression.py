"""The verdict on a change, from made-up pairs: each way it can come out, and what it must never
take for a regression.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace

import pytest

from harness.analysis.regression import Thresholds, Verdict, change, confirmed
from harness.analysis.regression_verdicts import exit_code, judged, safe_thresholds
from harness.machine import shape_mount
from harness.records.sample import Sample
from harness.records.verdicts import INVALID, NO_BASELINE, NOTHING, REGRESSION
from harness.regression.options import SHAPE, add_shared, paired_request
from tests.helpers import make_sample


def arm(times: list[float], **fields: object) -> list[Sample]:
    return [
        make_sample(block=block, ready_s=time, returned_s=time / 2, cpu_s=0.1, **fields)
        for block, time in enumerate(times)
    ]


BASE = [1.00, 1.02, 0.99, 1.01, 1.00, 0.98, 1.03, 1.00]


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, Verdict.SAME),
        (1.03, Verdict.SAME),
        (1.2, Verdict.SLOWER),
        (0.8, Verdict.FASTER),
        (1.101, Verdict.AMBIGUOUS),
    ],
)
def test_a_constant_change_is_told_by_its_whole_interval(factor: float, verdict: str) -> None:
    shift = [0.0, 0.002, -0.002, 0.001, -0.001, 0.0, 0.002, -0.002]
    assert (
        change(
            arm(BASE), arm([time * (factor + s) for time, s in zip(BASE, shift, strict=True)])
        ).verdict
        == verdict
    )


def test_drift_that_both_share_is_no_change() -> None:
    drift = [1.0 * 1.1**block for block in range(10)]
    assert change(arm(drift), arm([time * 1.01 for time in drift])).verdict == Verdict.SAME


def test_five_pairs_are_insufficient() -> None:
    assert change(arm(BASE[:5]), arm([9.0] * 5)).verdict == Verdict.INSUFFICIENT
    apart = [make_sample(block=block + 100, ready_s=1.0) for block in range(8)]
    assert change(arm(BASE), apart).reason.startswith("0 pairs")


def test_an_arm_without_a_valid_sample_is_missing() -> None:
    broken = [make_sample(block=block, valid=False, reason="raised") for block in range(8)]
    assert change(arm(BASE), broken).verdict == Verdict.MISSING
    assert change(broken, arm(BASE)).reason.startswith("the baseline")


def test_a_candidate_that_hands_back_wrong_tensors_is_missing() -> None:
    lying = [
        *arm([0.1] * 7),
        make_sample(block=7, valid=False, reason="wrong-content", detail="a differs"),
    ]
    found = change(arm(BASE), lying)
    assert (found.verdict, found.ratio) == (Verdict.MISSING, None)
    assert "a differs" in found.reason


def test_a_single_slow_block_is_no_regression() -> None:
    assert change(arm(BASE), arm([*BASE[:-1], 50.0])).verdict in (Verdict.SAME, Verdict.AMBIGUOUS)


def test_a_lazy_return_that_grew_is_slower_by_that_clock() -> None:
    late = [
        make_sample(block=block, ready_s=time, returned_s=time * 0.9, cpu_s=0.1)
        for block, time in enumerate(BASE)
    ]
    found = change(arm(BASE), late)
    assert (found.verdict, found.metric) == (Verdict.SLOWER, "returned_s")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("storage_read_bytes", 100 << 20, 130 << 20),
        ("minor_faults", 1000, 2000),
        ("peak_growth_bytes", 100 << 20, 200 << 20),
    ],
)
def test_a_counter_that_grows_is_a_regression(name: str, before: int, after: int) -> None:
    rng = random.Random(0)
    noisy = [rng.uniform(0.5, 2.0) for _ in range(8)]
    found = change(
        arm(noisy, **{name: before}),
        arm([rng.uniform(0.5, 2.0) for _ in range(8)], **{name: after}),
    )
    assert (found.verdict, found.metric) == (Verdict.SLOWER, name)


def test_a_counter_s_noise_is_none() -> None:
    assert change(arm(BASE, minor_faults=100), arm(BASE, minor_faults=300)).verdict == Verdict.SAME


def test_only_what_fresh_pairs_confirm() -> None:
    slow = change(arm(BASE), arm([time * 1.3 for time in BASE]))
    assert confirmed(slow, slow).verdict == Verdict.SLOWER
    assert confirmed(slow, change(arm(BASE), arm(BASE))).verdict == Verdict.AMBIGUOUS
    by_memory = change(arm(BASE, peak_growth_bytes=1 << 20), arm(BASE, peak_growth_bytes=99 << 20))
    assert by_memory.verdict == Verdict.SLOWER
    assert confirmed(slow, by_memory).verdict == Verdict.AMBIGUOUS
    fast = change(arm(BASE), arm([time * 0.5 for time in BASE]))
    assert confirmed(fast, slow) == fast


def test_thresholds_are_the_machine_s_own() -> None:
    strict = Thresholds(clocks={"ready_s": 0.01, "returned_s": 0.01})
    slower = arm([time * 1.05 for time in BASE])
    assert change(arm(BASE), slower).verdict == Verdict.SAME
    assert change(arm(BASE), slower, strict).verdict == Verdict.SLOWER


def test_a_side_that_always_came_first_is_no_evidence() -> None:
    first = [make_sample(block=block, position=0, ready_s=1.0, cpu_s=0.1) for block in range(12)]
    then = [make_sample(block=block, position=1, ready_s=1.5, cpu_s=0.1) for block in range(12)]
    assert change(first, then).verdict == Verdict.INSUFFICIENT
    assert "the baseline came first" in change(first, then).reason
    turned = [
        make_sample(block=block, position=-1 if block % 2 else 1, ready_s=1.5, cpu_s=0.1)
        for block in range(12)
    ]
    assert change(first, turned).verdict == Verdict.SLOWER


def test_fresh_blocks_confirm_and_never_count_twice() -> None:
    base, slow = arm(BASE * 2), arm([time * 1.3 for time in BASE] + BASE)
    samples = [
        *(replace(one, environment="a") for one in base),
        *(replace(one, environment="b") for one in slow),
    ]
    entry = {
        "name": "everything/lora-1000/warm/cpu",
        "arms": ["safetensors-load-file"],
        "fresh": {"safetensors-load-file": list(range(8, 16))},
    }
    found = judged([entry], samples, "a", "b", safe_thresholds)[0]
    assert (found.first.verdict, found.fresh and found.fresh.verdict, found.change.verdict) == (
        Verdict.SLOWER,
        Verdict.SAME,
        Verdict.AMBIGUOUS,
    )
    assert found.first.ratio is not None
    assert found.first.ratio.count == 8


def test_exit_codes_tell_a_regression_from_a_gap() -> None:
    def code(base: list[Sample], new: list[Sample]) -> int:
        samples = [
            *(replace(one, environment="a") for one in base),
            *(replace(one, environment="b") for one in new),
        ]
        entries = [{"name": "everything/lora-1000/warm/cpu", "arms": ["safetensors-load-file"]}]
        return exit_code(judged(entries, samples, "a", "b", safe_thresholds))

    good = arm(BASE)
    assert code(good, good) == NOTHING
    assert code(good, arm([time * 2 for time in BASE])) == REGRESSION
    assert code(good, good[:4]) == INVALID
    assert code(good, []) == INVALID
    assert code([], good) == NO_BASELINE
    assert exit_code([]) == NO_BASELINE


def test_fresh_pairs_need_less_of_a_clock_that_has_told_already() -> None:
    base = [make_sample(block=block, ready_s=1.0, returned_s=0.5, cpu_s=0.1) for block in range(12)]
    times = [
        1.05,
        1.2,
    ] * 6  # the interval of ready reaches below its threshold, that of returned does not
    new = [
        make_sample(block=block, ready_s=time, returned_s=0.6, cpu_s=0.1)
        for block, time in enumerate(times)
    ]
    assert list(change(base, new).reasons) == ["returned_s"]
    assert list(change(base, new, confirming=("ready_s",)).reasons) == ["ready_s", "returned_s"]
    both = change(
        base,
        [make_sample(block=block, ready_s=1.3, returned_s=0.6, cpu_s=0.1) for block in range(12)],
    )
    assert confirmed(both, change(base, new)).metric == "returned_s"


def test_a_cold_cell_on_shaped_storage_is_held_to_less() -> None:
    shaped, plain, warm = (
        safe_thresholds(f"full-load/gpt2/{rest}", "torch-load").clocks["ready_s"]
        for rest in ("cold/cpu/latency:1ms+rate:100MBps", "cold/cpu", "warm/cpu")
    )
    assert (shaped, plain, warm) == (0.05, 0.30, 0.10)


def given(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_shared(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("reason", [None, "mfusepy is not installed"])
def test_cold_cells_lie_on_shaped_storage_where_it_can_be_had(
    reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape_mount, "refused", lambda: reason)
    request = paired_request(given("--profile", "default"))
    cold = {cell.storage for cell in request.plan if cell.cache_state == "cold"}
    assert cold == ({SHAPE} if reason is None else {"as-is"})
    assert {cell.storage for cell in request.plan if cell.cache_state == "warm"} == {"as-is"}
    assert reason is None or reason in request.note
    named = paired_request(given("--profile", "default", "--storage", "as-is"))
    assert {cell.storage for cell in named.plan} == {"as-is"}
