"""The orchestrator's end of the ranks: starts them by torchrun, asks them, and makes one answer of
theirs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import WeighbridgeError
from harness.workers.client import Load, under_test
from harness.workers.protocol import (
    GRACE_S,
    PREPARE_TIMEOUT_S,
    Answer,
    receive,
    refuse_other_code,
    send,
)

SOCKET = "WEIGHBRIDGE_RANKS"
"""Environment variable that names the socket between the orchestrator and rank 0."""

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
_SLOWEST = (
    "context_s",
    "first_call_s",
    "memory_touch_s",
    "returned_s",
    "ready_s",
    "touch_s",
    "check_s",
)
_LARGEST = (
    "peak_rss_bytes",
    "peak_growth_bytes",
    "anonymous_bytes",
    "mapped_bytes",
    "pss_bytes",
    "peak_device_bytes",
)
_SUMMED = ("cpu_s", "storage_read_bytes", "minor_faults", "major_faults")
_FAULTS = ("not_private", "wrong", "misplaced")
_GRAVEST = ("killed", "exited", "unprepared", "raised", "hung")


class Ranks:
    """The ranks that load together, `count` at most, each a server of the environment under
    test.
    """

    def __init__(
        self,
        loaders: Mapping[str, list[str]],
        packages: Iterable[str],
        count: int,
        python: str = sys.executable,
        *,
        gpu: bool = False,
        timeout_s: float = PREPARE_TIMEOUT_S,
    ) -> None:
        """`loaders` maps each loader's key to the files of its warm-up load.

        `packages` are those whose versions are asked for.

        `gpu` and `timeout_s` are as for a `Server`.
        """
        self._start_timeout_s = PREPARE_TIMEOUT_S + timeout_s * max(1, len(loaders))
        self._python, self._count = python, count
        self._prepare = {
            "do": "prepare",
            "loaders": dict(loaders),
            "packages": list(packages),
            "timeout_s": timeout_s,
            "gpu": gpu,
            "ranks": count,
        }
        self._torchrun: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self.environment: Answer = {}

    def __enter__(self) -> Ranks:
        self.environment = self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int | None:
        """Process id of torchrun, None where it was not started from here."""
        return self._torchrun.pid if self._torchrun else None

    def of(self, ranks: int) -> SomeRanks:
        """Return the first `ranks` of them, as one server."""
        return SomeRanks(self, ranks)

    def let_go(self) -> None:
        """Have every machine let go of what is kept warm for the ranks."""
        if self._connection:
            self.ask({"do": "let go", "ranks": self._count}, GRACE_S)

    def ask(self, request: Answer, timeout_s: float) -> list[Answer] | None:
        """Return the answer of each rank that takes part, None where the ranks are gone or silent
        for too long; they start again then.
        """
        if self._connection is None:
            self._start()
        answers = self._exchange(request, timeout_s)
        if answers is None:
            self._stop()
        return answers

    def _start(self) -> Answer:
        folder = Path(tempfile.mkdtemp(prefix="weighbridge-"))
        try:
            self._connection = self._connect(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        answers = self._exchange(self._prepare, self._start_timeout_s) if self._connection else None
        if answers is None:
            self._stop()
            raise WeighbridgeError(
                f"torchrun could not start {self._count} ranks; its own message stands above. They"
                " need torch with torch.distributed"
            )
        try:
            for rank, answer in enumerate(answers):
                refuse_other_code(f"rank {rank}", answer)
        except WeighbridgeError:
            self._stop()
            raise
        return answers[0]

    def _connect(self, folder: Path) -> socket.socket | None:
        """Return the connection to rank 0, once it is there; None where torchrun ended before."""
        path = os.environ.get(SOCKET) or str(folder / "ranks")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(0.5)
            if SOCKET not in os.environ:
                self._torchrun = self._run_torchrun(path)
            deadline = time.monotonic() + _START_TIMEOUT_S
            while time.monotonic() < deadline and (
                self._torchrun is None or self._torchrun.poll() is None
            ):
                try:
                    return listener.accept()[0]
                except TimeoutError:
                    continue
        return None

    def _run_torchrun(self, path: str) -> subprocess.Popen[bytes]:
        command = [self._python, "-m", "harness.workers.rank_launcher", str(os.getpid())]
        command += [
            "--standalone",
            "--nproc-per-node",
            str(self._count),
            "--local-addr",
            "127.0.0.1",
            "-m",
            "harness.workers.rank_worker",
        ]
        environment = {
            "OMP_NUM_THREADS": os.environ.get(
                "OMP_NUM_THREADS", "1"
            ),  # torchrun's own choice, made here so that it need not say so
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
            SOCKET: path,
        }
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=under_test() | environment,
            start_new_session=True,
        )

    def _exchange(self, request: Answer, timeout_s: float) -> list[Answer] | None:
        assert self._connection
        with suppress(OSError):
            self._connection.setblocking(True)
            send(self._connection.fileno(), request)
            answers: list[Answer] | None = receive(
                self._connection.fileno(), time.monotonic() + timeout_s
            )
            return answers
        return None

    def _stop(self) -> None:
        """Let rank 0 see that nobody asks any more, and kill what has not gone by then."""
        if self._connection:
            self._connection.close()
            self._connection = None
        if self._torchrun:
            try:
                self._torchrun.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._torchrun.kill()  # its ranks are tied to it, and their children to them
                self._torchrun.wait()
            self._torchrun = None


class SomeRanks:
    """Some of the ranks as one server: they load together, and the slowest is the sample."""

    def __init__(self, ranks: Ranks, count: int) -> None:
        self.all, self._count = ranks, count

    @property
    def pid(self) -> int | None:
        """Process id of torchrun, None where it was not started from here."""
        return self.all.pid

    @property
    def environment(self) -> Answer:
        """What the environment said of itself."""
        return self.all.environment

    def set_cache_state(
        self, cache_state: str, files: Sequence[Path]
    ) -> tuple[float | None, str | None]:
        """Set the cache state on every machine, by one rank of each, and return (the resident
        fraction furthest from it, None), or (None, why not).
        """
        answers = self._ask(
            {"do": "cache", "cache_state": cache_state, "files": [str(file) for file in files]},
            GRACE_S + PREPARE_TIMEOUT_S,
        )
        if answers is None:
            return None, "the ranks are gone; they are started again for the next sample"
        for answer in answers:
            if answer["fraction"] is None:
                return None, answer["problem"]
        furthest: Callable[..., float] = max if cache_state == "cold" else min
        return furthest(answer["fraction"] for answer in answers), None

    def residency(self, files: Sequence[Path]) -> float | None:
        """Return the largest resident fraction of files on any machine, None where one cannot read
        it.
        """
        answers = self._ask({"do": "residency", "files": [str(file) for file in files]}, GRACE_S)
        known = [answer["fraction"] for answer in answers or () if answer["fraction"] is not None]
        return max(known) if answers and len(known) == len(answers) else None

    def sample(self, load: Load, timeout_s: float) -> Answer:
        """Return the ranks' answers as one, or {"failure": …, "detail": …}.

        Never raises for anything a load does.
        """
        answers = self._ask(
            {"do": "sample", "timeout_s": timeout_s} | load.as_request(), timeout_s + GRACE_S
        )
        if answers is None:
            return {
                "failure": "server-died",
                "detail": "a rank's server died; all are started again for the next sample",
            }
        return together(answers)

    def _ask(self, request: Answer, timeout_s: float) -> list[Answer] | None:
        return self.all.ask(request | {"ranks": self._count}, timeout_s)


def together(answers: Sequence[Answer]) -> Answer:
    """Return one answer of the ranks' own: times of the slowest, memory of the largest, counts of
    all; or what the first to fail met.

    A rank that only lost another is never the one to blame while there is any other.
    """
    failed = [(rank, answer) for rank, answer in enumerate(answers) if "failure" in answer]
    if failed:
        rank, answer = min(failed, key=lambda item: _blame(item[1]))
        return {
            "failure": answer["failure"],
            "detail": f"rank {rank}: {answer['detail']}",
            "traceback": answer.get("traceback", ""),
        }

    def over(field: str, combine: Callable[[list[Any]], Any]) -> Any:
        values = [answer.get(field) for answer in answers]
        return None if None in values else combine(values)

    entry = {field: over(field, max) for field in _SLOWEST + _LARGEST} | {
        field: over(field, sum) for field in _SUMMED
    }
    faults = {
        field: next(
            (
                f"rank {rank}: {answer[field]}"
                for rank, answer in enumerate(answers)
                if answer.get(field)
            ),
            None,
        )
        for field in _FAULTS
    }
    held_back = [
        answer["throttle_reasons"]
        for answer in answers
        if answer.get("throttle_reasons") is not None
    ]
    first = min(answer["started_ns"] for answer in answers)
    own = [*_SLOWEST, *_LARGEST, *_SUMMED]
    return (
        entry
        | faults
        | {
            "content_ok": all(answer["content_ok"] for answer in answers),
            "peak_device_is_lower_bound": over("peak_device_is_lower_bound", any),
            "throttle_reasons": (
                sorted({reason for reasons in held_back for reason in reasons})
                if held_back
                else None
            ),
            "per_rank": [
                {field: answer.get(field) for field in own}
                | {"started_s": (answer["started_ns"] - first) / 1e9}
                for answer in answers
            ],
        }
    )


def _blame(answer: Answer) -> tuple[bool, int, float]:
    lost = answer["failure"] == "raised" and answer["detail"].startswith("LostRankError")
    return lost, _GRAVEST.index(answer["failure"]), answer["ended_at"]
