"""A loader of another distribution joins by an entry point and is measured like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.test_benchmarks import Place, lines

pytestmark = pytest.mark.slow

TOY = '''
"""Toy loaders: each reads the whole file, and most return something else."""

from functools import partial

from harness.loaders import Loader


def _missing(tensors):
    del tensors[min(tensors)]


def _extra(tensors):
    tensors["one-more"] = tensors[min(tensors)]


def _dtype(tensors):
    tensors[min(tensors)] = tensors[min(tensors)].bfloat16()


def _bytes(tensors):
    tensors[min(tensors)] = tensors[min(tensors)] + 1


def _load(spoil, files, device):
    from pathlib import Path

    from safetensors.torch import load

    tensors = {}
    for file in files:
        tensors |= load(Path(file).read_bytes())
    if spoil:
        spoil(tensors)
    return {name: tensor.to(device) for name, tensor in tensors.items()}


LOADERS = tuple(
    Loader(
        f"toy{spoil.__name__ if spoil else ''}",
        "safetensors",
        partial(_load, spoil),
        ("torch", "safetensors"),
        memory=2.0,
    )
    for spoil in (None, _missing, _extra, _dtype, _bytes)
)
'''
SPOILT = {
    "toy_missing": "missing",
    "toy_extra": "one-more not the checkpoint's",
    "toy_dtype": "of another dtype",
    "toy_bytes": "of other bytes",
}


def _installed(folder: Path) -> dict[str, str]:
    """Put the toys' distribution into a folder, as an installer would, and return the environment
    that has it.
    """

    (folder / "weighbridge_toy.py").write_text(TOY)
    info = folder / "weighbridge_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weighbridge-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[weighbridge.loaders]\ntoy = weighbridge_toy\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def _weighed(
    folder: Path, *toys: str
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]], str]:
    """Return how a run of these toys ended, its samples' lines and its page."""
    site = folder / "site"
    site.mkdir()
    place = Place(folder, folder.parent / "toy-store")
    names = ",".join((*toys, "safetensors-load-file"))
    choice = (
        "--checkpoints",
        "lora-1000",
        "--loaders",
        names,
        "--cache-states",
        "warm",
        "--rounds",
        "6",
    )
    ended = subprocess.run(
        place.command("-m", "cpu", *choice),
        cwd=ROOT,
        env=place.environment | _installed(site),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ended, lines(place.only_run), (place.only_run / "report.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_a_toy_loader_from_outside_is_measured(tmp_path: Path) -> None:
    ended, samples, page = _weighed(tmp_path, "toy")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    toy = [line for line in samples if line["loader"] == "toy"]
    assert len(toy) == 6 and all(line["valid"] and line["content_ok"] for line in toy)
    assert "| toy |" in page and "returned wrong tensors" not in page
    (manifest,) = (
        json.loads(path.read_text()) for path in (tmp_path / "results").glob("*/manifest.json")
    )
    assert manifest["environments"]["reference"]["versions"]["weighbridge-toy"] == "1.0"
    assert manifest["packages"]["weighbridge-toy"] == "1.0"


@pytest.mark.long
def test_wrong_ones_are_each_named_and_none_is_the_fastest(tmp_path: Path) -> None:
    ended, samples, page = _weighed(tmp_path, *SPOILT)
    assert ended.returncode == 1
    for name, wrong in SPOILT.items():
        toy = [line for line in samples if line["loader"] == name]
        assert len(toy) == 6 and {line["reason"] for line in toy} == {"wrong-content"}
        assert all(wrong in str(line["detail"]) for line in toy)
        assert f"{name} returned wrong tensors" in ended.stdout
        assert f"**{name} returned wrong tensors**" in page
    assert "The fastest loader to *ready* is warm **safetensors-load-file**" in page


def test_an_entry_point_that_cannot_be_imported_is_answered(tmp_path: Path) -> None:
    environment = _installed(tmp_path)
    (tmp_path / "weighbridge_toy.py").write_text("import a_library_that_is_not_there\n")
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "doctor"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "weighbridge_toy" in ended.stderr and "a_library_that_is_not_there" in ended.stderr
