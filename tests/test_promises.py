"""Promises of a page put to the test: each ends in an outcome, a library's lie is found out, and
what could not be tested is not called kept.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.test_promises import promises
from harness.analysis.promises import PROMISES, PromiseResult, judge
from harness.checkpoints.fixture_repositories import (
    PULL_REQUEST,
    Repositories,
    hub_repository,
    make_repositories,
)
from harness.checkpoints.store import Store
from harness.errors import WeighbridgeError
from harness.loaders import all_formats
from harness.records.checks import CHECKS, Check
from harness.records.privacy import private_in
from harness.records.run_directory import RunDirectory
from harness.records.sample import SCHEMA
from harness.report.section_writer import SectionWriter
from harness.report.sections import promises as promises_section
from harness.report.sections.promises import promises_lines
from harness.report.terminal import WIDTH
from harness.run import promise_checks
from harness.run.options import parse
from harness.run.promise_checks import Checking
from harness.run.run import Run
from harness.workers.promise_client import (
    CannotBeCheckedError,
    PromiseClient,
    packages_without,
    request_of,
)
from harness.workers.promise_worker import first_lines, which
from tests.helpers import ALL_INSTALLED, recorded_run
from tests.test_benchmarks import ROOT, Place

pytestmark = pytest.mark.slow

BY_NAME = {promise.name: promise for promise in PROMISES}
PICKS_SAFETENSORS = BY_NAME["text-encoder-both-by-itself"]
DEMANDED = BY_NAME["pipeline-only-bin-demanded"]
WITHOUT = BY_NAME["pipeline-both-by-itself-without-package"]
FAKE_TRANSFORMERS = """
import os, time
import torch

class CLIPTextModel(torch.nn.Module):
    @classmethod
    def from_pretrained(cls, where, subfolder, **asked):
        print("noise on standard output", flush=True)
        conduct = os.environ["CONDUCT"]
        if conduct == "hang":
            time.sleep(600)
        if conduct == "die":
            os._exit(3)
        made = cls()
        read = torch.load(f"{where}/{subfolder}/pytorch_model.bin", weights_only=True)
        if conduct == "half":
            from safetensors.torch import load_file
            read |= dict(list(load_file(f"{where}/{subfolder}/model.safetensors").items())[:3])
        if conduct == "random":
            read = {name: torch.randn(tensor.shape) for name, tensor in read.items()}
        made.state_dict = lambda: read
        return made
