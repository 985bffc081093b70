"""Pages of regression runs: what they say of releases and verdicts, from made-up samples whose
truth is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.analysis.regression_verdicts import exit_code, judged_run, verdicts_row
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from harness.records.verdicts import VERDICTS_FILE, write_verdicts
from harness.report.run_page import write_run_report
from harness.report.sections.regression import summary
from harness.report.sections.release_history import history_frame, releases_without_a_figure
from tests.helpers import make_sample

CELL = {"scenario": "full-load", "checkpoint": "gpt2", "cache_state": "warm", "device": "cpu"}
ENTRY = {
    "name": "full-load/gpt2/warm/cpu",
    **CELL,
    "arms": ["torch-load", "safetensors-load-file"],
    "left_out": {},
    "status": "done",
    "fresh": {},
}


def manifest(paired_run: dict[str, Any], entry: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "schema": make_sample().schema,
        "run": "20250101T000000Z-regression run",
        "options": {"paired_run": paired_run, "profile": "default"},
        "machine": {},
        "storage": {},
        "environments": {},
        "checkpoints": {"gpt2": {"bytes": 498_000_000}},
        "cells": [entry or ENTRY],
    }


def loads(environment: str, loader: str, time: float) -> list[Sample]:
    sides = (
        make_sample(
            **CELL,
            loader=loader,
            environment=environment,
            block=block,
            ready_s=time,
            returned_s=time,
            cpu_s=0.1,
        )
        for block in range(8)
    )
    return list(sides)


def written(folder: Path, held: dict[str, Any], samples: list[Sample]) -> str:
    run = RunDirectory(folder / held["run"])
    run.make()
    run.write_manifest(held)
    for sample in samples:
        run.append(sample)
    return write_run_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("factor", "words"),
    [(60.0, "it holds with lib==2"), (30.0, "it holds with none of these releases")],
)
def test_a_history_says_with_which_releases_the_claim_holds(
    tmp_path: Path, factor: float, words: str
) -> None:
    paired_run = {"kind": "history", "releases": ["lib==1", "lib==2"]}
    samples = [
        *loads("lib==1", "torch-load", 10.0),
        *loads("lib==1", "safetensors-load-file", 1.0),
        *loads("lib==2", "torch-load", factor),
        *loads("lib==2", "safetensors-load-file", 1.0),
    ]
    frame = history_frame(paired_run["releases"], samples)
    assert dict(zip(frame["release"], frame["median"], strict=True)) == {
        "lib==1": 10.0,
        "lib==2": factor,
    }
    page = written(tmp_path, manifest(paired_run), samples)
    assert words in page
    assert "history.svg" in page


def test_a_release_without_a_valid_sample_is_named(tmp_path: Path) -> None:
    paired_run = {
        "kind": "history",
        "releases": ["lib==1", "lib==2"],
        "not_installed": {"lib==0": "no wheel"},
    }
    samples = [
        *loads("lib==1", "torch-load", 10.0),
        *loads("lib==1", "safetensors-load-file", 1.0),
        *loads("lib==2", "torch-load", 9.0),
    ]
    assert releases_without_a_figure(manifest(paired_run), samples) == [
        "lib==2: full-load/gpt2/warm/cpu safetensors-load-file"
    ]
    page = written(tmp_path, manifest(paired_run), samples)
    assert "lib==0 could not be installed: no wheel" in page
    assert "no valid sample: lib==2: full-load/gpt2/warm/cpu safetensors-load-file" in page


def test_a_regression_s_page_and_its_verdicts_file_say_the_same(tmp_path: Path) -> None:
    held = manifest(
        {
            "kind": "regression",
            "baseline": "baseline",
            "candidate": "candidate",
            "slowed_percent": {},
        }
    )
    samples = [
        *loads("baseline", "torch-load", 1.0),
        *loads("candidate", "torch-load", 1.5),
        *loads("baseline", "safetensors-load-file", 1.0),
        *loads("candidate", "safetensors-load-file", 1.0),
    ]
    found = judged_run(held, samples)
    assert {one.loader: one.change.verdict for one in found} == {
        "torch-load": "slower",
        "safetensors-load-file": "same",
    }
    page = written(tmp_path, held, samples)
    assert summary(held, found, exit_code(found)) in page
    write_verdicts(tmp_path / held["run"], [verdicts_row(one) for one in found], exit_code(found))
    assert '"exit_code": 1' in (tmp_path / held["run"] / VERDICTS_FILE).read_text()


def test_an_unfinished_calibration_says_that_nothing_rests_on_it(tmp_path: Path) -> None:
    assert "no threshold uses it" in written(tmp_path, manifest({"kind": "calibration"}), [])
