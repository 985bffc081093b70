"""A sweep of the device's readahead: what is swept is what is measured under, and the device is as
it was afterwards, whatever happens.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.machine.read_ahead import read_ahead_file, read_ahead_kb, setting_refused
from tests.test_benchmarks import Place

pytestmark = pytest.mark.slow

QUICK = (
    "--checkpoints",
    "all-minilm-l6-v2",
    "--parts",
    "one-tensor",
    "--cache-states",
    "cold",
    "--loaders",
    "safetensors-get-slice",
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    file, before = read_ahead_file(tmp_path), read_ahead_kb(tmp_path)
    if file is None or (refused := setting_refused(tmp_path)):
        pytest.skip(refused or "no readahead to set")
    yield Place(tmp_path, tmp_path / "store", "benchmarks/test_partial_load.py")
    if read_ahead_kb(tmp_path) != before:  # only where a test has failed
        file.write_text(str(before))


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


@pytest.mark.long
def test_a_sweep_changes_what_storage_gives(place: Place) -> None:
    before = read_ahead_kb(place.folder)
    ended = place.run(*QUICK, "--read-ahead-kb", "0,8192", "--rounds", "6")
    assert ended.returncode == 0, ended.stdout
    assert read_ahead_kb(place.folder) == before
    assert manifest(place.only_run)["storage"]["read_ahead_kb"] == before
    lines = [
        json.loads(line) for line in (place.only_run / "samples.jsonl").read_text().splitlines()
    ]
    given = {
        (kb, loader): sorted(
            line["storage_read_bytes"] / line["requested_bytes"]
            for line in lines
            if (line["read_ahead_kb"], line["loader"], line["valid"]) == (kb, loader, True)
        )
        for kb in (0, 8192)
        for loader in ("safetensors-get-slice", "ceiling-read")
    }
    assert all(len(found) >= 5 for found in given.values()), given
    assert given[0, "safetensors-get-slice"][-1] < 1.5, "nothing was read ahead"
    assert given[8192, "safetensors-get-slice"][0] > 2.0, "far more was read than was asked for"
    for kb in (0, 8192):
        assert given[kb, "ceiling-read"][-1] <= given[kb, "safetensors-get-slice"][0], (
            "the ceiling bounds it from below"
        )


@pytest.mark.long
def test_a_sweep_that_is_killed_is_put_right_by_the_next_run(place: Place) -> None:
    before = read_ahead_kb(place.folder)
    with place.start(*QUICK, "--read-ahead-kb", "0", "--rounds", "1000") as killed:
        deadline = time.monotonic() + 60
        while read_ahead_kb(place.folder) != 0:
            assert killed.poll() is None, killed.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert read_ahead_kb(place.folder) == 0
    ended = place.run(*QUICK, "--rounds", "1")
    assert read_ahead_kb(place.folder) == before
    last = max(place.results.iterdir())
    assert manifest(last)["storage"]["read_ahead_kb"] == before
    assert f"put back to {before} KiB" in manifest(last)["read_ahead_restored"]
    assert ended.returncode == 0, ended.stdout