"""


def make_check(**overrides: Any) -> Check:
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "run": "a-run",
        "claim": "C8",
        "check": "text-encoder-both-by-itself",
        "subject": "transformers 5",
        "condition": "`CLIPTextModel.from_pretrained(folder)`",
        "promised": "the `.safetensors` files",
        "happened": "loaded the `.bin` content, as CLIPTextModel",
        "message": None,
        "outcome": PromiseResult.BROKEN,
        "seconds": 0.5,
        "started_at": "2025-01-01T00:00:00+00:00",
    }
    return Check(**(figures | overrides))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Repositories:
    return make_repositories(
        tmp_path_factory.mktemp("repositories"), Store(store, formats=all_formats())
    )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, store: Path
) -> tuple[Place, subprocess.CompletedProcess[str]]:
    """Return a run of all checks, as a person starts it."""
    if (missing := promise_checks.absence("diffusers")) and not os.environ.get(ALL_INSTALLED):
        pytest.skip(missing)
    place = Place(tmp_path_factory.mktemp("finished"), store, "benchmarks")
    return place, place.run("-k", "promises", "-m", "cpu")


def recorded(writer: Place) -> list[Check]:
    return RunDirectory(writer.only_run).checks()


# What is promised


def test_every_claim_has_checks_and_no_two_are_called_the_same() -> None:
    assert {promise.claim for promise in PROMISES} == {"C8", "C9", "C11", "F5"}
    assert len(BY_NAME) == len(PROMISES)


def test_a_person_who_names_what_to_weigh_gets_no_checks() -> None:
    assert promises(parse({})) == PROMISES
    assert (
        promises(parse({"loaders": "torch-load"})) == promises(parse({"checkpoints": "gpt2"})) == ()
    )


# Verdicts


def test_a_bin_in_the_place_of_safetensors_breaks_the_promise() -> None:
    told = judge(PICKS_SAFETENSORS, {"loaded": "bin", "made": "CLIPTextModel"})
    assert (told.outcome, told.happened) == (
        PromiseResult.BROKEN,
        "loaded the `.bin` content, as CLIPTextModel",
    )
    assert (
        judge(PICKS_SAFETENSORS, {"loaded": "safetensors", "made": "CLIPTextModel"}).outcome
        == PromiseResult.KEPT
    )


def test_a_variable_that_another_library_reads_breaks_the_promise() -> None:
    promise = BY_NAME["variable-transformers-hf-enable-parallel-loading"]
    read = {"loaded": None, "read_by": ["diffusers", "transformers"], "warnings": []}
    assert judge(promise, read).outcome == PromiseResult.KEPT
    unread = judge(promise, read | {"read_by": ["diffusers"]})
    assert unread.outcome == PromiseResult.BROKEN
    assert "read by diffusers" in unread.happened


@pytest.mark.parametrize("loaded", ["neither", "mixed", "bin"])
def test_a_demand_that_is_met_with_anything(loaded: str) -> None:
    assert (
        judge(DEMANDED, {"loaded": loaded, "made": "A", "warnings": ["falling back"]}).outcome
        == PromiseResult.BROKEN
    )


def test_a_refusal_says_no_and_a_crash_of_the_library_is_none() -> None:
    said = {"loaded": None, "stage": "call", "message": "no file"}
    refused = judge(DEMANDED, said | {"error": ["EntryNotFoundError", "OSError", "Exception"]})
    assert (refused.outcome, refused.message) == (PromiseResult.KEPT, "EntryNotFoundError: no file")
    assert (
        judge(DEMANDED, said | {"error": ["TypeError", "Exception"]}).outcome
        == PromiseResult.BROKEN
    )


def test_a_library_that_cannot_be_imported_keeps_no_demand() -> None:
    answer = {
        "loaded": None,
        "stage": "import",
        "error": ["ImportError"],
        "message": "No module named 'safetensors'",
    }
    assert (
        judge(BY_NAME["pipeline-neither-by-itself-without-package"], answer).outcome
        == PromiseResult.NOT_TESTED
    )
    assert judge(WITHOUT, answer).outcome == PromiseResult.BROKEN
    assert (
        judge(WITHOUT, answer | {"message": "No module named 'PIL'"}).outcome
        == PromiseResult.NOT_TESTED
    ), "that is this machine's fault"
    assert judge(PICKS_SAFETENSORS, answer).outcome == PromiseResult.NOT_TESTED


def test_a_comparison_that_overlooks_a_change_is_broken() -> None:
    tampered, faithful = BY_NAME["compare-tampered"], BY_NAME["compare-faithful"]
    same, different = (
        {"compared": 3, "differing": found, "warnings": []} for found in ([], ["unet.a"])
    )
    assert [judge(promise, same).outcome for promise in (tampered, faithful)] == [
        PromiseResult.BROKEN,
        PromiseResult.KEPT,
    ]
    assert [judge(promise, different).outcome for promise in (tampered, faithful)] == [
        PromiseResult.KEPT,
        PromiseResult.BROKEN,
    ]
    assert judge(tampered, different).happened == "1 of 3 tensors differ, the first is unet.a"


def test_content_is_named_only_where_every_tensor_is_of_it() -> None:
    contents = {"safetensors": {"a": "1", "b": "2"}, "bin": {"a": "3", "b": "4"}}
    assert which({"a": "1", "b": "2", "extra": "9"}, contents) == "safetensors"
    assert which({"a": "3", "b": "4"}, contents) == "bin"
    assert which({"a": "1", "b": "4"}, contents) == "mixed"
    assert which({"a": "1", "b": "5"}, contents) == which({"a": "1"}, contents) == "neither"


def test_a_message_is_short_and_tells_no_path() -> None:
    text = first_lines(
        OSError(f"no file in {Path.home()}/secret/unet.\n\n" + "\n".join(["x" * 200] * 9))
    )
    assert text.startswith("no file in …/unet.")
    assert len(text) <= 501


# Repositories


def test_each_repository_holds_its_formats(made: Repositories) -> None:
    held = {
        name: {path.suffix for path in folder.rglob("*.*")} & {".safetensors", ".bin"}
        for name, folder in made.local.items()
    }
    assert held == {
        "both": {".safetensors", ".bin"},
        "only-safetensors": {".safetensors"},
        "only-bin": {".bin"},
        "neither": set(),
    }
    assert all((folder / "model_index.json").exists() for folder in made.local.values())
    contents = json.loads(made.contents.read_text())
    assert contents["safetensors"].keys() == contents["bin"].keys()
    assert not any(
        contents["safetensors"][name] == digest for name, digest in contents["bin"].items()
    )


def test_a_hubs_cache_lies_as_a_download_leaves_it(tmp_path: Path) -> None:
    shared, added = tmp_path / "shared", tmp_path / "added"
    shared.write_text("shared")
    added.write_text("added")
    hub_repository(
        tmp_path,
        "a/b",
        {
            "main": {"unet/x.bin": shared},
            PULL_REQUEST: {"unet/x.bin": shared, "unet/x.safetensors": added},
        },
    )
    folder = tmp_path / "models--a--b"
    commits = {name: (folder / "refs" / name).read_text() for name in ("main", PULL_REQUEST)}
    assert len(set(commits.values())) == 2
    assert all(len(commit) == 40 and int(commit, 16) for commit in commits.values())
    assert len(list((folder / "blobs").iterdir())) == 2, "what both have is kept once"
    snapshot = folder / "snapshots" / commits[PULL_REQUEST] / "unet"
    assert {path.name: path.read_text() for path in snapshot.iterdir()} == {
        "x.bin": "shared",
        "x.safetensors": "added",
    }
    assert all(not path.readlink().is_absolute() for path in snapshot.iterdir())


def test_packages_without_one_hold_all_the_others(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    for name in (
        "safetensors",
        "safetensors-0.8.0.dist-info",
        "safetensors.libs",
        "safetensors_other",
        "fastsafetensors",
        "torch",
    ):
        (site / name).mkdir(parents=True)
    packages = packages_without(
        tmp_path / "packages", "safetensors", [str(site), str(tmp_path / "missing")]
    )
    assert sorted(path.name for path in packages.iterdir()) == [
        "fastsafetensors",
        "safetensors_other",
        "torch",
    ]


def test_an_environment_that_has_the_package(
    tmp_path: Path,
) -> None:
    packages = packages_without(tmp_path / "packages", "no-such-package")
    with (
        pytest.raises(CannotBeCheckedError, match="can be imported although"),
        PromiseClient(tmp_path / "home", packages),
    ):
        pass


# Liars


def conduct(
    made: Repositories,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    timeout_s: float = 30.0,
) -> dict[str, Any]:
    """Return what a child finds when transformers is one that behaves like this."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text(FAKE_TRANSFORMERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CONDUCT", how)
    with PromiseClient(made.home) as promise_client:
        return promise_client.ask(
            request_of("text-encoder", made.local["both"], made.contents, {}), timeout_s
        )


