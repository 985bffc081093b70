"""Ranks: several processes that load together are one sample, whatever one of them does, and leave
nothing behind.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Selection, Store
from harness.checkpoints.tensor_parallel import shares, split_axis
from harness.loaders import PART, SHARE, Contract, all_loaders
from harness.machine import page_cache
from harness.measure.take_sample import Arm, Place, take_sample
from harness.records.cell import Cell
from harness.records.loader_keys import key_of
from harness.records.sample import Sample
from harness.scenarios import CacheState
from harness.workers.rank_client import Ranks, SomeRanks, together
from tests import misbehaving_ranks
from tests.helpers import ROOT, hear, python

pytestmark = pytest.mark.slow

RANKS = 2
LAYOUT = Layout(
    "tiny-bloom",
    (
        TensorSpec("word_embeddings.weight", "float16", (1 << 18, 64)),
        TensorSpec("word_embeddings_layernorm.weight", "float16", (64,)),
        TensorSpec("h.0.self_attention.query_key_value.weight", "float16", (192, 64)),
        TensorSpec("h.0.self_attention.query_key_value.bias", "float16", (192,)),
        TensorSpec("h.0.self_attention.dense.weight", "float16", (64, 64)),
        TensorSpec("h.0.self_attention.dense.bias", "float16", (64,)),
        TensorSpec("h.0.mlp.dense_4h_to_h.weight", "float16", (64, 256)),
    ),
    heads=8,
)
SOURCE = layout_source(LAYOUT, 0)
Selected = tuple[Selection, ...]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checkpoint(store: Store) -> Checkpoint:
    return store.checkpoint(SOURCE, ["safetensors", "torch-zip"])


@pytest.fixture(scope="module")
def selected(store: Store) -> Selected:
    return tuple(
        store.selections(
            SOURCE, {f"rank-{rank}": share for rank, share in enumerate(shares(LAYOUT, RANKS))}
        ).values()
    )


@pytest.fixture(scope="module")
def arms(store: Store) -> Iterator[dict[str, Arm]]:
    yield from _arms(store)


def _arms(store: Store, only: str | None = None) -> Iterator[dict[str, Arm]]:
    keys: dict[str, tuple[str, Contract]] = {
        loader.name: (key_of("tests.misbehaving_ranks", loader.name, PART), loader)
        for loader in misbehaving_ranks.PART_LOADERS
    }
    for kind in (PART, SHARE):
        keys |= {
            name: (key_of(module, name, kind), loader)
            for name, (module, loader) in all_loaders(kind).items()
            if not loader.ceiling
        }
    keys = {name: known for name, known in keys.items() if only in (None, name)}
    files = store.warm_up(["safetensors", "torch-zip"])
    with Ranks(
        {key: [str(file) for file in files[loader.format]] for key, loader in keys.values()},
        ["torch"],
        RANKS,
    ) as ranks:
        yield {
            name: Arm(key, loader, "reference", ranks.of(RANKS), files[loader.format])
            for name, (key, loader) in keys.items()
        }


def sample(
    checkpoint: Checkpoint,
    arm: Arm,
    selected: Selected,
    cache_state: CacheState = "warm",
    timeout_s: float = 60.0,
) -> Sample:
    cell = Cell("sharded-load", checkpoint.name, cache_state, "cpu", ranks=RANKS)
    return take_sample(cell, checkpoint, arm, Place("a-run", 0, 0), selected, timeout_s)


def test_a_file_that_ranks_kept_warm_can_be_made_cold_again(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    """The ranks are processes of their own: what one of them locks, no other can evict."""
    files, ranks = checkpoint.artifacts["torch-zip"].files, arms["torch-load"].server
    assert isinstance(ranks, SomeRanks)
    assert ranks.set_cache_state("warm", files) == (1.0, None)
    if page_cache.evict(files).most == 0.0:
        pytest.skip("this system allows no file to be locked in memory")
    ranks.all.let_go()
    assert page_cache.evict(files).most == 0.0


def following(checkpoint: Checkpoint, arms: dict[str, Arm], selected: Selected) -> bool:
    """Return whether the ranks still give valid samples: any one may meet a read of its own in a
    busy machine.
    """

    return any(sample(checkpoint, arms["behaves"], selected).valid for _ in range(3))


@pytest.mark.parametrize("cache_state", ["cold", "warm"])
@pytest.mark.parametrize(
    "loader",
    [
        "safetensors-get-slice",
        "safetensors-load-file",
        "torch-load",
        "torch-load-mmap",
        "safetensors-scatter",
    ],
)
def test_every_way_to_share_out_gives_each_rank_its_own_share(
    checkpoint: Checkpoint,
    arms: dict[str, Arm],
    selected: Selected,
    loader: str,
    cache_state: CacheState,
) -> None:
    taken = [sample(checkpoint, arms[loader], selected, cache_state) for _ in range(3)]
    valid = [one for one in taken if one.valid]
    assert valid, [one.detail for one in taken]
    for one in valid:
        assert (one.ranks, one.part, one.requested_bytes) == (
            RANKS,
            None,
            sum(selection.bytes for selection in selected),
        )
        assert one.per_rank is not None
        assert len(one.per_rank) == RANKS
        assert one.storage_read_bytes is not None
        assert one.storage_read_bytes >= (LAYOUT.bytes if cache_state == "cold" else 0)


def test_the_content_of_all_ranks_together_is_the_checkpoint(
    checkpoint: Checkpoint, arms: dict[str, Arm], selected: Selected
) -> None:
    assert sample(checkpoint, arms["saves"], selected, "cold").content_ok
    folder = checkpoint.artifacts["safetensors"].files[0].parent
    seen: list[dict[str, torch.Tensor]] = [
        torch.load(folder / f"seen-{rank}.pt", weights_only=True) for rank in range(RANKS)
    ]
    for name, whole in SOURCE.make(0).items():
        axis = split_axis(name)
        parts = [of_rank[name] for of_rank in seen]
        if axis is None:
            assert all(torch.equal(part, whole) for part in parts), name
        else:
            assert torch.equal(torch.cat(parts, axis), whole), name


def test_the_slowest_rank_is_the_sample(
    checkpoint: Checkpoint, arms: dict[str, Arm], selected: Selected
) -> None:
    taken = sample(checkpoint, arms["one-dawdles"], selected)
    assert taken.per_rank is not None
    ready = [rank["ready_s"] for rank in taken.per_rank]
    assert taken.ready_s == max(ready) == ready[misbehaving_ranks.ODD_ONE] >= 0.5
    assert sorted(ready)[-2] < 0.5
    assert taken.minor_faults == sum(rank["minor_faults"] for rank in taken.per_rank)
    assert taken.pss_bytes == max(rank["pss_bytes"] for rank in taken.per_rank)


def test_memory_that_ranks_share_counts_once_over_all_of_them(
    checkpoint: Checkpoint, arms: dict[str, Arm], selected: Selected
) -> None:
    """Both map all 34 MB and hold 17 MB each: a half of the one and the whole of the other is each
    one's part, not their sum.
    """

    taken = sample(checkpoint, arms["keeps-the-mapping"], selected)
    assert taken.pss_bytes is not None
    assert taken.mapped_bytes is not None
    assert taken.mapped_bytes >= LAYOUT.bytes
    assert taken.pss_bytes == pytest.approx(LAYOUT.bytes / RANKS + selected[0].bytes, rel=0.2)
    private = sample(checkpoint, arms["safetensors-get-slice"], selected)
    assert private.pss_bytes == pytest.approx(selected[0].bytes, rel=0.2)


@pytest.mark.parametrize(
    ("loader", "reason", "detail"),
    [
        ("one-dies", "killed", "rank 1: by signal 9 (SIGKILL)"),
        ("one-raises", "raised", "rank 1: RuntimeError: this rank's disk is on fire"),
        ("one-lies", "wrong-content", "rank 1: word_embeddings.weight of other bytes"),
    ],
)
def test_one_bad_rank_makes_the_sample_invalid_names_itself(
    checkpoint: Checkpoint,
    arms: dict[str, Arm],
    selected: Selected,
    loader: str,
    reason: str,
    detail: str,
) -> None:
    start = time.monotonic()
    taken = sample(checkpoint, arms[loader], selected)
    assert (taken.valid, taken.reason) == (False, reason)
    assert detail in (taken.detail or "")
    assert time.monotonic() - start < 30, "the others waited for one that was gone"
    assert following(checkpoint, arms, selected)


def test_a_rank_that_hangs_is_the_one_named(
    checkpoint: Checkpoint, arms: dict[str, Arm], selected: Selected
) -> None:
    taken = sample(checkpoint, arms["one-hangs"], selected, timeout_s=5.0)
    assert (taken.valid, taken.reason) == (False, "hung")
    assert (taken.detail or "").startswith("rank 1: no result within 5 s")
    torchrun = _ranks(arms["one-hangs"]).pid
    assert torchrun is not None
    assert [children(server) for server in children(torchrun)] == [[]] * RANKS
    assert following(checkpoint, arms, selected)


def test_a_rank_worker_that_dies_takes_the_ranks_with_it(
    store: Store, checkpoint: Checkpoint, selected: Selected
) -> None:
    for arms in _arms(store, "behaves"):
        torchrun = _ranks(arms["behaves"]).pid
        assert torchrun is not None
        servers = children(torchrun)
        assert len(servers) == RANKS
        os.kill(servers[-1], signal.SIGKILL)
        taken = sample(checkpoint, arms["behaves"], selected)
        assert (taken.valid, taken.reason) in ((False, "server-died"), (False, "unprepared"))
        assert following(checkpoint, arms, selected)
        assert not any(map(alive, [torchrun, *servers]))
        last = _ranks(arms["behaves"]).pid
        assert last is not None
        left = [last, *children(last)]
    wait_for(lambda: not any(map(alive, left)))


def test_no_rank_outlives_an_orchestrator_that_is_killed(
    store: Store, checkpoint: Checkpoint, selected: Selected
) -> None:
    warm_up = store.warm_up(["safetensors"])["safetensors"][0]
    program = f"""
