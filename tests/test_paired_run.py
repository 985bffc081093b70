"""A run of environments side by side is completed like any other: nothing twice, nothing lost."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.analysis.regression_verdicts import judged_run
from harness.commands import regression
from harness.errors import WeighbridgeError
from harness.records.run_directory import RunDirectory
from tests.helpers import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from harness.records.cell import Cell
from harness.regression.environments import Environment
from harness.regression import paired_run
from harness.regression.paired_run import PairedRun, Side
from harness.run.options import parse

paired_run.FRESH_BLOCKS = 4
store, results, resume, fresh = sys.argv[1:]
folders = {"store": store, "results": results, "resume": resume or None}
options = parse({"profile": "smoke", "rounds": "6"} | folders)
cell = Cell("full-load", "lora-1000", "warm", "cpu")
sides = [Side(name, Environment(name, sys.executable)) for name in ("baseline", "candidate")]
about = {"kind": "regression", "baseline": "baseline", "candidate": "candidate"}
plan = {cell: ("torch-load", "safetensors-load-file")}
command = ["weighbridge", "regression"]
say = lambda text: print(text, flush=True)
with PairedRun(options, plan, sides, "regression-smoke", about, command, say) as run:
    run.go_through(float("inf"), 6, passes=1 if fresh else 2)
    if fresh:
        run.take_fresh([(cell, "torch-load")])
"""


def start(folder: Path, resume: str = "", fresh: str = "") -> subprocess.Popen[str]:
    """Start such a run in a process of its own."""
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(folder / "store"),
            str(folder / "results"),
            resume,
            fresh,
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(folder: Path, words: str, resume: str = "", fresh: str = "") -> RunDirectory:
    """Return the run of a process that was killed as soon as it said these words."""
    with start(folder, resume, fresh) as process:
        assert process.stdout
        assert any(words in line for line in process.stdout), "it never came so far"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    (path,) = (folder / "results").iterdir()
    return RunDirectory(path)


def completed(folder: Path, run: RunDirectory, fresh: str = "") -> None:
    """Complete a run."""
    with start(folder, run.name, fresh) as process:
        process.communicate(timeout=300)
    assert process.returncode == 0


@pytest.mark.long
def test_a_killed_run_is_completed_and_nothing_is_taken_twice(tmp_path: Path) -> None:
    run = killed(tmp_path, "block 4")
    before = run.samples()
    assert before and run.manifest()["finished_at"] is None
    completed(tmp_path, run)
    after, manifest = run.samples(), run.manifest()
    assert after[: len(before)] == before, "what was taken stays"
    assert manifest["finished_at"]
    places = Counter(
        (sample.block, sample.loader, sample.environment) for sample in after if sample.valid
    )
    assert set(places.values()) == {1}
    blocks = {sample.block for sample in after}
    assert blocks == set(range(max(blocks) + 1))
    assert 6 <= len(blocks) <= 7, "the block that the kill cut is not made up for"
    (entry,) = manifest["cells"]
    assert entry["finished_passes"] == len(entry["passes"]) == 2
    assert entry["status"] == "done"
    assert len(judged_run(manifest, after)) == 2


@pytest.mark.long
def test_fresh_pairs_go_on_where_they_were(tmp_path: Path) -> None:
    run = killed(
        tmp_path, "fresh pairs of full-load/lora-1000/warm/cpu torch-load, half 2 of 2", fresh="yes"
    )
    (entry,) = run.manifest()["cells"]
    begun = len(entry["fresh"]["torch-load"])
    assert begun > 2
    completed(tmp_path, run, fresh="yes")
    (entry,) = run.manifest()["cells"]
    assert len(entry["fresh"]["torch-load"]) == 4
    assert len(set(entry["fresh"]["torch-load"])) == 4


def arguments(*words: str) -> argparse.Namespace:
    """Return what the command is given."""
    parser = argparse.ArgumentParser()
    regression.add_arguments(parser)
    return parser.parse_args(words)


def test_resuming_takes_the_options_from_the_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "20250101T000000Z-regression-smoke")
    run.make()
    command = (
        "weighbridge regression --profile smoke --candidate 'safetensors==0.7.0 numpy==2.1'"
        " --inject torch-load=15"
    )
    run.write_manifest({"schema": 1, "command": command})
    given, manifest = regression._resumed(
        arguments("--resume", run.name, "--results", str(tmp_path))
    )
    assert (given.profile, given.candidate, given.inject) == (
        "smoke",
        "safetensors==0.7.0 numpy==2.1",
        ["torch-load=15"],
    )
    assert given.resume == run.name and manifest["command"] == command
    with pytest.raises(WeighbridgeError, match="leave out --profile"):
        regression._resumed(
            arguments("--resume", run.name, "--results", str(tmp_path), "--profile", "full")
        )
