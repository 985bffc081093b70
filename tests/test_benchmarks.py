"""A run as a person starts it: `python -m pytest benchmarks`, in a process of its own, with its own
store, results and lock.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import conftest
from harness.loaders import all_formats
from harness.records.privacy import private_in
from tests.helpers import hear, python

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAIR = "safetensors-load-file,torch-load"
WARM_ARMS = 2 + 2  # the pair and the ceilings
COLD_ARMS = 2 + 3
QUICK = ("--checkpoints", "lora-1000", "--loaders", PAIR, "--cache-states", "warm", "--rounds", "6")


@dataclass(frozen=True)
class Place:
    """Folders of one test's runs."""

    folder: Path
    store: Path
    scenario: str = "benchmarks/test_full_load.py"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def command(self, *arguments: str) -> list[str]:
        folders = ("--store", str(self.store), "--results", str(self.results))
        return [
            sys.executable,
            "-m",
            "pytest",
            self.scenario,
            "-p",
            "no:cacheprovider",
            *folders,
            *arguments,
        ]

    @property
    def environment(self) -> dict[str, str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {
            **os.environ,
            "TMPDIR": str(self.folder / "tmp"),
        }  # the lock lies there: a run of the person's own is left alone

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    @property
    def only_run(self) -> Path:
        (directory,) = self.results.iterdir()
        return directory


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def place(tmp_path: Path, store: Path) -> Place:
    return Place(tmp_path, store)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, store: Path
) -> tuple[Place, subprocess.CompletedProcess[str]]:
    """Return one run of two loaders, cold and warm, that several tests look at."""
    place = Place(tmp_path_factory.mktemp("finished"), store)
    quick = ("--checkpoints", "lora-1000", "--loaders", PAIR, "--rounds", "6")
    return place, place.run("-m", "cpu", *quick)