from pathlib import Path
from harness.workers.client import Load
from harness.workers.rank_client import Ranks, SomeRanks
key = {key_of("tests.misbehaving_ranks", "one-hangs", PART)!r}
with Ranks({{key: [{str(warm_up)!r}]}}, [], {RANKS}) as ranks:
    print(ranks.pid, flush=True)
    files = (Path({str(checkpoint.artifacts["safetensors"].files[0])!r}),)
    expected = tuple(map(Path, {[str(selection.file) for selection in selected]!r}))
    ranks.of({RANKS}).sample(Load(key, files, (Path({str(warm_up)!r}),), expected, "cpu", 0), 600.0)
"""
    with python(program) as orchestrator:
        torchrun = int(hear(orchestrator))
        wait_for(lambda: all(map(children, children(torchrun))))
        servers = children(torchrun)
        started = [torchrun, *servers, *(child for server in servers for child in children(server))]
        assert len(started) >= 1 + 2 * RANKS
        orchestrator.send_signal(signal.SIGKILL)
        wait_for(lambda: not any(map(alive, started)))


@pytest.mark.long
def test_two_machines_are_one_run_with_torchrun_alone(tmp_path: Path) -> None:
    """The README's command, with two agents on the loopback address in the place of two
    machines.
    """

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = ["--checkpoints", "bloom-slim", "--rounds", "2", "--cache-states", "cold"]
    ours += [
        "--loaders",
        "safetensors-get-slice,safetensors-scatter",
        "--results",
        str(tmp_path / "results"),
        "--store",
        str(tmp_path / "store"),
    ]
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "GLOO_SOCKET_IFNAME": "lo"}

    def agent(node: int) -> subprocess.Popen[str]:
        torchrun = [
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--node-rank",
            str(node),
            "--nproc-per-node",
            "1",
        ]
        torchrun += [
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            str(port),
            "-m",
            "harness.workers.rank_worker",
        ]
        command = [sys.executable, *torchrun, *ours]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    agents = [agent(node) for node in (1, 0)]
    said = [agent.communicate(timeout=180)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    (run,) = (tmp_path / "results").iterdir()
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2
    assert all(
        line["ranks"] == 2 and len(line["per_rank"]) == 2 and line["content_ok"] for line in lines
    )
    assert sum(line["valid"] for line in lines) >= 3, [line["detail"] for line in lines]


# One answer of several


def answer(**overrides: Any) -> dict[str, Any]:
    figures: dict[str, Any] = dict.fromkeys(
        ("context_s", "first_call_s", "memory_touch_s", "touch_s", "check_s"), 0.0
    )
    figures |= dict.fromkeys(
        (
            "peak_rss_bytes",
            "anonymous_bytes",
            "mapped_bytes",
            "pss_bytes",
            "minor_faults",
            "major_faults",
        ),
        10,
    )
    figures |= {
        "returned_s": 1.0,
        "ready_s": 2.0,
        "cpu_s": 0.5,
        "storage_read_bytes": 100,
        "content_ok": True,
        "not_private": None,
    }
    return figures | {"started_ns": 5_000_000, "ended_at": 0.0} | overrides


def failure(what: str, detail: str, ended_at: float) -> dict[str, Any]:
    return {"failure": what, "detail": detail, "ended_at": ended_at}


def test_times_are_the_slowest_ranks_memory_the_largest() -> None:
    one = together(
        [
            answer(ready_s=3.0, pss_bytes=5, storage_read_bytes=1),
            answer(returned_s=2.5, started_ns=7_000_000),
        ]
    )
    assert (
        one["returned_s"],
        one["ready_s"],
        one["pss_bytes"],
        one["storage_read_bytes"],
        one["cpu_s"],
    ) == (2.5, 3.0, 10, 101, 1.0)
    assert [rank["started_s"] for rank in one["per_rank"]] == [0.0, 0.002]


def test_what_one_rank_cannot_tell_is_not_told() -> None:
    assert together([answer(), answer(storage_read_bytes=None)])["storage_read_bytes"] is None


def test_one_rank_with_wrong_content() -> None:
    assert together([answer(), answer(content_ok=False)])["content_ok"] is False
    assert (
        together([answer(), answer(not_private="w lies in a mapped file")])["not_private"]
        == "rank 1: w lies in a mapped file"
    )
    assert (
        together([answer(wrong="a missing", content_ok=False), answer()])["wrong"]
        == "rank 0: a missing"
    )
    assert together([answer(), answer(throttle_reasons=["hardware slowdown"])])[
        "throttle_reasons"
    ] == ["hardware slowdown"]


def test_the_rank_that_failed_is_named() -> None:
    lost = failure("raised", "LostRankError: connection closed by peer", 1.0)
    assert (
        together([lost, failure("hung", "no result", 9.0), lost])["detail"] == "rank 1: no result"
    )
    assert (
        together([lost, failure("raised", "OSError: gone", 9.0), answer()])["detail"]
        == "rank 1: OSError: gone"
    )
    assert (
        together(
            [
                failure("raised", "RuntimeError: connection closed", 1.0),
                failure("killed", "by signal 9", 9.0),
            ]
        )["failure"]
        == "killed"
    )
    assert (
        together([failure("raised", "second", 2.0), failure("raised", "first", 1.0)])["detail"]
        == "rank 1: first"
    )


def children(process: int) -> list[int]:
    """Return the running children of a process, none of one that is gone."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def _ranks(arm: Arm) -> SomeRanks:
    assert isinstance(arm.server, SomeRanks)
    return arm.server
