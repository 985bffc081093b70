"""Trials with hostile files: each ends in an outcome within its bounds, in a process of its own,
and the suite's own unpickles nothing.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import pytest

from harness.checkpoints.store import Store
from harness.errors import WeighbridgeError
from harness.hostile import Family, HostileFile, corpus
from harness.hostile.callables import SOURCE
from harness.hostile.opcodes import Global, pickled
from harness.loaders import all_formats
from harness.machine import confinement
from harness.records.run_directory import RunDirectory
from harness.records.trials import Harm, Outcome, Trial
from harness.report.run_page import write_run_report
from harness.report.sections.hostile_files import trials_lines
from harness.run import hostile_trials
from harness.run.hostile_trials import Trials, loaders_to_test
from harness.run.options import parse
from harness.run.run import Run
from harness.scenarios import HOSTILE_SCAN
from harness.workers.sandbox_client import Case, case
from tests.helpers import hear, python

LOADERS = (
    "pickle-load",
    "torch-load",
    "torch-load-unsafe",
    "torch-load-mmap",
    "torch-dcp",
    "safetensors-load-file",
    "safetensors-pread",
    "picklescan",
)
FILES = (
    "whole.safetensors",
    "whole.bin",
    "hash-tower.bin",
    "sleep.pkl",
    "bytearray.bin",
    "doubling-text.pkl",
    "processes.pkl",
    "left-behind.pkl",
    "elsewhere.pkl",
    "parent.pkl",
    "false-answer.pkl",
    "disk.pkl",
    "cap-padded.safetensors",
    "cap-text-over.safetensors",
    "numel-more.bin",
    "import-beside.pkl",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(confinement.refusal() is not None, reason=str(confinement.refusal())),
]


def _injected(proof: Path) -> list[HostileFile]:
    """Return files of no corpus: one that would tell of itself outside its folder, and ways to end
    that leave no canary.
    """

    family = Family("injected", "pickle", Harm.CODE)
    told = (
        f"import os\ntry:\n with open({str(proof)!r}, 'a') as told: told.write(f'{{os.getpid()}}"
        f" ')\nexcept OSError: pass\n{SOURCE}"
    )
    rows = (
        ("proof", "tells which process ran it", told),
        ("ends", "ends its process", "import os\nos._exit(0)"),
        (
            "lies-and-ends",
            "says it was loaded and ends",
            'import os\nos.write(1, b\'{"ended": "loaded"}\')\nos._exit(7)',
        ),
        (
            "floods",
            "writes to its pipe without end",
            (
                "import os\nfor fd in range(3, 64):\n try:\n  while True: os.write(fd, b'x' *"
                " 65536)\n except OSError: pass"
            ),
        ),
        (
            "wrong-words",
            "says its time is text",
            (
                'import os\nfor fd in range(3, 64):\n try: os.write(fd, b\'{"seconds": "x",'
                ' "error": 5, "began_rss": []}\\n\')\n except OSError: pass\nos._exit(0)'
            ),
        ),
        ("breaks", "breaks its process", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"),
        (
            "eats",
            "asks for memory until there is none",
            "held = []\nwhile True: held.append(bytes(16 << 20))",
        ),
        ("loops", "never ends", "while True: pass"),
    )
    family.table("{}.pkl", rows, lambda source: pickled(Global("builtins", "exec")(source)))
    return family.hostile_files


def _temporary() -> set[Path]:
    """Return the folders that runs have for what they need for a while."""
    return set(Path(tempfile.gettempdir()).glob("weighbridge-*"))


class Held:
    """The trials of one run, and what stood around them."""

    def __init__(
        self,
        met: list[Trial],
        proof: Path,
        events: list[tuple[str, str]],
        left: list[int],
        directory: RunDirectory,
    ) -> None:
        self.met, self.proof, self.events, self.left, self.directory = (
            met,
            proof,
            events,
            left,
            directory,
        )

    def of(self, file: str, loader: str) -> Trial:
        """Return the trial of a file with a loader."""
        (found,) = [one for one in self.met if (one.file, one.loader) == (file, loader)]
        return found


_EVENTS: list[tuple[str, str]] = []
_HOOKED: list[bool] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        _EVENTS.append((str(arguments[0]), str(arguments[1])))


@pytest.fixture(scope="module")
def unpickled() -> list[tuple[str, str]]:
    """What this process unpickles from here on: each global by module and name.

    A hook of the interpreter can never be taken off.
    """

    if not _HOOKED:
        sys.addaudithook(_listen)
        _HOOKED.append(True)
    return _EVENTS


@pytest.fixture(scope="module")
def held(unpickled: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Held:
    """Some of the corpus and what was injected, met by some loaders, as a run of the whole has it,
    its page included.
    """

    place = tmp_path_factory.mktemp("held")
    proof = place / "proof"
    known = {one.name: one for one in corpus()}
    hostile_files = [
        *(known[name] for name in FILES),
        *(one for one in known.values() if one.plain),
        *_injected(proof),
    ]
    hostile_files = list({one.name: one for one in hostile_files}.values())
    options = parse(
        {"profile": "smoke", "results": str(place / "results"), "store": str(place / "store")}
    )
    before = _temporary()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("harness.run.run.corpus", lambda _families: tuple(hostile_files))
        Store(place / "store", formats=all_formats()).warm_up(
            {loaders_to_test()[name][2].format for name in LOADERS}
        )  # the store's own are read back
        del unpickled[:]
        with Run(options, {}, ["pytest"], lambda _: None, lambda _: None, tested=LOADERS) as run:
            met = [one for name in LOADERS for one in run.try_hostile_files(name)]
            sandboxes = [
                sandbox.pid
                for group in run._trials._sandboxes.values()
                for sandbox in group
                if sandbox.pid
            ]
        write_run_report(run.directory)
        trials_lines(run.manifest, run.directory.trials())
        events = list(unpickled)
    left = [pid for pid in sandboxes if Path(f"/proc/{pid}").exists()]
    assert _temporary() <= before
    return Held(met, proof, events, left, run.directory)


def _no_sandbox(models: bool) -> NoReturn:
    pytest.fail("a sandbox supervisor was started")


def test_every_file_meets_every_loader(held: Held) -> None:
    files = {one.file for one in held.met}
    assert len(held.met) == len(files) * len(LOADERS)
    assert {one.outcome for one in held.met} <= set(Outcome)
    assert all(one.seconds >= 0 and one.peak_rss_bytes for one in held.met)


def test_a_line_of_a_trial_has_what_was_promised_of_it(held: Held) -> None:
    lines = [
        json.loads(line) for line in (held.directory.path / "trials.jsonl").read_text().splitlines()
    ]
    assert len(lines) == len(held.met)
    promised = {
        "scenario",
        "file",
        "family",
        "loader",
        "outcome",
        "error",
        "seconds",
        "peak_rss_bytes",
    }
    assert all(promised <= line.keys() for line in lines)
    assert {line["scenario"] for line in lines if line["loader"] != "picklescan"} == {
        "hostile-files"
    }


@pytest.mark.parametrize("loader", ["pickle-load", "torch-load-unsafe"])
def test_a_loader_that_asks_nothing_runs_every_plain_payload(loader: str, held: Held) -> None:
    formats = {
        "pickle-load": {"pickle"},
        "torch-load-unsafe": {"pickle", "torch-zip", "torch-legacy"},
    }[loader]
    plain = [one.name for one in corpus() if one.plain and one.format in formats]
    assert plain
    assert {file: held.of(file, loader).outcome for file in plain} == dict.fromkeys(
        plain, Outcome.RAN
    )


@pytest.mark.parametrize(
    "loader", ["safetensors-load-file", "safetensors-pread", "torch-load", "torch-load-mmap"]
)
def test_a_loader_that_unpickles_nothing_or_little_runs_no_code(loader: str, held: Held) -> None:
    assert [
        one.file for one in held.met if one.loader == loader and one.outcome == Outcome.RAN
    ] == []


def test_the_suite_s_own_processes_unpickle_no_file(held: Held) -> None:
    assert (
        held.of("proof.pkl", "pickle-load").outcome == Outcome.RAN
    )  # it was met, and would have told
    assert not held.proof.exists()
    assert held.events == []
    assert not (held.proof.parent / "canary").exists()


def test_a_process_that_did_unpickle_would_be_found_out(
    unpickled: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del unpickled[:]
    pickle.loads(pickle.dumps(OrderedDict()))
    assert ("collections", "OrderedDict") in unpickled
    injected = next(one for one in _injected(tmp_path / "proof") if one.name == "proof.pkl")
    monkeypatch.chdir(tmp_path)
    pickle.loads(injected.files(0)["proof.pkl"])
    assert (tmp_path / "proof").read_text().split() == [str(os.getpid())]


@pytest.mark.parametrize(
    ("file", "loader", "outcome"),
    [
        ("hash-tower.bin", "torch-load", Outcome.HUNG),
        ("sleep.pkl", "pickle-load", Outcome.HUNG),
        ("loops.pkl", "pickle-load", Outcome.HUNG),
        ("loops.pkl", "torch-dcp", Outcome.HUNG),
        ("bytearray.bin", "torch-load", Outcome.STARVED),
        ("doubling-text.pkl", "pickle-load", None),  # whichever limit it meets first
        ("eats.pkl", "torch-load-unsafe", Outcome.STARVED),
    ],
)
def test_a_bomb_ends_by_a_limit_and_within_it(
    file: str, loader: str, outcome: str | None, held: Held
) -> None:
    found = held.of(file, loader)
    assert found.outcome in ((outcome,) if outcome else (Outcome.STARVED, Outcome.HUNG))
    assert found.seconds < 4
    base = held.directory.manifest()["loaders_under_test"][loader]["base_rss_bytes"]
    assert found.peak_rss_bytes
    assert found.peak_rss_bytes - base < 1.2 * (1 << 29)


def test_processes_are_ended_with_all_that_they_began(held: Held) -> None:
    crowd, left = held.of("processes.pkl", "pickle-load"), held.of("left-behind.pkl", "pickle-load")
    assert crowd.left
    assert left.left == 2
    assert held.left == []


def test_what_a_payload_tries_outside_its_folder_leaves_no_trace(held: Held) -> None:
    assert held.of("elsewhere.pkl", "pickle-load").outcome == Outcome.RAN
    assert not Path(tempfile.gettempdir(), "weighbridge-outside").exists()
    assert held.of("parent.pkl", "pickle-load").outcome == Outcome.RAN
    assert held.of("disk.pkl", "pickle-load").outcome == Outcome.RAN


def test_a_payload_s_word_is_not_taken_for_an_outcome(held: Held) -> None:
    assert held.of("false-answer.pkl", "pickle-load").outcome == Outcome.RAN
    assert held.of("lies-and-ends.pkl", "pickle-load").outcome == Outcome.CRASHED
    assert held.of("ends.pkl", "pickle-load").outcome == Outcome.CRASHED


def test_a_payload_that_floods_the_pipe(held: Held) -> None:
    assert held.of("floods.pkl", "pickle-load").outcome == Outcome.HUNG
    nonsense = held.of("wrong-words.pkl", "pickle-load")
    assert (nonsense.outcome, nonsense.error) == (Outcome.CRASHED, "ended by itself with status 0")


def test_a_process_that_cannot_be_confined_calls_no_loader(tmp_path: Path) -> None:
    script = """
