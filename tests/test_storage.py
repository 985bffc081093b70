"""The scenario of storage: cold loads from shaped storage, each proved by what that storage
served.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.machine import shape_mount
from harness.records.cell import Cell, is_shaped
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from tests.helpers import ROOT


def test_a_cell_on_shaped_storage_is_told_by_its_name() -> None:
    plain = Cell("full-load", "gpt2", "cold", "cpu", read_ahead_kb=128)
    shaped = Cell("full-load", "gpt2", "cold", "cpu", storage="latency:1ms")
    assert plain.name == "full-load/gpt2/cold/cpu/read-ahead-128"
    assert shaped.name == "full-load/gpt2/cold/cpu/latency:1ms"
    assert not is_shaped(plain.name) and is_shaped(shaped.name)
    assert not is_shaped("full-load/gpt2/warm/cpu")
    assert Cell.recorded({"scenario": "a", "checkpoint": "b", "cache_state": "cold", "device": "c"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, str]:
    """Return a run on the disk as it is and on two shapes, and what it printed."""
    folder = tmp_path_factory.mktemp("storage")
    (folder / "tmp").mkdir()
    arguments = {
        "--profile": "storage",
        "--storage": "as-is,latency=1ms,requests=2000",
        "--checkpoints": "all-minilm-l6-v2",
        "--loaders": "safetensors-load-file,safetensors-pread,torch-load",
        "--rounds": "7",
        "--store": str(folder / "store"),
        "--results": str(folder / "results"),
    }
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider"),
            *("-m", "cpu", "-k", "storage"),
            *(word for pair in arguments.items() for word in pair),
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (path,) = (folder / "results").iterdir()
    return RunDirectory(path), ended.stdout


def by_storage(run: RunDirectory) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {}
    for sample in run.samples():
        samples.setdefault(sample.storage, []).append(sample)
    return samples


@pytest.mark.long
@pytest.mark.slow
def test_what_storage_served_proves_each_cold_load(run: tuple[RunDirectory, str]) -> None:
    samples = by_storage(run[0])
    reasons = {entry["name"]: entry["reason"] for entry in run[0].manifest()["cells"]}
    if "latency:1ms" not in samples:
        assert shape_mount.refused() and any(map(str, reasons.values()))
        pytest.skip(f"no FUSE here: {shape_mount.refused()}")
    for sample in samples["latency:1ms"]:
        assert (sample.storage_witness, sample.cold_depth) == ("requests served", "here")
        assert sample.valid or sample.reason == "storage-late", sample.detail
        assert sample.storage_read_bytes is not None and sample.storage_read_bytes >= sample.bytes
        assert sample.storage_requests is not None and sample.storage_request_bytes is not None
        assert sample.storage_requests * sample.storage_request_bytes >= sample.bytes
    as_is = samples["as-is"]
    assert {sample.storage_witness for sample in as_is} == {"bytes read"}
    assert {sample.cold_depth for sample in as_is} <= {"here", "below"}
    assert all(sample.valid for sample in as_is)


@pytest.mark.long
@pytest.mark.slow
def test_a_latency_makes_every_load_wait(run: tuple[RunDirectory, str]) -> None:
    samples = by_storage(run[0])
    if "latency:1ms" not in samples:
        pytest.skip("no FUSE here")
    for sample in samples["latency:1ms"]:
        assert sample.ready_s is not None and sample.storage_requests is not None
        at_once = 16
        assert sample.ready_s >= sample.storage_requests * 1e-3 / at_once


@pytest.mark.long
@pytest.mark.slow
def test_the_page_says_what_to_take_on_which_storage(run: tuple[RunDirectory, str]) -> None:
    directory, _ = run
    page = (directory.path / "report.md").read_text(encoding="utf-8")
    assert "On storage like yours, take:" in page
    assert "the disk as it is" in page
    if "latency:1ms" in by_storage(directory):
        assert "1 ms a request" in page and "mapped over read" in page
        assert (
            directory.manifest()["shapes"]["latency:1ms"]["words"] == "1 ms a request, 16 at once"
        )
    sources = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert str(directory.path.parent.parent) not in sources, "its mount is gone with the run"
