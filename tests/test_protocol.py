"""The worker protocol: every family answers, is refused and is ended in the same way."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import WeighbridgeError
from harness.workers import process_client, rank_client
from harness.workers.client import Load, Server
from harness.workers.process_client import Interpreters
from harness.workers.promise_client import CannotBeCheckedError, PromiseClient
from harness.workers.protocol import (
    Worker,
    WorkerError,
    fork,
    outcome,
    read_line,
    receive,
    refuse_other_code,
    send,
)
from harness.workers.rank_client import Ranks
from harness.workers.sandbox_client import Sandbox

OTHER = "another version"
IMPOSTOR = f"""#!{sys.executable}
import json, sys
for line in sys.stdin:
    print(json.dumps({{"code": "an-older-one", "absent": {{}}, "safetensors": True}}), flush=True)
"""
SILENT = f"""#!{sys.executable}
import sys
sys.stdin.read()
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[[str], str]:
    """Return what writes a program in the place of an interpreter."""

    def write(program: str) -> str:
        path = tmp_path / "python"
        path.write_text(program)
        path.chmod(0o755)
        return str(path)

    return write


def test_a_load_worker_of_other_code_is_refused(interpreter: Callable[[str], str]) -> None:
    server = Server({}, [], interpreter(IMPOSTOR))
    with pytest.raises(WorkerError, match=OTHER), server:
        pytest.fail("it was believed")
    assert server.pid is None, "no process is left"


@pytest.mark.parametrize("family", ["promise", "sandbox"])
def test_every_family_refuses_other_code(
    family: str, interpreter: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = interpreter(IMPOSTOR)
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setitem(Worker.__init__.__kwdefaults__ or {}, "python", python)
    client: Any = (
        PromiseClient(tmp_path) if family == "promise" else Sandbox({}, tmp_path / "trials")
    )
    with (
        pytest.raises(CannotBeCheckedError if family == "promise" else WorkerError, match=OTHER),
        client,
    ):
        pytest.fail("it was believed")
    assert client.pid is None


def test_ranks_of_other_code_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(Ranks, "_connect", lambda *_: ours)
    monkeypatch.setattr(rank_client, "receive", lambda *_: [{"code": "an-older-one"}])
    ranks = Ranks({}, [], 1)
    with (
        theirs,
        pytest.raises(WeighbridgeError, match=rf"rank 0 answered as a worker of {OTHER}"),
        ranks,
    ):
        pytest.fail("they were believed")


def test_a_process_of_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"code": "an-older-one", "library_files": []}
    monkeypatch.setattr(process_client.Interpreters, "_started", lambda *_: answer)
    load = Load("harness.loaders.plain_pickle:pickle-load", (), (), (), "cpu", 0)
    with pytest.raises(WorkerError, match=OTHER):
        Interpreters().sample(load, 1.0)


def test_a_worker_that_cannot_start_leaves_no_process(interpreter: Callable[[str], str]) -> None:
    worker = Worker(
        "load_worker",
        {},
        python=interpreter(f"#!{sys.executable}\nraise SystemExit(3)"),
        failure="do this",
    )
    with pytest.raises(WorkerError, match="do this"):
        worker.start()
    assert worker.pid is None


def test_a_silent_worker_is_killed(
    interpreter: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.workers.protocol.PREPARE_TIMEOUT_S", 0.2)
    worker = Worker("load_worker", {}, python=interpreter(SILENT))
    start = time.monotonic()
    with pytest.raises(WorkerError):
        worker.start()
    assert worker.pid is None
    assert time.monotonic() - start < 10


def test_a_message_is_whole_whatever_its_length() -> None:
    reading, writing = os.pipe()
    message = {"text": "x" * 40_000}
    send(writing, message)
    assert receive(reading, time.monotonic() + 5) == message


def test_half_a_message_is_none() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"half": ')
    os.close(writing)
    assert receive(reading, time.monotonic() + 5) is None
    assert read_line(os.open("/dev/null", os.O_RDONLY), time.monotonic() + 5) == b""


@pytest.mark.parametrize(
    ("work", "failure", "detail"),
    [
        (lambda: {"a": 1}, None, None),
        (lambda: os._exit(3), "exited", "with status 3"),
        (lambda: os.kill(os.getpid(), 9), "killed", "SIGKILL"),
        (lambda: time.sleep(60), "hung", "no result within"),
        (lambda: 1 / 0, "raised", "ZeroDivisionError"),
    ],
)
def test_a_fork_tells_how_it_ended(work: Any, failure: str | None, detail: str | None) -> None:
    answer = fork(work, 0.5)
    assert answer.get("failure") == failure
    assert detail is None or detail in answer["detail"]


def test_an_exit_without_a_line_is_a_failure() -> None:
    assert outcome(b"", 0, 1.0)["failure"] == "exited"


def test_the_same_code_is_believed() -> None:
    from harness.workers.protocol import own_code

    refuse_other_code("it", own_code())
