"""A loader of another distribution joins by an entry point and is weighed like any other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.test_benchmarks import Place, lines

TOY = '''
"""A toy loader: reads the whole file and hands out views of it."""

from harness.loaders import Loader


def _load(files, device, _):
    from pathlib import Path

    from safetensors.torch import load

    tensors = {}
    for file in files:
        tensors |= load(Path(file).read_bytes())
    {spoil}
    return {name: tensor.to(device) for name, tensor in tensors.items()}


LOADERS = (Loader("toy", "safetensors", _load, ("torch", "safetensors"), memory=2.0),)
'''
SPOILT = {
    "": None,
    "tensors.pop(min(tensors))": "missing",
    "tensors['one-more'] = tensors[min(tensors)]": "one-more not the checkpoint's",
    "tensors[min(tensors)] = tensors[min(tensors)].bfloat16()": "of another dtype",
    "tensors[min(tensors)] = tensors[min(tensors)] + 1": "of other bytes",
}


def _installed(folder: Path, spoil: str) -> dict[str, str]:
    """Put the toy's distribution into a folder, as an installer would, and return the environment that has it."""
    (folder / "weighbridge_toy.py").write_text(TOY.replace("{spoil}", spoil))
    info = folder / "weighbridge_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weighbridge-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[weighbridge.loaders]\ntoy = weighbridge_toy\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize(("spoil", "wrong"), SPOILT.items(), ids=["right", "missing", "extra", "dtype", "bytes"])
def test_a_toy_loader_from_outside_is_weighed_and_a_wrong_one_is_named(
    spoil: str, wrong: str | None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    place = Place(tmp_path, tmp_path_factory.getbasetemp() / "toy-store")
    choice = ("--checkpoints", "lora-1000", "--loaders", "toy,safetensors-load-file", "--cache-states", "warm", "--rounds", "6")
    ended = subprocess.run(
        place.command("-m", "cpu", *choice),
        cwd=ROOT,
        env=place.environment | _installed(folder, spoil),
        capture_output=True,
        text=True,
        timeout=300,
    )
    toy = [line for line in lines(place.only_run) if line["loader"] == "toy"]
    assert len(toy) == 6
    page = (place.only_run / "report.md").read_text(encoding="utf-8")
    if wrong is None:
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert all(line["valid"] and line["content_ok"] for line in toy)
        assert "| toy |" in page and "handed back wrong tensors" not in page
        return
    assert ended.returncode == 1
    assert {line["reason"] for line in toy} == {"wrong-content"}
    assert all(wrong in str(line["detail"]) for line in toy)
    assert "toy handed back wrong tensors" in ended.stdout
    assert "**toy handed back wrong tensors**" in page
    assert "The fastest loader to *ready* is warm **safetensors-load-file**" in page


def test_an_entry_point_that_cannot_be_imported_is_answered_in_one_line(tmp_path: Path) -> None:
    environment = _installed(tmp_path, "")
    (tmp_path / "weighbridge_toy.py").write_text("import a_library_that_is_not_there\n")
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "doctor"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "weighbridge_toy" in ended.stderr and "a_library_that_is_not_there" in ended.stderr