Finished = tuple[Place, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Finished:
    """Return a run of one loader in two blocks, too few for an interval."""
    place = Place(tmp_path_factory.mktemp("brief"), store)
    return place, place.run("-m", "cpu", "-rs", *QUICK[:-1], "2", "-k", "torch-load")


def lines(directory: Path) -> list[dict[str, object]]:
    path = directory / "samples.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_ends_well_and_names_its_page(finished: Finished) -> None:
    place, ended = finished
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"report: {place.only_run / 'report.md'}" in ended.stdout
    assert (place.only_run / "report.md").is_file()
    assert list((place.only_run / "figures").glob("*.svg"))
    assert list((place.only_run / "tables").glob("*.csv"))


def test_a_run_ends_with_an_answer_of_ten_lines_or_fewer(finished: Finished) -> None:
    _, ended = finished
    after = ended.stdout.partition("what to use")[2].splitlines()[1:]
    text = list(itertools.takewhile(lambda line: not line.startswith("report: "), after))
    told = [line for line in text if line.strip()]
    assert 2 <= len(told) <= 10
    assert any("lora-1000" in line and "use " in line for line in told)
    assert any(line.startswith("How sure: ") for line in told)


def test_a_piped_run_tells_each_cell_once_in_plain_text(finished: Finished) -> None:
    _, ended = finished
    cells = [line for line in ended.stdout.splitlines() if re.match(r"cell \d+ of 2: ", line)]
    assert len(cells) == len({line.split(":")[1] for line in cells}) == 2
    assert "\x1b" not in ended.stdout
    assert "valid/taken" not in ended.stdout


@pytest.mark.long
def test_details_come_with_verbose(finished: Finished, place: Place) -> None:
    run = finished[0].only_run
    shutil.copytree(run, place.results / run.name)
    ended = place.run("-m", "cpu", "-v", "--resume", run.name)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "valid/taken" in ended.stdout
    assert "fastest to ready" in ended.stdout


def test_every_arm_of_every_cell_is_taken_once_a_block(finished: Finished) -> None:
    taken = [
        (line["cache_state"], line["block"], line["loader"]) for line in lines(finished[0].only_run)
    ]
    assert len(taken) == len(set(taken)) == 6 * (COLD_ARMS + WARM_ARMS)


def test_valid_cold_samples_were_cold_and_valid_warm_ones_warm(finished: Finished) -> None:
    valid = [line for line in lines(finished[0].only_run) if line["valid"]]
    assert {line["cache_state"] for line in valid} == {"cold", "warm"}
    for line in valid:
        resident = line["resident_before"]
        assert isinstance(resident, float)
        assert resident <= 0.001 if line["cache_state"] == "cold" else resident >= 0.999


def test_the_recorder_holds_exactly_the_seconds(
    finished: Finished,
) -> None:
    recorded = json.loads((finished[0].only_run / "benchmark.json").read_text())["benchmarks"]
    assert len(recorded) == COLD_ARMS + WARM_ARMS
    for entry in recorded:
        cell, loader = entry["group"], entry["extra_info"]["loader"]
        ready = [
            line["ready_s"]
            for line in lines(finished[0].only_run)
            if line["valid"] and line["loader"] == loader and f"/{line['cache_state']}/" in cell
        ]
        assert entry["stats"]["data"] == ready


def test_a_run_keeps_nothing_private(finished: Finished) -> None:
    place, _ = finished
    places = {str(place.folder), str(ROOT), str(place.store)}
    for file in place.only_run.rglob("*"):
        if file.is_file():
            content = file.read_text()
            assert [
                *private_in(content),
                *(word for word in places if word in content),
            ] == [], file.name


def test_the_manifest_says_where_with_what_and_how(finished: Finished) -> None:
    manifest = json.loads((finished[0].only_run / "manifest.json").read_text())
    assert manifest["finished_at"]
    assert manifest["page_cache"]["cold"] is True
    assert manifest["packages"]["torch"] == torch.__version__
    assert manifest["checkpoints"]["lora-1000"]["tensors"] == 1000
    assert [cell["status"] for cell in manifest["cells"]] == ["done", "done"]
    assert {cell["stopped"] for cell in manifest["cells"]} == {"rounds"}
    assert set(manifest["ceilings"]) == {cell["name"] for cell in manifest["cells"]}


def test_a_lazy_return_shows_between_the_two_clocks(finished: Finished) -> None:
    """A mapped file is handed back before it is read: cold, torch.load has read everything when it
    returns, the mapping has not.
    """

    samples = [line for line in lines(finished[0].only_run) if line["valid"]]
    for line in samples:
        assert line["returned_s"] < line["ready_s"]  # type: ignore[operator]
    mapped = [line["mapped_bytes"] for line in samples if line["loader"] == "safetensors-load-file"]
    copied = [line["anonymous_bytes"] for line in samples if line["loader"] == "torch-load"]
    assert statistics.median(map(int, map(str, mapped))) > 3_900_000
    assert statistics.median(map(int, map(str, copied))) > 3_900_000


def test_a_killed_run_keeps_its_samples_leaves_no_process(
    place: Place,
) -> None:
    running = place.start("-m", "cpu", *QUICK[:-1], "10")
    wait_for(
        lambda: (
            place.results.exists() and any(len(lines(run)) >= 5 for run in place.results.iterdir())
        )
    )
    family = descendants(running.pid)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    wait_for(lambda: not any(alive(process) for process in family))
    before = (place.only_run / "samples.jsonl").read_text()
    kept = before[: before.rfind("\n") + 1]
    (place.only_run / "samples.jsonl").write_text(kept + '{"schema": 1, "run": "cut sho')

    ended = place.run("-m", "cpu", "--resume", place.only_run.name)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    after = (place.only_run / "samples.jsonl").read_text()
    assert after.startswith(kept)
    taken = [(line["block"], line["loader"]) for line in lines(place.only_run)]
    assert len(taken) == len(set(taken)) == 10 * WARM_ARMS
    assert family, "the run had started a server"


@pytest.mark.long
def test_a_second_run_is_refused_with_the_first_ones_process(place: Place) -> None:
    running = place.start("-m", "cpu", *QUICK[:-1], "10000")
    wait_for(
        lambda: (
            place.results.exists() and any(len(lines(run)) >= 1 for run in place.results.iterdir())
        )
    )
    refused = place.run("-m", "cpu", *QUICK)
    first = place.only_run
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert refused.returncode == 2
    assert f"process {running.pid}, directory {first}" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "there_is"),
    [
        (("--profile", "huge"), "unknown profile 'huge'", "smoke, default, full"),
        (
            ("--checkpoints", "lora-1000,gpt5"),
            "unknown checkpoint 'gpt5'",
            "lora-1000, all-minilm-l6-v2, gpt2, bloom-slim, bloom-560m, llama-3.2-1b",
        ),
        (("--loaders", "torch_load"), "unknown loader 'torch_load'", "torch-load-mmap"),
        (("--cache-states", "tepid"), "unknown cache state 'tepid'", "cold, warm"),
        (("--rounds", "many"), "--rounds many", "not a number"),
        (("--rounds", "0"), "--rounds 0", "must be 1 or more"),
        (("--budget", "-1"), "--budget -1", "must be 0"),
        (("--resume", "yesterday"), "no run 'yesterday'", "there are: none"),
        (
            ("--model", "no/such.safetensors"),
            "--model no/such.safetensors",
            "no such file or folder",
        ),
    ],
)
def test_bad_input_gets_one_line_that_says_what_there_is(
    place: Place, arguments: tuple[str, ...], kind: str, there_is: str
) -> None:
    ended = place.run(*arguments)
    said = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    assert ended.returncode == 2
    assert len(said) == 1
    assert kind in said[0]
    assert there_is in said[0]
    assert not place.results.exists()


