"""The check of the ceilings against fio: what reaches and what does not, and what is said where it
cannot be made.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import main
from harness.commands import ceilings
from harness.errors import WeighbridgeError
from harness.machine import page_cache

RATES = {"ceiling-read": [1.9] * 6, "ceiling-read-4m": [1.0] * 6, "ceiling-direct": [9.0] * 6} | {
    job: [1.0] * 6 for job in ceilings.JOBS
}


@pytest.mark.parametrize(("best", "reached"), [(2.0, True), (2.01, False), (1.0, True)])
def test_the_better_ceiling_has_to_come_near_fio(best: float, reached: bool) -> None:
    said: list[str] = []
    assert (
        ceilings._judged(RATES | {"fio psync, 2 jobs of 4 MiB": [best] * 6}, said.append) == reached
    )
    assert said[0].startswith("ceiling-direct")
    assert said[-1].startswith(
        f"ceiling-read {'reaches' if reached else 'does not reach'} 95 % of fio's best"
    )


def test_without_fio_the_check_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert main(["ceilings"]) == 2
    assert "fio is not installed" in capsys.readouterr().err


def test_a_job_that_fails_is_told_with_fio_s_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fio").write_text("#!/bin/sh\necho no such engine >&2\nexit 1\n")
    (tmp_path / "fio").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    file = tmp_path / "file"
    file.write_bytes(bytes(4096))
    with pytest.raises(WeighbridgeError, match="failed: no such engine"):
        ceilings._fio(("--ioengine=psync",), file)(0)


def test_fio_reads_nothing_that_is_not_proved_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "evict", lambda _: SimpleNamespace(fraction=0.5))
    with pytest.raises(
        WeighbridgeError, match=r"could not be made cold for fio: 0\.5000 of it stayed"
    ):
        ceilings._fio(("--ioengine=psync",), tmp_path / "file")(0)


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
def test_fio_and_the_ceilings_read_one_file_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert main(
        ["ceilings", "all-minilm-l6-v2", "--rounds", "1", "--store", str(tmp_path / "store")]
    ) in {0, 1}
    said = capsys.readouterr().out
    assert all(
        f"{name} " in said
        for name in (*ceilings.JOBS, "ceiling-read", "ceiling-read-4m", "ceiling-direct")
    )
