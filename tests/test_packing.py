"""A contributed run: small, complete, nothing private in it, and refused where it is not fit."""

from __future__ import annotations

import getpass
import gzip
import json
import platform
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.records import limits
from harness.records.privacy import private_in
from harness.records.run_directory import BENCHMARK, MANIFEST, SAMPLES, RunDirectory
from tests.helpers import ROOT
from tests.test_report import RUN, cell_samples, contents, make_run, spoilt

FINISHED = {"finished_at": "2025-01-01T00:10:00+00:00"}


def packed(run: RunDirectory, into: Path) -> int:
    return main(["pack", str(run.path), "--into", str(into)])


def test_a_packed_run_holds_the_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, cell_samples(), **FINISHED)
    (run.path / BENCHMARK).write_text("{}")
    (run.path / "report.md").write_text("made from the rest")
    assert packed(run, tmp_path / "contributed") == 0
    found = contents(tmp_path / "contributed")
    assert found == {
        f"{RUN}/{name}": (run.path / name).read_bytes() for name in (MANIFEST, SAMPLES)
    }
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "contributed" / RUN),
        "Go on with:",
        "    nox -s report",
        f"    git add {tmp_path / 'contributed' / RUN} reports",
    ]


def test_a_large_run_is_packed_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, cell_samples(), **FINISHED)
    (run.path / BENCHMARK).write_text(" " * 20_000)
    monkeypatch.setattr(limits, "RUN_BYTES_AT_MOST", 20_000)
    assert packed(run, tmp_path / "one") == packed(run, tmp_path / "other") == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert set(contents(tmp_path / "one")) == {f"{RUN}/{MANIFEST}", f"{RUN}/{SAMPLES}.gz"}
    assert RunDirectory(tmp_path / "one" / RUN).samples() == run.samples()
    assert (
        gzip.decompress((tmp_path / "one" / RUN / f"{SAMPLES}.gz").read_bytes())
        == (run.path / SAMPLES).read_bytes()
    )


@pytest.mark.parametrize(
    ("manifest", "detail", "said"),
    [
        ({}, None, "the run is not finished"),
        (FINISHED, "storage-read", "no valid sample"),
        (
            FINISHED | {"command": "pytest --store=/home/anna/models"},
            None,
            "manifest.json holds /home/anna/models",
        ),
        (FINISHED | {"note": "on annas-machine"}, None, "manifest.json holds annas-machine"),
    ],
    ids=["unfinished", "nothing valid", "path", "host"],
)
def test_a_run_that_is_not_fit_is_refused_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    manifest: dict[str, Any],
    detail: str | None,
    said: str,
) -> None:
    monkeypatch.setattr(platform, "node", lambda: "annas-machine")
    samples = cell_samples()
    run = make_run(tmp_path, list(spoilt(samples, detail)) if detail else samples, **manifest)
    assert packed(run, tmp_path / "contributed") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "contributed").exists()


def test_a_path_in_a_packed_sample_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, cell_samples(detail="cannot open /srv/anna/model.bin"), **FINISHED)
    monkeypatch.setattr(limits, "RUN_BYTES_AT_MOST", 20_000)
    assert packed(run, tmp_path / "contributed") == 2
    assert f"{SAMPLES}.gz holds /srv/anna/model.bin" in capsys.readouterr().err
    assert not (tmp_path / "contributed").exists()


def test_a_run_too_large_even_packed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "RUN_BYTES_AT_MOST", 100)
    assert packed(make_run(tmp_path, cell_samples(), **FINISHED), tmp_path / "contributed") == 2
    assert "the packed run takes" in capsys.readouterr().err
    assert not (tmp_path / "contributed").exists()


def test_a_run_that_lies_there_already_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, cell_samples(), **FINISHED)
    assert packed(run, tmp_path / "contributed") == 0
    (tmp_path / "contributed" / RUN / MANIFEST).write_text("mine")
    assert packed(run, tmp_path / "contributed") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "contributed" / RUN / MANIFEST).read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_keeps_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert packed(make_run(tmp_path, cell_samples(), **FINISHED), tmp_path / "file") == 2
    assert "cannot be written to" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == ""


def test_what_is_private_is_told_from_what_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    assert private_in("no /proc/self/io; full-load/gpt2/cold/cpu; …/model.bin; cannanan") == []
    assert private_in("by anna in /opt/models/a.bin") == ["anna", "/opt/models/a.bin"]


def test_no_committed_run_tells_of_its_owner() -> None:
    runs = sorted((ROOT / "results/reference").glob(f"*/{MANIFEST}"))
    assert runs
    for run in runs:
        files = [file for file in sorted(run.parent.iterdir()) if file.is_file()]
        for file in files:
            content = (
                gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            )
            assert private_in(content.decode()) == [], file
        assert json.loads(run.read_text())["finished_at"]
        assert sum(file.stat().st_size for file in files) <= limits.RUN_BYTES_AT_MOST, (
            run.parent.name
        )
