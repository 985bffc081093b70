"""`weighbridge cold` and `weighbridge warm`: a state set and proved for any file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cli import main
from harness.machine import page_cache, proof
from tests.helpers import ROOT, hear, python

MAPS = """
import ctypes, mmap, sys
file = open(sys.argv[1], "rb")
mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(mapping[::4096])
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    if not proof.capability(tmp_path).cold:
        pytest.skip("the tests' folder lies where nothing can be made cold")
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(8 << 20))
    return path


def test_cold_and_warm_are_proved_in_a_line_each(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["warm", str(weights)]) == 0
    assert page_cache.residency([weights]).fraction == 1.0
    assert main(["cold", str(weights)]) == 0
    assert page_cache.residency([weights]).fraction == 0.0
    warm, cold = capsys.readouterr().out.strip().splitlines()
    assert "resident 1.000 before, 0.000 now" in cold and f"{weights}: cold" in cold
    assert ": warm, resident" in warm and "1.000 now" in warm


def test_json_has_an_entry_for_each_file(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = weights.with_name("other.bin")
    other.write_bytes(b"x" * 5000)
    assert main(["cold", "--json", str(weights), str(other)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["file"], first["bytes"], first["after"]) == (str(weights), 8 << 20, 0.0)
    assert (second["outcome"], second["state"]) == ("proved", "cold")
    assert first["depth"] in ("here", "below")


def test_a_file_that_a_process_maps_is_not_cold(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with python(MAPS, weights) as holder:
        assert hear(holder) == "mapped"
        assert main(["cold", str(weights)]) == 1
    line = capsys.readouterr().out
    assert "not cold" in line and f"({holder.pid})" in line


def test_where_no_file_can_be_cold_the_answer_is_2(
    memory_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = memory_folder / "weights"
    path.write_bytes(b"x" * 5000)
    assert main(["cold", str(path)]) == 2
    assert "cold cannot be proved here: tmpfs is memory" in capsys.readouterr().out


def test_a_missing_file_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cold", "no-such-file"]) == 2
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_takes_half_a_second(weights: Path) -> None:
    command = [sys.executable, "-m", "harness", "cold", str(weights)]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) <= 0.5
