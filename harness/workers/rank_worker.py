"""One rank of a distributed load: a server like any other, started by torchrun, that takes its
orders together with the other ranks.

Rank 0 hears the orchestrator over a socket and passes each request on through the store that
torchrun keeps; every rank forks one child per sample, the children form a process group of their
own, start together, and are gone before the next one. What each measured goes back the same way.

Run by `torchrun … -m harness.workers.rank_worker`. On one machine the orchestrator starts torchrun
and names its socket in `WEIGHBRIDGE_RANKS`. Started by hand on several machines, rank 0 starts the
orchestrator instead and gives it this command's arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as ranks_of_torch
from torch.distributed import PrefixStore, TCPStore

from harness import loaders
from harness.machine.lifeline import die_with_parent
from harness.workers import load_sample, load_worker
from harness.workers.cache_state import let_go, residency, set_cache_state
from harness.workers.protocol import Answer, fork, own_code
from harness.workers.rank_client import SOCKET

_LONG = timedelta(days=1)
_CONNECT_TIMEOUT_S = 120.0
_GROUP_SHARE = 0.8
"""A rank waits this share of a sample's time for the others: what still runs after it is the one
that hung.
"""


class LostRankError(RuntimeError):
    """Another rank of this sample is gone or did not come."""


def main() -> None:
    """Serve until the orchestrator goes, or the store does."""
    die_with_parent(os.getppid())
    rank = int(os.environ["RANK"])
    store = _store(_LONG)
    if rank == 0:
        raise SystemExit(_lead(store))
    number = 0
    while True:
        store.wait([f"ask/{number}"], _LONG)
        request = json.loads(store.get(f"ask/{number}"))
        if request["do"] == "stop":
            return
        if _takes_part(request, rank):
            store.set(f"answer/{number}/{rank}", json.dumps(_answer(request, number, rank)))
        number += 1


def _lead(store: TCPStore) -> int:
    """Pass on what the orchestrator asks and send back every rank's answer.

    Return the exit status.
    """
    orchestrator, status = _orchestrator()
    number = 0
    with orchestrator, orchestrator.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            request = json.loads(line)
            store.set(f"ask/{number}", line)
            taking_part = [
                rank for rank in range(int(os.environ["WORLD_SIZE"])) if _takes_part(request, rank)
            ]
            answers = {0: _answer(request, number, 0)}
            for rank in taking_part[1:]:
                store.wait([f"answer/{number}/{rank}"], _LONG)
                answers[rank] = json.loads(store.get(f"answer/{number}/{rank}"))
                store.delete_key(f"answer/{number}/{rank}")
            lines.write(json.dumps([answers[rank] for rank in taking_part]) + "\n")
            lines.flush()
            number += 1
    store.set(f"ask/{number}", json.dumps({"do": "stop"}))
    return status()


def _takes_part(request: Answer, rank: int) -> bool:
    """Return whether a rank has to do with a request: one of each machine sets its page cache, the
    others load.
    """
    ranks: int = request["ranks"]
    if request["do"] in ("cache", "let go", "residency"):
        return rank < ranks and rank % int(os.environ["LOCAL_WORLD_SIZE"]) == 0
    return rank < ranks


def _answer(request: Answer, number: int, rank: int) -> Answer:
    files = [Path(file) for file in request.get("files", ())]
    if request["do"] == "let go":
        let_go()
        return {}
    if request["do"] == "cache":
        fraction, problem = set_cache_state(request["cache_state"], files)
        return {"fraction": fraction, "problem": problem}
    if request["do"] == "residency":
        return {"fraction": residency(files)}
    if request["do"] == "prepare":
        first = f"first/{number}/{rank}"
        return (
            load_worker.prepare(request, lambda: _join(first, 0, 1, "cpu", request["timeout_s"]))
            | own_code()
        )
    return _sample(request, number, rank)


def _sample(request: Answer, number: int, rank: int) -> Answer:
    ranks, timeout_s = request["ranks"], request["timeout_s"]
    device = (
        f"cuda:{os.environ['LOCAL_RANK']}" if request["device"] == "cuda" else request["device"]
    )
    try:
        kind, loader = loaders.by_key(request["loader"])
        target, expected = load_worker.asked_for(kind, request["files"], request["expected"], rank)
    except OSError as error:
        return {
            "failure": "unprepared",
            "detail": f"{error.strerror}: {Path(error.filename or '').name}",
            "ended_at": time.time(),
        }
    loader.reserve(target)
    task = load_sample.Task(
        loader=loader,
        target=target,
        warm_up=load_worker.warm_up_of(kind, request["warm_up"], rank, ranks),
        device=device,
        expected=expected,
        touch_bytes=request["touch_bytes"],
        private=kind in (loaders.PART, loaders.SHARE),
        join=lambda: _join(f"sample/{number}", rank, ranks, device, _GROUP_SHARE * timeout_s),
    )
    return fork(lambda: load_sample.take(task), timeout_s) | {"ended_at": time.time()}


def _join(name: str, rank: int, ranks: int, device: str, timeout_s: float) -> Callable[[], None]:
    """Join the process group of one sample and return its barrier, which raises `LostRankError`
    where a rank does not come.
    """
    timeout = timedelta(seconds=timeout_s)
    cuda = device.startswith("cuda")
    if cuda:
        import torch

        torch.cuda.set_device(device)
    try:
        store = PrefixStore(name, _store(timeout))
        ranks_of_torch.init_process_group(
            "nccl" if cuda else "gloo", store=store, rank=rank, world_size=ranks, timeout=timeout
        )
    except RuntimeError as error:
        raise LostRankError(str(error).partition("\n")[0]) from None

    def meet() -> None:
        try:
            ranks_of_torch.barrier()
        except RuntimeError as error:
            raise LostRankError(str(error).partition("\n")[0]) from None

    return meet


def _store(timeout: timedelta) -> TCPStore:
    """Connect to the store that torchrun's agent keeps."""
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timeout,
        wait_for_workers=False,
    )


def _orchestrator() -> tuple[socket.socket, Callable[[], int]]:
    """Return the connection to the orchestrator, which is started where it has not started this,
    and what gives the exit status.
    """
    if path := os.environ.get(SOCKET):
        return _connect(path, lambda: True), lambda: 0
    folder = tempfile.mkdtemp(prefix="weighbridge-")
    path = str(Path(folder, "ranks"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/test_sharded_load.py",
        "--ranks",
        os.environ["WORLD_SIZE"],
        "-m",
        "cpu",
    ]
    orchestrator = subprocess.Popen([*command, *sys.argv[1:]], env=os.environ | {SOCKET: path})
    try:
        return _connect(path, lambda: orchestrator.poll() is None), orchestrator.wait
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _connect(path: str, going: Callable[[], bool]) -> socket.socket:
    """Connect to a socket as soon as somebody listens there; leave when whoever should is gone."""
    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + _CONNECT_TIMEOUT_S
    while going() and time.monotonic() < deadline:
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.05)
        else:
            return connection
    raise SystemExit(
        "no orchestrator: it ended before it asked for anything, and its own message stands above"
    )


if __name__ == "__main__":
    main()
