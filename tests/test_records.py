"""Records: what was measured can be read back at any moment, whatever happened while it was
written.
"""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from harness.errors import WeighbridgeError
from harness.machine.proof import Capability
from harness.records import run_directory
from harness.records.run_directory import MANIFEST, SAMPLES, RunDirectory
from harness.records.sample import SCHEMA
from harness.run import new_manifest as manifest_module
from harness.run.new_manifest import new_manifest, refuse_other_conditions
from tests.helpers import hear, make_sample, python


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run directory just made."""
    directory = RunDirectory(tmp_path / "results" / "a-run")
    directory.make()
    return directory


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Noon:
        return cls(2025, 1, 2, 12, 0, 0, 999_999, tz)


# Samples


def test_samples_come_back_as_they_were_appended(run: RunDirectory) -> None:
    samples = [
        make_sample(
            block=block, ready_s=block / 7, valid=False, reason="raised", detail="é\n\u2028"
        )
        for block in range(3)
    ]
    assert run.samples() == []
    for count, sample in enumerate(samples, start=1):
        run.append(sample)
        assert run.samples() == samples[:count]


def test_an_appended_sample_outlives_its_process(run: RunDirectory) -> None:
    script = """
import sys
from pathlib import Path
from harness.records.run_directory import RunDirectory
from tests.helpers import make_sample
RunDirectory(Path(sys.argv[1])).append(make_sample(block=7))
print("appended", flush=True)
sys.stdin.read()
"""
    with python(script, run.path) as writer:
        assert hear(writer) == "appended"
        os.kill(writer.pid, signal.SIGKILL)
    assert run.samples() == [make_sample(block=7)]


@pytest.mark.parametrize("cut", [1, 2, 200])
def test_a_line_that_was_being_written_is_left_out(run: RunDirectory, cut: int) -> None:
    run.append(make_sample(block=0))
    run.append(make_sample(block=1))
    path = run.path / SAMPLES
    os.truncate(path, path.stat().st_size - cut)
    assert run.samples() == [make_sample(block=0)]


def test_what_is_appended_after_a_repair_stands_on_a_line(run: RunDirectory) -> None:
    run.append(make_sample(block=0))
    run.append(make_sample(block=1))
    path = run.path / SAMPLES
    os.truncate(path, path.stat().st_size - 5)
    run.drop_unfinished_line()
    run.append(make_sample(block=2))
    assert [sample.block for sample in run.samples()] == [0, 2]


def test_a_repair_leaves_whole_lines_alone(run: RunDirectory) -> None:
    run.drop_unfinished_line()
    assert not (run.path / SAMPLES).exists()
    run.append(make_sample(block=0))
    before = (run.path / SAMPLES).read_bytes()
    run.drop_unfinished_line()
    assert (run.path / SAMPLES).read_bytes() == before


def test_a_first_line_without_an_end_is_all_cut_off(run: RunDirectory) -> None:
    (run.path / SAMPLES).write_text('{"schema": 1')
    assert run.samples() == []
    run.drop_unfinished_line()
    assert (run.path / SAMPLES).read_bytes() == b""


def test_a_line_that_lost_its_middle_is_no_sample(run: RunDirectory) -> None:
    """Often what is left is JSON all the same, and every field that it lost is one that may be
    None.
    """

    for block in range(3):
        run.append(make_sample(block=block))
    first, line, last = (run.path / SAMPLES).read_bytes().splitlines(keepends=True)
    for begin in range(len(line) - 40):
        (run.path / SAMPLES).write_bytes(first + line[:begin] + line[begin + 40 :] + last)
        with pytest.raises(WeighbridgeError, match=rf"{SAMPLES}, line 2: not a sample"):
            run.samples()


@pytest.mark.parametrize(
    "line", [b"{", b"", b"3", b"[]", b"{}", b"null", b'{"run": "\xff"}'], ids=repr
)
def test_a_damaged_line_is_told_by_its_number(run: RunDirectory, line: bytes) -> None:
    """Left out it would be a sample that somebody chose not to count."""
    run.append(make_sample(block=0))
    with (run.path / SAMPLES).open("ab") as file:
        file.write(line + b"\n")
    run.append(make_sample(block=2))
    with pytest.raises(WeighbridgeError, match=rf"{SAMPLES}, line 2: not a sample"):
        run.samples()


# The manifest


def test_a_manifest_is_replaced_as_a_whole(run: RunDirectory) -> None:
    run.write_manifest({"schema": SCHEMA, "note": "first, and longer than what comes after it"})
    first = (run.path / MANIFEST).stat().st_ino
    run.write_manifest({"schema": SCHEMA, "note": "é"})
    assert run.manifest() == {"schema": SCHEMA, "note": "é"}
    assert (run.path / MANIFEST).stat().st_ino != first, "it was written over in place"
    assert [path.name for path in run.path.iterdir()] == [MANIFEST]


def test_a_manifest_of_other_types_is_refused_by_key(run: RunDirectory) -> None:
    run.write_manifest({"schema": SCHEMA, "machine": {"cores": "two"}})
    with pytest.raises(WeighbridgeError, match=r"got `str` - at `\$.machine.cores`"):
        run.manifest()


def test_a_manifest_that_cannot_be_written_leaves_the_one_before(run: RunDirectory) -> None:
    run.write_manifest({"schema": SCHEMA})
    with pytest.raises(TypeError):
        run.write_manifest({"schema": SCHEMA, "no json": object()})
    assert run.manifest() == {"schema": SCHEMA}
    assert [path.name for path in run.path.iterdir()] == [MANIFEST]


@pytest.mark.parametrize("schema", [SCHEMA + 1, None, str(SCHEMA)])
def test_a_run_of_another_schema_is_refused(run: RunDirectory, schema: Any) -> None:
    run.write_manifest({"schema": schema})
    with pytest.raises(
        WeighbridgeError,
        match=(
            rf"schema {schema}, and this release reads schema {SCHEMA}; read it with the release"
            r" that wrote it"
        ),
    ):
        run.manifest()


@pytest.mark.parametrize("content", [None, b"{", b"\xff"], ids=repr)
def test_an_unreadable_manifest_is_a_plain_error(run: RunDirectory, content: bytes | None) -> None:
    if content is not None:
        (run.path / MANIFEST).write_bytes(content)
    with pytest.raises(
        WeighbridgeError, match=rf"no readable {MANIFEST} .*; a run directory holds one"
    ):
        run.manifest()


def _manifest(tmp_path: Path, command: list[str] | None = None) -> Any:
    capability = Capability(cold=True, warm=True, method="cachestat", reason=None)
    return new_manifest("a-run", {"seed": 5}, command or ["weighbridge"], tmp_path, capability)


def test_a_new_manifest_says_where_with_what_and_how(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    assert json.loads(json.dumps(manifest)) == manifest
    assert (manifest["schema"], manifest["run"], manifest["seed"], manifest["finished_at"]) == (
        SCHEMA,
        "a-run",
        5,
        None,
    )
    promised = {
        "machine",
        "storage",
        "packages",
        "git",
        "command",
        "ceilings",
        "page_cache",
        "environments",
        "checkpoints",
    }
    assert promised <= set(manifest)
    assert datetime.fromisoformat(manifest["created_at"]).tzinfo == UTC


def test_a_manifest_holds_no_path_of_the_person(tmp_path: Path) -> None:
    command = [
        "/home/anna/venv/bin/weighbridge",
        "run",
        "--model=/home/anna/secret/mine.bin",
        "--store",
        "/home/anna/store",
        "--seed=5",
    ]
    manifest = _manifest(tmp_path, command)
    assert manifest["command"] == "…/weighbridge run --model=…/mine.bin --store …/store --seed=5"
    assert "anna" not in json.dumps(manifest)
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_run_is_completed_where_it_began(tmp_path: Path) -> None:
    recorded = json.loads(json.dumps(_manifest(tmp_path)))
    refuse_other_conditions(recorded, _manifest(tmp_path))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("machine", "kernel"),
        ("machine", "cpu"),
        ("machine", "cpu_model"),
        ("machine", "cores"),
        ("machine", "memory_bytes"),
        ("storage", "device"),
        ("packages", "torch"),
        ("git", "commit"),
    ],
)
def test_a_run_is_not_completed_under_other_conditions(
    tmp_path: Path, part: str, name: str
) -> None:
    recorded, fresh = (
        _manifest(tmp_path) | {"git": {"commit": "this", "dirty": False}} for _ in range(2)
    )
    recorded[part][name] = "another"
    with pytest.raises(
        WeighbridgeError,
        match=rf"--resume a-run: it began with .*{name} another, here it is .*; start a new run",
    ):
        refuse_other_conditions(recorded, fresh)


def test_a_run_is_not_completed_by_another_release(tmp_path: Path) -> None:
    """Installed from a package there is no commit to tell."""
    fresh = _manifest(tmp_path)
    with pytest.raises(
        WeighbridgeError, match=r"it began with version 0\.0\.1, here it is .*; start a new run"
    ):
        refuse_other_conditions(fresh | {"version": "0.0.1"}, fresh)


def test_a_manifest_outside_a_checkout_has_no_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("harness.run.new_manifest.__file__", str(tmp_path / "new_manifest.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert manifest_module.git_here() is None


# Directories


def test_a_run_is_named_after_its_time_and_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "datetime", Noon)
    run = RunDirectory.planned(tmp_path / "results", "quick")
    assert (run.name, run.path) == (
        "20250102T120000Z-quick",
        tmp_path / "results" / "20250102T120000Z-quick",
    )
    assert not (tmp_path / "results").exists(), "planning writes nothing"


def test_runs_of_the_same_second_get_different_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory, "datetime", Noon)
    names = []
    for _ in range(3):
        run = RunDirectory.planned(tmp_path, "quick")
        run.make()
        names.append(run.name)
    assert names == [
        "20250102T120000Z-quick",
        "20250102T120000Z-quick-2",
        "20250102T120000Z-quick-3",
    ]


def test_a_run_directory_is_never_made_over_another(run: RunDirectory) -> None:
    with pytest.raises(
        WeighbridgeError, match=r"--results .*: cannot be written to \(File exists\)"
    ):
        RunDirectory(run.path).make()


def test_results_that_cannot_be_written_to_are_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        WeighbridgeError,
        match=(
            r"--results .*/file/results: cannot be written to \(Not a directory\); name a folder"
            r" you may write to"
        ),
    ):
        RunDirectory.planned(tmp_path / "file" / "results", "quick").make()


def test_a_run_is_found_by_its_name_and_by_its_path(run: RunDirectory, tmp_path: Path) -> None:
    run.write_manifest({"schema": SCHEMA})
    assert RunDirectory.existing(tmp_path / "results", "a-run").path == run.path
    assert RunDirectory.existing(tmp_path / "elsewhere", str(run.path)).path == run.path


def test_an_unknown_run_is_answered_with_the_runs_there_are(tmp_path: Path) -> None:
    with pytest.raises(WeighbridgeError, match=r"no run 'gone' in .*; there are: none"):
        RunDirectory.existing(tmp_path, "gone")
    for name in ("b-run", "a-run"):
        run = RunDirectory(tmp_path / name)
        run.make()
        run.write_manifest({"schema": SCHEMA})
    (tmp_path / "no-run").mkdir()
    with pytest.raises(WeighbridgeError, match=r"no run 'no-run' in .*; there are: a-run, b-run$"):
        RunDirectory.existing(tmp_path, "no-run")
