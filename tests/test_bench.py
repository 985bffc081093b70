"""`weighbridge bench`: the benchmarks of an installed wheel, with the options and exit codes of
`nox -s bench-cpu`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from harness import __version__
from harness.commands import bench
from harness.run.options import FLAGS
from tests.helpers import ROOT


def arguments(*given: str) -> list[str]:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.pytest_arguments(parser.parse_args(given))


def test_bench_measures_the_cpu_unless_told_otherwise() -> None:
    for given, mark in (((), "cpu"), (("--gpu",), "gpu"), (("--safety",), "safety")):
        command = arguments(*given)
        assert command[command.index("-m") + 1] == mark


def test_bench_hands_every_option_on_as_it_was_given() -> None:
    values = {flag: f"value-of{flag}" for flag in FLAGS if flag not in ("--no-ceilings", "--model")}
    given = [f"{flag}={value}" for flag, value in values.items()]
    command = arguments(*given, "--no-ceilings", "--model", "a", "--model", "b", "-k", "x", "-v")
    for option in (*given, "--no-ceilings", "--model=a", "--model=b", "-v"):
        assert option in command
    assert command[command.index("-k") + 1] == "x"


def test_what_follows_two_dashes_goes_to_pytest() -> None:
    assert arguments("--rounds", "6", "--", "-rs", "-x")[-2:] == ["-rs", "-x"]


def test_bench_takes_no_settings_of_the_folder_it_runs_in() -> None:
    command = arguments()
    settings = Path(command[command.index("-c") + 1])
    assert settings.is_file() and settings.parent == Path(command[0])
    assert "no:cacheprovider" in command


def test_the_changelog_and_the_citation_know_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{__version__}]" in changelog
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_wheel_is_made_of_harness_and_benchmarks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = project["tool"]["setuptools"]
    assert set(setuptools["packages"]["find"]["include"]) >= {"harness", "harness.*", "benchmarks"}
    for package, names in setuptools["package-data"].items():
        for name in names:
            assert (ROOT / package.replace(".", "/") / name).is_file(), name


@pytest.mark.long
@pytest.mark.slow
def test_bench_from_an_installed_wheel_ends_with_its_answer(tmp_path: Path) -> None:
    """The wheel is built from a copy, and found by a Python that has no way to the checkout."""
    source, installed, empty = tmp_path / "source", tmp_path / "installed", tmp_path / "empty"
    (tmp_path / "tmp").mkdir()
    empty.mkdir()
    source.mkdir()
    names = ("harness", "benchmarks", "pyproject.toml", "README.md", "LICENSE")
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in names), str(source)], check=True)
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation")
    built = subprocess.run(
        [*pip, "--no-compile", "--target", str(installed), str(source)],
        capture_output=True,
        text=True,
    )
    if built.returncode and "setuptools" in built.stderr:
        pytest.skip("no setuptools to build a wheel with")
    assert built.returncode == 0, built.stderr
    path = os.pathsep.join((str(installed), sysconfig.get_path("purelib")))
    quick = ("--checkpoints", "lora-1000", "--loaders", "torch-load,safetensors-load-file")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "harness", "bench", "--profile", "smoke", "--rounds", "6"),
            *("-k", "full_load and warm", "--no-ceilings", "--store", str(tmp_path / "store")),
            *quick,
        ],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Full load, lora-1000 (4.10 MB), warm: use " in ended.stdout
    assert {path.name for path in empty.iterdir()} <= {"results", ".benchmarks"}
    assert list(empty.glob("results/*/report.md"))
