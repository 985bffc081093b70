"""Measuring: what a sample's process may do, and what becomes of it."""

from __future__ import annotations

import mmap
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Store
from harness.machine import page_cache
from harness.machine.counters import memory
from harness.measure.take_sample import Arm, Place, take_sample
from harness.records.cell import Cell
from harness.records.limits import COLD_AT_MOST
from harness.records.sample import Sample
from harness.scenarios import CacheState
from harness.workers.cache_state import set_cache_state
from harness.workers.client import Server
from harness.workers.load_sample import touch_memory
from tests import misbehaving

pytestmark = pytest.mark.slow

LAYOUT = Layout(
    "small", tuple(TensorSpec(f"layer.{number}", "float32", (64, 1024)) for number in range(8))
)
PLACE = Place("a-run", 0, 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checkpoint(store: Store) -> Checkpoint:
    return store.checkpoint(layout_source(LAYOUT, 0), ["safetensors"])


@pytest.fixture(scope="module")
def arms(store: Store) -> Iterator[dict[str, Arm]]:
    warm_up = store.warm_up(["safetensors"])["safetensors"]
    keys = {loader.name: f"tests.misbehaving:{loader.name}" for loader in misbehaving.LOADERS}
    with Server(
        {key: [str(file) for file in warm_up] for key in keys.values()}, ["torch"]
    ) as server:
        yield {
            loader.name: Arm(keys[loader.name], loader, "reference", server, warm_up)
            for loader in misbehaving.LOADERS
        }


def sample(
    checkpoint: Checkpoint, arm: Arm, cache_state: CacheState = "warm", timeout_s: float = 30.0
) -> Sample:
    return take_sample(
        Cell("full-load", checkpoint.name, cache_state, "cpu"),
        checkpoint,
        arm,
        PLACE,
        timeout_s=timeout_s,
    )


@pytest.mark.parametrize(
    ("loader", "seconds", "times"),
    [("busy-10-ms", 0.010, 9), ("busy-100-ms", 0.100, 7), ("busy-1000-ms", 1.000, 3)],
)
def test_a_load_of_known_duration_is_measured_closely(
    checkpoint: Checkpoint, arms: dict[str, Arm], loader: str, seconds: float, times: int
) -> None:
    measured = [sample(checkpoint, arms[loader]).returned_s for _ in range(times)]
    median = statistics.median([value for value in measured if value is not None])
    assert abs(median - seconds) <= max(0.0005, 0.005 * seconds)


def test_a_cold_sample_is_cold_before(checkpoint: Checkpoint, arms: dict[str, Arm]) -> None:
    taken = sample(checkpoint, arms["behaves"], "cold")
    assert taken.valid, taken.detail
    assert taken.resident_before is not None
    assert taken.resident_before <= COLD_AT_MOST
    assert taken.storage_read_bytes is not None
    assert taken.storage_read_bytes >= LAYOUT.bytes
    assert taken.resident_after == 1.0


def test_a_warm_sample_is_warm_before(checkpoint: Checkpoint, arms: dict[str, Arm]) -> None:
    set_cache_state("cold", checkpoint.artifacts["safetensors"].files)
    taken = sample(checkpoint, arms["behaves"], "warm")
    assert taken.valid, taken.detail
    assert (taken.resident_before, taken.storage_read_bytes) == (1.0, 0)


def test_the_clocks_stand_in_order(checkpoint: Checkpoint, arms: dict[str, Arm]) -> None:
    taken = sample(checkpoint, arms["behaves"])
    assert taken.returned_s is not None
    assert taken.ready_s is not None
    assert taken.touch_s is not None
    assert 0 < taken.returned_s < taken.ready_s < taken.sample_s
    assert taken.touch_s < taken.sample_s


def test_a_mapped_load_is_told_apart_from_private_memory(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    mapped, copied = sample(checkpoint, arms["behaves"]), sample(checkpoint, arms["wrong-byte"])
    assert mapped.mapped_bytes is not None
    assert mapped.anonymous_bytes is not None
    assert copied.anonymous_bytes is not None
    assert mapped.mapped_bytes > 0.9 * LAYOUT.bytes
    assert mapped.anonymous_bytes < 0.5 * LAYOUT.bytes
    assert copied.anonymous_bytes > 0.8 * LAYOUT.bytes


@pytest.mark.parametrize(
    ("loader", "reason", "detail"),
    [
        ("exits", "exited", "status 3"),
        ("dies", "killed", "SIGSEGV"),
        ("raises", "raised", "RuntimeError: no such tensor in this file"),
        (
            "raises-a-path",
            "raised",
            "FileNotFoundError: [Errno 2] No such file or directory: '…/secret.bin'",
        ),
        ("wrong-byte", "wrong-content", "of other bytes"),
        ("wrong-name", "wrong-content", "missing; "),
        ("wrong-dtype", "wrong-content", "of another dtype"),
        ("wrong-shape", "wrong-content", "of another shape"),
        ("loses-a-tensor", "wrong-content", " missing"),
        ("adds-a-tensor", "wrong-content", "added not the checkpoint's"),
        ("kills-server", "server-died", "started again"),
    ],
)
def test_whatever_a_loader_does_is_an_invalid_sample(
    checkpoint: Checkpoint, arms: dict[str, Arm], loader: str, reason: str, detail: str
) -> None:
    taken = sample(checkpoint, arms[loader])
    assert (taken.valid, taken.reason) == (False, reason)
    assert detail in (taken.detail or "")
    following = [
        sample(checkpoint, arms["behaves"]) for _ in range(3)
    ]  # any one may meet a read of its own in a busy machine
    assert any(one.valid for one in following), [one.detail for one in following]


def test_a_load_that_hangs_is_killed_and_leaves_no_process(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    taken = sample(checkpoint, arms["hangs"], timeout_s=0.5)
    assert (taken.valid, taken.reason) == (False, "hung")
    server = _server(arms["hangs"]).pid
    assert server is not None
    assert children(server) == []


def test_every_sample_is_the_first_load_of_its_process(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    taken = [sample(checkpoint, arms["wants-a-fresh-process"]) for _ in range(3)]
    assert [one.reason for one in taken] == [None, None, None]


def test_the_memory_a_load_will_be_given_is_touched_before(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    taken = sample(checkpoint, arms["behaves"])
    assert taken.memory_touch_bytes == LAYOUT.bytes
    assert taken.memory_touch_s is not None
    assert 0 < taken.memory_touch_s < taken.sample_s


def test_touched_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    size, before = 64 << 20, memory().anonymous
    assert touch_memory(size) > 0
    monkeypatch.setattr(
        "harness.workers.load_sample._MADV_POPULATE_WRITE", -1
    )  # as on a kernel that does not know it
    assert touch_memory(size) > 0
    after = memory().anonymous
    assert before is not None
    assert after is not None
    assert after - before < size // 2


def test_what_a_loader_prints_does_not_pass_for_an_answer(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    assert sample(checkpoint, arms["chatters"]).valid


def test_a_file_that_someone_else_maps_is_never_called_cold(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    file = checkpoint.artifacts["safetensors"].files[0]
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
    ):
        assert len(mapping[:: mmap.PAGESIZE]) > 0
        taken = sample(checkpoint, arms["behaves"], "cold")
    assert (taken.valid, taken.reason) == (False, "not-cold")
    assert sample(checkpoint, arms["behaves"], "cold").valid


def test_an_eviction_that_is_skipped_is_noticed(
    checkpoint: Checkpoint, arms: dict[str, Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    page_cache.warm(checkpoint.artifacts["safetensors"].files)
    monkeypatch.setattr(page_cache, "evict", page_cache.residency)
    taken = sample(checkpoint, arms["behaves"], "cold")
    assert (taken.valid, taken.reason) == (False, "not-cold")


def test_a_warming_that_is_skipped_is_noticed(
    checkpoint: Checkpoint, arms: dict[str, Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cache_state("cold", checkpoint.artifacts["safetensors"].files)
    monkeypatch.setattr(page_cache, "warm", page_cache.residency)
    monkeypatch.setattr(
        page_cache, "Lock", lambda _: SimpleNamespace(paths=(), release=lambda: None)
    )  # a lock reads what it locks
    taken = sample(checkpoint, arms["behaves"], "warm")
    assert (taken.valid, taken.reason) == (False, "not-warm")


def test_a_state_that_cannot_be_read_makes_an_invalid_sample(
    checkpoint: Checkpoint, arms: dict[str, Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(paths: object) -> page_cache.Residency:
        raise page_cache.ResidencyHiddenError(1, "hidden")

    monkeypatch.setattr(page_cache, "evict", hidden)
    taken = sample(checkpoint, arms["behaves"], "cold")
    assert (taken.valid, taken.reason, taken.resident_before) == (False, "unprepared", None)


def test_server_and_sample_die_with_their_orchestrator(
    store: Store, checkpoint: Checkpoint
) -> None:
    warm_up = store.warm_up(["safetensors"])["safetensors"][0]
    file = checkpoint.artifacts["safetensors"].files[0]
    program = f"""
from pathlib import Path
from harness.workers.client import Load, Server
with Server({{"tests.misbehaving:hangs": [{str(warm_up)!r}]}}, []) as server:
    print(server.pid, flush=True)
    files, warm_up = (Path({str(file)!r}),), (Path({str(warm_up)!r}),)
    expected = (Path({str(checkpoint.checksums_file)!r}),)
    server.sample(Load("tests.misbehaving:hangs", files, warm_up, expected, "cpu", 0), 600.0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as orchestrator:
        assert orchestrator.stdout
        server = int(orchestrator.stdout.readline())
        wait_for(lambda: bool(children(server)))
        (child,) = children(server)
        orchestrator.send_signal(signal.SIGKILL)
    wait_for(lambda: not alive(server) and not alive(child))


def test_the_worker_imports_only_torch_and_the_loaders() -> None:
    program = (
        "import sys, harness.workers.load_worker; print(*sorted({name.partition('.')[0] for name in"
        " sys.modules}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pandas", "matplotlib", "pytest", "pytest_benchmark"} & set(found)


def test_an_environment_says_what_it_holds_and_what_it_lacks(
    store: Store, arms: dict[str, Arm]
) -> None:
    environment = _server(arms["behaves"]).environment
    assert environment["absent"] == {}
    assert set(environment["first_calls"]) == {arm.key for arm in arms.values()}
    assert environment["versions"]["torch"] == environment["torch"]


def children(process: int) -> list[int]:
    """Return the running children of a process."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait_for(condition: object, seconds: float = 30.0) -> None:
    """Wait until `condition()` is true; fail when it does not become so."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def _server(arm: Arm) -> Server:
    assert isinstance(arm.server, Server)
    return arm.server