@pytest.mark.parametrize(
    ("how", "found"), [("bin", "bin"), ("half", "mixed"), ("random", "neither")]
)
def test_another_file_than_promised_is_found_by_its_content(
    made: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, found: str
) -> None:
    answer = conduct(made, tmp_path, monkeypatch, how)
    assert answer["loaded"] == found
    assert judge(PICKS_SAFETENSORS, answer).outcome == PromiseResult.BROKEN


@pytest.mark.parametrize(
    ("how", "told"), [("hang", "hung: no result within 1 s"), ("die", "exited: with status 3")]
)
def test_a_child_that_hangs_or_dies_gives_no_outcome(
    made: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, told: str
) -> None:
    with pytest.raises(CannotBeCheckedError, match=told):
        conduct(made, tmp_path, monkeypatch, how, timeout_s=1.0)


# Records


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "results" / "a-run")
    made.make()
    return made


def test_checks_come_back_as_they_were_appended(
    directory: RunDirectory,
) -> None:
    assert directory.checks() == []
    checks = [make_check(check=name, message="é | \n") for name in ("one", "two", "three")]
    for check in checks:
        directory.append_check(check)
    assert directory.checks() == checks
    path = directory.path / CHECKS
    os.truncate(path, path.stat().st_size - 9)
    assert directory.checks() == checks[:2]
    directory.drop_unfinished_line()
    directory.append_check(checks[2])
    assert directory.checks() == checks


