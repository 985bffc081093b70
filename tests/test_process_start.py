"""Whole processes: each phase has its own clock, and nothing of the harness is in any of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks import test_process_start as scenario
from harness.analysis.arms import summarise
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Store
from harness.machine import page_cache
from harness.measure.take_sample import Arm, Place, take_sample
from harness.measure.validity import LIBRARIES_READ_AT_MOST, judge
from harness.records.cell import Cell
from harness.records.sample import Sample
from harness.run.options import parse
from harness.scenarios import PROCESS_START, CacheState
from harness.workers.process_client import Interpreters
from harness.workers.process_worker import PHASES, program
from tests import slow_start
from tests.slow_library import IMPORT_S
from tests.slow_start import FIRST_S, LOAD_S

pytestmark = pytest.mark.slow

ON_THE_CPU = tuple(phase for phase in PHASES if phase != "context")

TAKES = 4
LAYOUT = Layout(
    "small", tuple(TensorSpec(f"layer.{number}", "float32", (64, 1024)) for number in range(8))
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checkpoint(store: Store) -> Checkpoint:
    return store.checkpoint(layout_source(LAYOUT, 0), ["safetensors"])


@pytest.fixture(scope="module")
def interpreters() -> Interpreters:
    return Interpreters()


def _sample(
    store: Store,
    checkpoint: Checkpoint,
    takes: Interpreters,
    name: str,
    state: CacheState = "warm",
    timeout_s: float = 60.0,
) -> Sample:
    loader = next(loader for loader in slow_start.LOADERS if loader.name == name)
    arm = Arm(
        f"tests.slow_start:{name}",
        loader,
        "reference",
        takes,
        store.warm_up(["safetensors"])["safetensors"],
    )
    cell = Cell(PROCESS_START, checkpoint.name, state, "cpu")
    for take in range(
        TAKES
        # a machine short of memory may drop what was just brought in: a run takes such a sample
        # again
        # too
    ):
        taken = take_sample(cell, checkpoint, arm, Place("a-run", 0, take), timeout_s=timeout_s)
        if taken.reason != "libraries-read":
            break
    return taken


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_each_phase_of_a_process_has_its_own_clock(
    store: Store, checkpoint: Checkpoint, interpreters: Interpreters, state: CacheState
) -> None:
    start = time.monotonic()
    taken = _sample(store, checkpoint, interpreters, "known", state)
    took = time.monotonic() - start  # of all takes
    assert taken.valid, taken.detail
    phases = taken.phases
    assert phases is not None
    assert tuple(phases) == ON_THE_CPU
    assert IMPORT_S <= phases["import_library"] < 2 * IMPORT_S
    assert FIRST_S <= phases["first_call"] < 2 * FIRST_S
    assert LOAD_S <= phases["load"] < 2 * LOAD_S
    assert 0.005 < phases["start"] < phases["import_torch"]
    assert taken.ready_s == pytest.approx(sum(phases.values()))
    assert taken.returned_s is not None
    assert taken.ready_s is not None
    assert taken.ready_s - phases["load"] < taken.returned_s < taken.ready_s < took
    assert (taken.resident_before == 0.0) == (state == "cold")
    (arm,) = summarise([taken])
    assert sum(arm.shares.values()) == pytest.approx(1.0)
    assert arm.phases["load"].median == phases["load"]


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("exits", "exited", "status 3"),
        ("cannot-be-imported", "exited", "status 1"),
        ("known", "hung", "within 0 s"),
    ],
)
def test_a_process_that_fails_is_an_invalid_sample_and_is_gone(
    store: Store,
    checkpoint: Checkpoint,
    interpreters: Interpreters,
    name: str,
    reason: str,
    words: str,
) -> None:
    taken = _sample(
        store, checkpoint, interpreters, name, timeout_s=0.05 if reason == "hung" else 60.0
    )
    assert (taken.valid, taken.reason) == (False, reason)
    assert words in (taken.detail or "")


def test_what_a_process_prints_does_not_pass_for_its_answer(
    store: Store, checkpoint: Checkpoint, interpreters: Interpreters
) -> None:
    assert _sample(store, checkpoint, interpreters, "chatters").valid


def test_the_files_a_process_reads_its_programs_from_are_brought(
    store: Store, checkpoint: Checkpoint, interpreters: Interpreters
) -> None:
    library = Path(str(slow_start.__file__))
    _sample(store, checkpoint, interpreters, "known")
    page_cache.evict([library])
    assert _sample(store, checkpoint, interpreters, "known").valid
    assert page_cache.residency([library]).fraction == 1.0
    files = interpreters._libraries["tests.slow_start:known"]
    assert library in files
    assert any("libtorch" in file.name for file in files)
    assert Path(sys.executable).resolve() in files


def test_a_sample_whose_libraries_came() -> None:
    """Not even cold: what is cold there is the checkpoint."""
    answer = {
        "content_ok": True,
        "wrong": None,
        "storage_read_bytes": 0,
        "libraries_read_bytes": LIBRARIES_READ_AT_MOST,
    }
    assert judge("warm", 1.0, 100, answer).valid
    more = answer | {"libraries_read_bytes": LIBRARIES_READ_AT_MOST + 4096}
    assert judge("warm", 1.0, 100, more).reason == "libraries-read"
    assert judge("cold", 0.0, 100, more | {"storage_read_bytes": 100}).reason == "libraries-read"


def test_nothing_but_torch_and_the_loader_s_library_is_imported() -> None:
    text = program(("torch", "safetensors"))
    between = text[text.index("clocks = ") : text.index("from harness")]
    assert [line for line in between.splitlines() if line.startswith("import")] == [
        "import torch",
        "import safetensors",
    ]
    assert text.splitlines()[:2] == ["import time", "clocks = [time.monotonic_ns()]"]


def test_the_full_profile_starts_a_process_with_every_loader() -> None:
    full = scenario.plan(parse({"profile": "full"}))
    default = scenario.plan(parse({}))
    arms = {arm for names in full.values() for arm in names}
    assert {cell.checkpoint for cell in full} == {cell.checkpoint for cell in default} == {"gpt2"}
    assert {"torch-load", "safetensors-load-file", "tensorizer"} <= arms
    assert not any(arm.startswith("ceiling-") for arm in arms)
    assert scenario.plan(parse({"profile": "smoke"})) == {}
