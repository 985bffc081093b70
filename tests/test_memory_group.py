"""Control groups that bound memory: real groups, real kills, and what is left after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.analysis.memory_limits import NextTry, floor_of, next_try, step_of
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Store
from harness.errors import WeighbridgeError
from harness.machine import control_group, memory_group
from harness.machine.memory_group import PREFIX, MemoryGroup
from harness.measure.blocks import Limits
from harness.measure.limit_search import search_limits
from harness.measure.take_sample import Arm, Place, take_sample
from harness.records.cell import Cell
from harness.records.sample import Sample
from harness.scenarios import LIMIT, MEMORY_LIMIT, STAYS
from harness.workers.client import InGroup, Server
from tests import misbehaving
from tests.helpers import ROOT, hear, python
from tests.test_benchmarks import Place as RunPlace
from tests.test_benchmarks import lines

needs_group = pytest.mark.skipif(
    memory_group.refused() is not None, reason=f"no group here: {memory_group.refused()}"
)
LAYOUT = Layout("medium", (TensorSpec("weight", "float32", (8192, 2048)),))
"""64 MiB: a step of the search is larger than what the kernel rounds to."""


def test_what_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    assert "run as root" in str(memory_group.refused(tmp_path))
    assert memory_group.description(tmp_path) is None
    with pytest.raises(WeighbridgeError, match="memory limit refused"):
        MemoryGroup(1 << 20, tmp_path)


def test_a_group_of_cgroup_v2_is_set_by_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    (tmp_path / "cgroup.procs").write_text("")
    make = Path.mkdir

    def make_as_the_kernel_does(path: Path) -> None:
        make(path)
        for name in ("memory.max", "memory.swap.max", "cgroup.procs"):
            (path / name).write_text("")
        (path / "memory.stat").write_text("anon 7\nfile 8\n")
        (path / "memory.events").write_text("max 3\noom_kill 1\n")

    monkeypatch.setattr(Path, "mkdir", make_as_the_kernel_does)
    group = MemoryGroup(1 << 20, tmp_path)
    assert (group.path / "memory.max").read_text() == f"{1 << 20}\n"
    assert (group.path / "memory.swap.max").read_text() == "0\n"
    group.enter()
    assert (group.path / "cgroup.procs").read_text() == f"{os.getpid()}\n"
    group.leave()
    assert (tmp_path / "cgroup.procs").read_text() == f"{os.getpid()}\n"
    charged = group.charged()
    assert (charged.anonymous, charged.page_cache) == (7, 8)
    assert group.kills() == 1 and group.peak() is None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checkpoint(store: Store) -> Checkpoint:
    return store.checkpoint(layout_source(LAYOUT, 0), ["safetensors"])


@pytest.fixture(scope="module")
def server(store: Store) -> Iterator[Server]:
    warm_up = [str(file) for file in store.warm_up(["safetensors"])["safetensors"]]
    keys = [f"tests.misbehaving:{name}" for name in ("behaves", "leaks", "bursts")]
    with Server(dict.fromkeys(keys, warm_up), []) as server:
        yield server


def sample(
    store: Store,
    checkpoint: Checkpoint,
    server: Server,
    name: str,
    in_group: InGroup,
    part: str = LIMIT,
    timeout_s: float = 30.0,
) -> Sample:
    loader = next(loader for loader in misbehaving.LOADERS if loader.name == name)
    warm_up = store.warm_up(["safetensors"])["safetensors"]
    arm = Arm(f"tests.misbehaving:{name}", loader, "reference", server, warm_up)
    cell = Cell(MEMORY_LIMIT, checkpoint.name, "cold", "cpu", part=part)
    place = Place("a-run", 0, 0)
    return take_sample(cell, checkpoint, arm, place, timeout_s=timeout_s, in_group=in_group)


def left_in_the_tree(pid: int | None) -> list[Path]:
    hierarchy = memory_group._hierarchy(control_group.ROOT)
    return list(hierarchy[1].glob(f"{PREFIX}{pid}-*")) if hierarchy else []


@needs_group
@pytest.mark.slow
@pytest.mark.parametrize(("name", "needed"), [("leaks", 1.0), ("bursts", 0.5)])
def test_an_injected_need_is_found_by_its_limit(
    store: Store, checkpoint: Checkpoint, server: Server, name: str, needed: float
) -> None:
    def take(arm: str, _block: int, _position: int, upcoming: NextTry) -> Sample:
        group = InGroup(upcoming.limit_bytes)
        return sample(store, checkpoint, server, arm, group, timeout_s=upcoming.timeout_s or 30.0)

    size = checkpoint.bytes
    *samples, why = search_limits(
        [name],
        [],
        Limits(1, float("inf"), float("inf")),
        lambda _: [name],
        lambda of_arm: next_try(of_arm, size, 1, ()),
        take,
    )
    assert why == "precision"
    floor = floor_of([taken for taken in samples if isinstance(taken, Sample)], size)
    assert floor is not None and floor.failed_bytes is not None
    # what a mapped load needs beside it, readahead, is up to 8 MiB
    assert needed * size <= floor.limit_bytes <= needed * size + 2 * step_of(size) + (8 << 20)
    assert not left_in_the_tree(server.pid)


@needs_group
@pytest.mark.slow
def test_a_kill_for_memory_takes_only_the_sample(
    store: Store, checkpoint: Checkpoint, server: Server
) -> None:
    worker = server.pid
    killed = sample(store, checkpoint, server, "leaks", InGroup(16 << 20))
    assert (killed.valid, killed.reason) == (False, "killed")
    assert "by the kernel" in (killed.detail or "") and str(16 << 20) in (killed.detail or "")
    assert killed.memory_limit_bytes == 16 << 20
    after = sample(store, checkpoint, server, "behaves", InGroup(1 << 30))
    assert after.valid, after.detail
    assert server.pid == worker
    assert after.group_peak_bytes and checkpoint.bytes <= after.group_peak_bytes < 1 << 30
    assert not left_in_the_tree(worker)


@needs_group
@pytest.mark.slow
def test_what_stays_is_told_stage_by_stage(
    store: Store, checkpoint: Checkpoint, server: Server
) -> None:
    size = checkpoint.bytes
    taken = sample(store, checkpoint, server, "behaves", InGroup(stays=True), STAYS)
    assert taken.valid, taken.detail
    assert taken.stays and list(taken.stays) == [
        "after_load",
        "after_use",
        "after_write",
        "after_delete",
    ]
    used, written, deleted = (
        taken.stays[stage] for stage in ("after_use", "after_write", "after_delete")
    )
    assert (used["mapped_bytes"] or 0) >= size and (used["anonymous_bytes"] or 0) < 0.1 * size
    assert (written["anonymous_bytes"] or 0) >= size, "a write makes a page a private copy"
    assert (deleted["anonymous_bytes"] or 0) < 0.1 * size
    assert (deleted["mapped_bytes"] or 0) < 0.1 * size
    assert (deleted["page_cache_bytes"] or 0) >= size, "the page cache keeps the file"


HOLD = """
import os, time
from harness.machine.memory_group import MemoryGroup
group = MemoryGroup(1 << 28)
group.enter()
print(group.path, flush=True)
time.sleep(60)
"""


@needs_group
@pytest.mark.slow
def test_what_a_killed_run_leaves_in_the_tree_is_cleared(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"x")
    with python(HOLD) as process:
        group = Path(hear(process))
        assert group.is_dir()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "cold", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert not group.exists()


@pytest.mark.long
@needs_group
@pytest.mark.slow
def test_a_run_goes_on_after_kills_and_gives_a_page(tmp_path: Path, store: Store) -> None:
    place = RunPlace(tmp_path, store.folder, "benchmarks/test_memory_limit.py")
    ended = place.run(
        *("-m", "cpu", "--checkpoints", "lora-1000", "--parts", "limit,what-stays"),
        *("--loaders", "torch-load,safetensors-load-file", "--rounds", "1"),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    taken = lines(place.only_run)
    killed = [line for line in taken if line["reason"] == "killed"]
    assert killed and all(line["memory_limit_bytes"] for line in killed)
    valid = [line for line in taken if line["valid"] and line["part"] == "limit"]
    assert {line["loader"] for line in valid} == {"torch-load", "safetensors-load-file"}
    assert any(line["memory_limit_bytes"] for line in valid)
    page = (place.only_run / "report.md").read_text(encoding="utf-8")
    assert "## Memory" in page and "What stays of lora-1000" in page
    assert list((place.only_run / "figures").glob("memory-limit-*.svg"))
    assert "smallest memory" in place.run("-v", "--resume", place.only_run.name).stdout