def test_options_beside_resume_are_refused(finished: Finished) -> None:
    place, _ = finished
    ended = place.run("--resume", place.only_run.name, "--rounds", "9")
    assert ended.returncode == 2
    assert "leave out --rounds" in ended.stderr


@pytest.mark.skipif(
    Path("/proc/driver/nvidia/gpus").exists() or Path("/dev/nvidia0").exists(),
    reason="there is a GPU",
)
def test_without_a_gpu_its_cells_are_skipped(place: Place) -> None:
    ended = place.run("-m", "gpu", "-rs", *QUICK)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "no NVIDIA GPU: looked for" in ended.stdout
    assert re.search(rf"\b{2 + 3} skipped", ended.stdout), (
        "the pair, and the ceilings of memory and of both ways there"
    )
    assert lines(place.only_run) == []


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm")
def test_on_tmpfs_cold_is_refused_by_name_and_warm_is_measured(tmp_path: Path) -> None:
    store = Path("/dev/shm") / f"weighbridge-test-{os.getpid()}"
    try:
        ended = Place(tmp_path, store).run(
            "-m",
            "cpu",
            "-rs",
            "--checkpoints",
            "lora-1000",
            "--loaders",
            PAIR,
            "--rounds",
            "6",
            "--cache-states",
            "cold,warm",
        )
    finally:
        subprocess.run(["rm", "-rf", str(store)], check=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "cold refused: after fsync and eviction 1.000 of a file stays resident" in ended.stdout
    assert {line["cache_state"] for line in lines(Place(tmp_path, store).only_run)} == {"warm"}


def test_fewer_rounds_than_an_interval_takes_are_skipped(brief: Finished) -> None:
    place, ended = brief
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "insufficient: 2 samples, 6 make an interval" in ended.stdout
    assert len(lines(place.only_run)) == 2


@pytest.mark.long
def test_a_persons_own_checkpoint_is_measured_in_every_format(
    place: Place,
) -> None:
    own = place.folder / "my-adapter" / "model.safetensors"
    own.parent.mkdir()
    save_file({f"layer.{number}": torch.rand(64, 64) + 0.5 for number in range(4)}, own)
    before = (own.read_bytes(), own.stat().st_mtime_ns)
    ended = place.run("-m", "cpu", "--model", str(own), "--cache-states", "warm", "--rounds", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    taken = lines(place.only_run)
    assert {line["checkpoint"] for line in taken} == {"my-adapter"}
    assert {line["format"] for line in taken} == {
        name
        for name, form in all_formats().items()
        if not form.refusal("lora-1000", {"float32"}, False)
    }
    assert all(line["valid"] for line in taken)
    assert (own.read_bytes(), own.stat().st_mtime_ns) == before


def test_a_loader_that_is_left_out_is_skipped_with_its_reason(place: Place) -> None:
    own = place.folder / "own.bin"
    torch.save({"weight": torch.rand(64, 64) + 0.5}, own)
    choice = (
        "--model",
        str(own),
        "--cache-states",
        "warm",
        "--rounds",
        "6",
        "-k",
        "torch-load and not legacy and not mmap and not safetensors",
    )
    ended = place.run("-m", "cpu", "-rs", *choice)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (
        "torch-load-unsafe: it would run any code in this file; name it in --loaders if you trust"
        " the file" in ended.stdout
    )
    assert {line["loader"] for line in lines(place.only_run)} == {"torch-load"}


@pytest.mark.long
def test_an_arm_that_the_resumed_run_did_not_hold_is_skipped(brief: Finished, place: Place) -> None:
    run = brief[0].only_run
    shutil.copytree(run, place.results / run.name)
    ended = place.run("-m", "cpu", "-rs", "--resume", run.name)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "safetensors-load-file was no arm of this cell when it was taken" in ended.stdout
    assert {line["loader"] for line in lines(place.only_run)} == {"torch-load"}


def test_a_hostile_pickle_stops_the_run(place: Place) -> None:
    canary = place.folder / "canary"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return os.mkdir, (str(canary),)

    own = place.folder / "own.bin"
    torch.save({"weight": torch.ones(4), "payload": Payload()}, own)
    ended = place.run("-m", "cpu", "--model", str(own), "--rounds", "6")
    assert ended.returncode == 2
    assert "weights_only=True refuses it: it asks for posix.mkdir" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not canary.exists()


def test_a_run_of_stored_checkpoints_begins_without_torch() -> None:
    """Its own process starts 2 s sooner; the load worker imports torch beside it."""
    modules = "harness.run.run", "harness.report.run_page", "harness.report.answer"
    script = (
        f"import sys, {', '.join(modules)}\nfrom benchmarks import conftest\n"
        "conftest._scenarios()\nprint('torch' in sys.modules)"
    )
    with python(script) as process:
        assert hear(process) == "False"


def test_listing_what_could_be_measured_measures_nothing(place: Place) -> None:
    ended = place.run("--collect-only", "-q", *QUICK)
    assert "test_full_load[lora-1000-warm-cpu-torch-load]" in ended.stdout
    assert not place.results.exists()


def descendants(process: int) -> list[int]:
    """Return every running descendant of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until the condition is true; fail when it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


BREAKS_THE_RECORDER = """
import pytest_benchmark.fixture


def _raise(*_, **__):
    raise AttributeError("'Function' object has no attribute '_nodeid'")


pytest_benchmark.fixture.BenchmarkFixture.__init__ = _raise
"""


def test_a_broken_recorder_costs_no_sample_and_no_report(tmp_path: Path, store: Path) -> None:
    """pytest-benchmark 5.1 raises under pytest 9: what was measured is written all the same, and
    the end says what is missing.
    """

    (tmp_path / "breaks_the_recorder.py").write_text(BREAKS_THE_RECORDER)
    place = Place(tmp_path, store)
    choice = (
        "--checkpoints",
        "lora-1000",
        "--loaders",
        "safetensors-load-file",
        "--cache-states",
        "warm",
        "--rounds",
        "6",
    )
    ended = subprocess.run(
        place.command(
            "-m", "cpu", "-k", "full_load", "-p", "breaks_the_recorder", "--no-ceilings", *choice
        ),
        cwd=ROOT,
        env=place.environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (
        "pytest-benchmark" in ended.stdout
        and "_nodeid" in ended.stdout
        and "report: " in ended.stdout
    )
    assert {line["loader"] for line in lines(place.only_run)} == {"safetensors-load-file"}, (
        "ceilings are switched off"
    )
    assert (place.only_run / "report.md").is_file()


@pytest.mark.parametrize(
    ("release", "is_path"), [("5.1.0", False), ("5.2.3", False), ("5.3.0", True), ("6.0", True)]
)
def test_the_recorder_is_given_what_its_release_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, is_path: bool
) -> None:
    monkeypatch.setattr(conftest, "version", lambda _: release)
    target = conftest._recorder_target(tmp_path / "benchmark.json")
    assert isinstance(target, Path) == is_path
    if not isinstance(target, Path):
        target.close()