import json, sys
from harness.workers import sandbox_worker, sandboxed_child
def refuse(folder, limits):
    raise OSError("no such system call")
sandboxed_child.confine = refuse
key = "harness.loaders.plain_pickle:pickle-load"
request = {"loader": key, "folder": sys.argv[1], "files": ["a"], "links": {"a": sys.argv[2]}}
print(json.dumps(sandbox_worker.trial(request | {"timeout_s": 2.0})), flush=True)
"""
    (tmp_path / "a").write_bytes(pickled(Global("builtins", "open")("canary", "w")))
    with python(script, tmp_path / "trial", tmp_path / "a") as process:
        answer = json.loads(hear(process))
    assert answer["failure"] == "unconfined"
    assert "no such system call" in answer["detail"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_signal_is_a_crash_and_told_by_its_name(held: Held) -> None:
    found = held.of("breaks.pkl", "pickle-load")
    assert (found.outcome, found.error) == (Outcome.CRASHED, "SIGSEGV")


def test_a_refusal_is_told_by_its_class_and_first_line(
    held: Held,
) -> None:
    refused, loaded = (
        held.of("proof.pkl", "safetensors-load-file"),
        held.of("whole.safetensors", "safetensors-load-file"),
    )
    assert (refused.outcome, loaded.outcome) == (Outcome.REFUSED, Outcome.LOADED)
    assert (refused.error or "").startswith("SafetensorError: Error while deserializing header")
    assert loaded.error == "2 tensors, 48 bytes"


def test_a_module_that_lies_beside_a_file_is_found(held: Held) -> None:
    assert held.of("import-beside.pkl", "pickle-load").outcome == Outcome.RAN


@pytest.mark.parametrize("loader", ["safetensors-load-file", "safetensors-pread"])
def test_the_header_is_taken_at_its_limit(loader: str, held: Held) -> None:
    assert held.of("cap-padded.safetensors", loader).outcome == Outcome.LOADED
    above = held.of("cap-text-over.safetensors", loader)
    assert above.outcome == Outcome.REFUSED
    assert "header too large" in (above.error or "")


def test_a_scanner_is_met_under_a_scenario_of_its_own(held: Held) -> None:
    found = held.of("reduce.pkl", "picklescan")
    assert (found.scenario, found.outcome) == (HOSTILE_SCAN, Outcome.REFUSED)
    assert (found.error or "").startswith("FoundError: ")
    assert held.of("whole.bin", "picklescan").outcome == Outcome.LOADED


def test_a_run_keeps_its_corpus_s_digest_and_what_each_file_is(held: Held) -> None:
    manifest = held.directory.manifest()
    assert manifest["finished_at"]
    assert len(manifest["corpus"]["digest"]) == 64
    assert manifest["corpus"]["files"]["whole.bin"]["harm"] == Harm.NONE
    assert set(manifest["loaders_under_test"]) == set(LOADERS)
    assert "file-copy" in manifest["without_trials"]


def test_a_run_that_is_completed_holds_no_trial_twice(held: Held, tmp_path: Path) -> None:
    told: list[str] = []
    again = Trials(
        Store(tmp_path),
        held.directory,
        held.directory.manifest(),
        ["pickle-load"],
        _known(held),
        told.append,
    )
    again._prepare = lambda: None  # type: ignore[method-assign]
    again._sandboxes_of = _no_sandbox  # type: ignore[method-assign]
    assert again.done(["pickle-load"])


def _known(held: Held) -> list[HostileFile]:
    names = {one.file for one in held.met}
    return [one for one in (*corpus(), *_injected(held.proof)) if one.name in names]


def test_a_machine_that_cannot_confine_tries_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "_abi", lambda: -1)
    options = parse(
        {"profile": "smoke", "results": str(tmp_path / "results"), "store": str(tmp_path / "store")}
    )
    with Run(
        options, {}, ["pytest"], lambda _: None, lambda _: None, tested=["pickle-load"]
    ) as run:
        with pytest.raises(WeighbridgeError, match="Landlock"):
            run.try_hostile_files("pickle-load")
        assert "Landlock" in run.manifest["not_met"]["pickle-load"]
    assert run.directory.trials() == []


def test_a_corpus_that_is_not_the_known_one_is_met_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = corpus(["whole-files"])
    monkeypatch.setattr(hostile_trials, "corpus", lambda: few)
    monkeypatch.setattr("harness.run.run.corpus", lambda _families: few)
    options = parse(
        {"profile": "smoke", "results": str(tmp_path / "results"), "store": str(tmp_path / "store")}
    )
    with (
        Run(options, {}, ["pytest"], lambda _: None, lambda _: None, tested=["pickle-load"]) as run,
        pytest.raises(WeighbridgeError, match="digest"),
    ):
        run.try_hostile_files("pickle-load")
    assert run.directory.manifest()["finished_at"] is None


def test_every_loader_of_the_suite_is_a_tested_or_told_why_not() -> None:
    from harness.loaders import KINDS, all_loaders

    known = {
        name
        for kind in KINDS
        for name, (_, loader) in all_loaders(kind).items()
        if not loader.ceiling and "cpu" in loader.devices
        if loader.threads in (None, hostile_trials.THREADS)
    }
    assert known == set(loaders_to_test()) | set(hostile_trials._SAME_READING)


def test_a_single_file_is_given_by_its_own_name() -> None:
    found = case([Path("/c/x.pkl"), Path("/c/beside.py")], [Path("/s/model.pickle")], folder=False)
    assert found == Case({"x.pkl": "/c/x.pkl", "beside.py": "/c/beside.py"}, ("x.pkl",))


def test_a_scanner_is_given_every_file_of_an_index() -> None:
    found = case(
        [Path("/c/x.index.json"), Path("/c/shard.bin")],
        [Path("/s/model.bin")],
        folder=False,
        every=True,
    )
    assert found.files == ("x.index.json", "shard.bin")


def test_in_a_folder_a_file_stands_in_for_all_weights() -> None:
    whole = [
        Path("/s/p/model_index.json"),
        Path("/s/p/unet/w.safetensors"),
        Path("/s/p/vae/w.safetensors"),
        Path("/s/p/vae/config.json"),
    ]
    found = case([Path("/c/x.pkl")], whole, folder=True)
    assert found.links["unet/w.safetensors"] == found.links["vae/w.safetensors"] == "/c/x.pkl"
    assert found.links["vae/config.json"] == "/s/p/vae/config.json"
    assert found.files == (
        "model_index.json",
        "unet/w.safetensors",
        "vae/w.safetensors",
        "vae/config.json",
    )


def test_an_index_stands_with_its_shards_where_the_weights_were() -> None:
    index = [Path("/c/model.safetensors.index.json"), Path("/c/shard.safetensors")]
    found = case(
        index, [Path("/s/p/config.json"), Path("/s/p/model.safetensors")], folder=True, sharded=True
    )
    assert "model.safetensors" not in found.links
    assert found.links["shard.safetensors"] == "/c/shard.safetensors"
    assert found.files == ("config.json",)
