"""A scenario is three places: its entry, its plan and its section.

Nothing else has to know of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.slow

ENTRY = """
_PAIR = Pair("safetensors-load-file", "torch-load")
SCENARIOS["toy-load"] = Scenario("toy-load", "Loading a toy", _PAIR, situation="a toy")
"""
PLAN = '''
"""Toy load: the least that a scenario can be."""
from benchmarks.replay import replay
from harness.loaders import all_loaders
from harness.records.cell import Cell


def plan(options):
    loaders = all_loaders()
    arms = options.arms(loaders, "cpu", "warm", ("torch-load", "safetensors-load-file"))
    return {Cell("toy-load", "lora-1000", "warm", "cpu"): arms}


def test_toy_load(arm, benchmark):
    replay(arm, benchmark)
'''
SECTION = '''
"""The section about toys."""


def section(writer, run):
    cells = run.cells_of("toy-load")
    names = [f"{arm.loader} {arm.valid}" for cell in cells for arm in cell.measured()]
    return [writer.title("toy-load"), ", ".join(names)] if cells else []
'''


@pytest.mark.long
@pytest.mark.slow
def test_a_toy_scenario_joins_by_three_files(tmp_path: Path) -> None:
    house = tmp_path / "house"
    for name in ("harness", "benchmarks", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, house / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, house / name)
    scenarios = house / "harness/scenarios.py"
    scenarios.write_text(scenarios.read_text() + ENTRY)
    (house / "benchmarks/test_toy_load.py").write_text(PLAN)
    (house / "harness/report/sections/toy_load.py").write_text(SECTION)
    folders = ("--store", str(tmp_path / "store"), "--results", str(tmp_path / "results"))
    (tmp_path / "tmp").mkdir()
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "benchmarks",
            "-p",
            "no:cacheprovider",
            "-k",
            "toy_load",
            "-m",
            "cpu",
            "--rounds",
            "6",
            *folders,
        ],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house), "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Toy load, lora-1000 (4.10 MB), warm: use " in ended.stdout
    (page,) = (tmp_path / "results").glob("*/report.md")
    text = page.read_text(encoding="utf-8")
    assert "## Loading a toy" in text
    assert "torch-load 6" in text and "safetensors-load-file 6" in text
    assert "These scenarios have no table yet" not in text
