"""What more than one test file needs: a sample with plausible figures, and Python in a process of
its own.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import cells_of
from harness.loaders import EVERYTHING, Ceiling, Contract, all_loaders
from harness.records.checks import Check
from harness.records.run_directory import RunDirectory
from harness.records.sample import SCHEMA, Sample
from harness.records.trials import Trial

ROOT = Path(__file__).parents[1]
ALL_INSTALLED = "WEIGHBRIDGE_ALL_LOADERS"
"""A variable of the tests' own session, which installs every loader's library that has a wheel
here.
"""

PINNED_FOR = ("linux", "x86_64")
"""The platform that every pin of requirements/loaders.txt has a wheel for."""


def loader_of(name: str) -> Contract:
    """Return a loader by name."""
    return all_loaders()[name][1]


def ceiling_of(name: str, kind: str = EVERYTHING) -> Ceiling:
    """Return a ceiling by name."""
    ceiling = all_loaders(kind)[name][1]
    assert isinstance(ceiling, Ceiling)
    return ceiling


def present(name: str) -> Contract:
    """Return a loader; skip the test where its library is missing, and fail it where it was to be
    installed.
    """

    loader = loader_of(name)
    if absence := loader.absence():
        _missing(absence)
    return loader


def installed(library: str) -> Any:
    """Return an imported library of the peers' pins.

    Skip the test where it is missing, and fail it where it was to be installed.
    """

    try:
        return importlib.import_module(library)
    except ImportError as error:
        _missing(str(error))


def _missing(absence: str) -> NoReturn:
    if os.environ.get(ALL_INSTALLED) and (sys.platform, platform.machine()) == PINNED_FOR:
        pytest.fail(f"{absence}, though {ALL_INSTALLED} says that all are")
    pytest.skip(absence, allow_module_level=True)


def make_sample(**overrides: Any) -> Sample:
    """Return a valid warm sample of 1,000 bytes, `overrides` put in place of its figures."""
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "run": "20250101T000000Z-test",
        "scenario": "everything",
        "checkpoint": "lora-1000",
        "format": "safetensors",
        "bytes": 1000,
        "tensors": 10,
        "loader": "safetensors-load-file",
        "environment": "reference",
        "device": "cpu",
        "cache_state": "warm",
        "block": 0,
        "position": 0,
        "started_at": "2025-01-01T00:00:00.000+00:00",
        "prepare_s": 0.25,
        "sample_s": 0.75,
        "resident_before": 1.0,
        "resident_after": 1.0,
        "valid": True,
        "reason": None,
        "detail": None,
        "first_call_s": 0.001,
        "returned_s": 0.5,
        "ready_s": 1.0,
        "touch_s": 0.01,
        "storage_read_bytes": 0,
        "content_ok": True,
    }
    return Sample(**(figures | overrides))


def recorded_run(
    folder: Path,
    samples: Sequence[Sample] = (),
    manifest: Mapping[str, Any] | None = None,
    trials: Sequence[Trial] = (),
    checks: Sequence[Check] = (),
) -> RecordedRun:
    """Return a run as the analysis reads it, without writing it."""
    manifest = manifest or {}
    return RecordedRun(
        RunDirectory(folder),
        manifest,
        tuple(samples),
        tuple(cells_of(manifest, samples)),
        tuple(trials),
        tuple(checks),
    )


@contextmanager
def python(
    script: str, *arguments: object, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, which is gone when this is left.

    It can import the harness and talks through its pipes.
    """

    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hear(process: subprocess.Popen[str]) -> str:
    """Return the next line a process says, without its end; empty when it is gone."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")
