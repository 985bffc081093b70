"""What the committed calibration promises, worked out again from its samples: quiet simulated runs
stay quiet, and a slow-down is found.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.regression_verdicts import safe_thresholds
from harness.analysis.simulated_runs import alarms, any_alarm, pairs_of, rate, simulated_runs
from harness.records.run_directory import RunDirectory
from harness.regression.calibration import FOUND_AT
from harness.regression.paired_run import FRESH_BLOCKS
from tests.helpers import ROOT

COUNT, ANOTHER_SEED = 200, 7
CALIBRATIONS = sorted((ROOT / "results/reference").glob("*-calibration-*"))


@cache
def _read(path: Path) -> tuple[Any, Any, Any]:
    run = RunDirectory(path)
    manifest = run.manifest()
    simulated = manifest["options"]["paired_run"]
    pairs = pairs_of(run.samples(), simulated["baseline"], simulated["candidate"])
    drawn = simulated_runs(
        pairs, manifest["calibration"]["pairs_in_a_run"], FRESH_BLOCKS, COUNT, ANOTHER_SEED
    )
    held = {
        (cell, loader): safe_thresholds(cell, loader, manifest["thresholds"])
        for cell, loader in pairs
    }
    return manifest, drawn, held


@pytest.fixture(scope="module", params=CALIBRATIONS, ids=lambda path: path.name)
def calibrated(request: pytest.FixtureRequest) -> Any:
    return _read(request.param)


def test_there_is_a_calibration_to_look_at() -> None:
    assert CALIBRATIONS


def test_no_change_is_confirmed_in_one_run_of_a_hundred_at_most(
    calibrated: Any,
) -> None:
    _, drawn, held = calibrated
    assert any_alarm(drawn, lambda arm, one: alarms(one, held[arm])[1]) <= 0.01


@pytest.mark.slow
def test_the_smallest_slow_down_of_the_page_is_found_in_other_simulated_runs_too(
    calibrated: Any,
) -> None:
    manifest, drawn, held = calibrated
    for arm in manifest["calibration"]["arms"]:
        if (smallest := arm["smallest_found_percent"]) is not None:
            key = (arm["cell"], arm["loader"])
            assert rate(drawn, key, held[key], smallest / 100) >= FOUND_AT - 0.05, key


@pytest.mark.slow
def test_a_warm_arm_a_tenth_slower_is_found_where_memory_speed_does_not_drift() -> None:
    _, drawn, held = _read(CALIBRATIONS[0])
    rates = {arm: rate(drawn, arm, held[arm], 0.10) for arm in held if "/warm/" in arm[0]}
    assert rates
    assert {arm: found for arm, found in rates.items() if found < FOUND_AT} == {}


@pytest.mark.slow
def test_a_cold_load_8_percent_slower_is_found_on_shaped_storage() -> None:
    _, drawn, held = _read(CALIBRATIONS[-1])
    shaped = [arm for arm in held if "all-minilm-l6-v2/cold/cpu/latency:1ms" in arm[0]]
    assert shaped
    rates = {arm: rate(drawn, arm, held[arm], 0.08) for arm in shaped}
    assert {arm: found for arm, found in rates.items() if found < FOUND_AT} == {}


def test_the_page_s_rates_are_those_of_its_samples(calibrated: Any) -> None:
    manifest, _, _ = calibrated
    found = manifest["calibration"]
    assert found["simulated_runs"] >= COUNT
    assert found["confirmed_alarm_on"] <= 0.01
    assert len(found["arms"]) == len(manifest["thresholds"]) * 4