def test_a_damaged_check_is_told_by_its_number(directory: RunDirectory) -> None:
    directory.append_check(make_check())
    with (directory.path / CHECKS).open("a") as file:
        file.write("{}\n")
    with pytest.raises(WeighbridgeError, match=rf"{CHECKS}, line 2: not a check"):
        directory.checks()


def test_where_a_library_is_absent_that_is_the_outcome(
    directory: RunDirectory, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promise_checks, "absence", lambda _: "transformers is not installed")
    monkeypatch.setattr(promise_checks, "make_repositories", None)
    check = Checking(Store(store), directory, lambda _: None).check(PICKS_SAFETENSORS)
    assert (check.outcome, check.happened) == (
        PromiseResult.NOT_TESTED,
        "transformers is not installed",
    )
    assert directory.checks() == [check]


def test_a_check_that_could_not_be_carried_out_leaves_no_line(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> dict[str, Any]:
        raise CannotBeCheckedError("its process killed: by signal 9 (SIGKILL)")

    monkeypatch.setattr("harness.machine.lock.lock_path", lambda: tmp_path / "lock")
    monkeypatch.setattr(promise_checks, "absence", lambda _: None)
    monkeypatch.setattr(PromiseClient, "ask", dies)
    monkeypatch.setattr("harness.workers.protocol.Worker.start", lambda _: {"safetensors": True})
    options = parse({"store": str(store), "results": str(tmp_path / "results")})
    run = Run(options, {}, ["pytest"], lambda _: None, lambda _: None, [PICKS_SAFETENSORS])
    with (
        run,
        pytest.raises(
            CannotBeCheckedError, match="text-encoder-both-by-itself could not be checked"
        ),
    ):
        run.check(PICKS_SAFETENSORS)
    manifest = run.directory.manifest()
    assert manifest["finished_at"] is None
    assert list(manifest["not_checked"]) == [PICKS_SAFETENSORS.name]
    assert run.directory.checks() == []


# The report


def test_the_section_has_a_row_for_each_check(tmp_path: Path) -> None:
    checks = [
        make_check(),
        make_check(check="two", claim="C9", outcome=PromiseResult.KEPT, message="a | b\nc"),
    ]
    blocks = promises_section.section(
        SectionWriter(tmp_path, "a-run", 1), recorded_run(tmp_path, checks=checks)
    )
    assert blocks[0] == "## What the page promises"
    assert "1 kept, 1 broken." in blocks[1]
    assert "| C9 | transformers 5: `CLIPTextModel.from_pretrained(folder)` |" in blocks[2]
    assert "a \\| b c | kept |" in blocks[2]
    (table,) = tmp_path.rglob("*.csv")
    assert len(table.read_text().splitlines()) >= 3
    assert (
        promises_section.section(SectionWriter(tmp_path, "a-run", 1), recorded_run(tmp_path)) == []
    )


def test_a_terminal_shows_each_broken_promise_within_its_width() -> None:
    lines = promises_lines(
        [make_check(), make_check(check="two", outcome=PromiseResult.NOT_TESTED, happened="x")]
    )
    assert lines[0] == "checks of documented behaviour: 1 broken, 1 not tested here"
    assert lines[1].startswith(
        "broken: C8 text-encoder-both-by-itself: promised the `.safetensors` files; loaded"
    )
    assert max(map(len, lines)) <= WIDTH
    assert promises_lines([]) == []


# A run, as a person starts it


@pytest.mark.long
def test_a_run_of_checks_alone_puts_every_promise_to_the_test(
    finished: tuple[Place, subprocess.CompletedProcess[str]],
) -> None:
    place, ended = finished
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [check.check for check in recorded(place)] == [promise.name for promise in PROMISES]
    manifest = json.loads((place.only_run / "manifest.json").read_text())
    assert manifest["finished_at"]
    assert manifest["not_checked"] == {}
    differing = sum(check.outcome == PromiseResult.BROKEN for check in recorded(place))
    assert f"Documented behaviour: {differing} of " in ended.stdout
    assert "Loading pipeline" not in ended.stdout + ended.stderr


@pytest.mark.long
def test_a_variable_is_read_by_the_library_that_reads_it(
    finished: tuple[Place, subprocess.CompletedProcess[str]],
) -> None:
    happened = {check.check: check.happened for check in recorded(finished[0])}
    readers = {
        "variable-transformers-hf-deactivate-async-load": "transformers",
        "variable-transformers-hf-enable-parallel-loading": "diffusers",
        "variable-diffusers-hf-enable-parallel-loading": "diffusers",
    }
    for name, library in readers.items():
        assert happened[name].startswith(f"read by {library} between"), name


@pytest.mark.long
def test_what_is_loaded_is_known_by_its_content(
    finished: tuple[Place, subprocess.CompletedProcess[str]],
) -> None:
    happened = {check.check: check.happened for check in recorded(finished[0])}
    for name, content in (
        ("pipeline-both-declined", ".bin"),
        ("single-file-ckpt", ".ckpt"),
        ("single-file-safetensors", ".safetensors"),
        ("text-encoder-pull-request", ".safetensors"),
    ):
        assert happened[name].startswith(f"loaded the `{content}` content"), name
    assert happened["compare-tampered"].startswith("1 of ")


@pytest.mark.long
def test_every_failure_carries_what_a_person_is_told(
    finished: tuple[Place, subprocess.CompletedProcess[str]],
) -> None:
    failed = [
        check
        for check in recorded(finished[0])
        if "error" in check.happened or "could not be imported" in check.happened
    ]
    assert failed
    assert all(check.message and ": " in check.message for check in failed)
    assert all(
        "safetensors" in (check.message or "")
        for check in failed
        if check.check.endswith("-without-package")
    )


@pytest.mark.long
def test_a_run_of_checks_keeps_nothing_private(
    finished: tuple[Place, subprocess.CompletedProcess[str]],
) -> None:
    place, _ = finished
    places = {str(place.folder), str(ROOT), str(place.store)}
    content = (place.only_run / CHECKS).read_text()
    assert [*private_in(content), *(word for word in places if word in content)] == []
    assert list((place.folder / "tmp").glob("weighbridge-*")) == []


@pytest.mark.long
def test_a_run_that_is_completed_repeats_no_check(
    finished: tuple[Place, subprocess.CompletedProcess[str]],
) -> None:
    place, _ = finished
    before = recorded(place)
    path = place.only_run / CHECKS
    kept = path.read_bytes().splitlines(keepends=True)[:-1]
    path.write_bytes(b"".join(kept) + b'{"schema": 1, "run')
    ended = place.run("-k", "promises", "--resume", place.only_run.name)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    after = recorded(place)
    assert after[:-1] == before[:-1], "with the seconds and the times of the first"
    assert replace(after[-1], seconds=0.0, started_at="") == replace(
        before[-1], seconds=0.0, started_at=""
    )


def test_looking_at_what_would_be_checked_opens_no_run(tmp_path: Path, store: Path) -> None:
    place = Place(tmp_path, store, "benchmarks/test_promises.py")
    ended = place.run("--collect-only", "-q")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("test_promises[") == len(PROMISES)
    assert not place.results.exists()
