"""The protocol of every worker process: one request a line, one answer a line, both JSON.

A worker says which code it runs before it is asked anything else; code of another version is
refused. It is asked with a deadline, killed when it is silent, and started again when it died. What
it does at its own risk it does in a forked child, which answers by one line on a pipe.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from harness.checkpoints.refusals import without_advice
from harness.errors import WeighbridgeError
from harness.machine.lifeline import die_with_parent
from harness.records.privacy import without_paths
from harness.workers.code_digest import code_digest

Answer = dict[str, Any]
Handler = Callable[[Answer], Answer]

ROOT = Path(__file__).parents[2]
GRACE_S = 30.0
"""Time that a worker has beyond what it was given for the work itself."""
PREPARE_TIMEOUT_S = 300.0
_HELLO = "hello"


class WorkerError(WeighbridgeError):
    """A worker could not be started; the message says what to do."""


# Lines


def send(descriptor: int, message: Answer) -> None:
    """Write a message as one line, all of it."""
    line = json.dumps(message).encode() + b"\n"
    while line:
        line = line[os.write(descriptor, line) :]


def read_line(descriptor: int, deadline: float) -> bytes | None:
    """Return what comes until a line ends or the other side closes.

    None once the deadline has passed.
    """
    text = b""
    while not text.endswith(b"\n"):
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return None
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            break
        text += piece
    return text


def receive(descriptor: int, deadline: float) -> Any:
    """Return the next message, None where the other side is gone or silent for too long."""
    line = read_line(descriptor, deadline)
    return json.loads(line) if line and line.endswith(b"\n") else None


# The worker's side


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answer requests until standard input ends or the parent, the last argument, dies."""
    with answering() as answers:
        for line in sys.stdin:
            request = json.loads(line)
            name = request.pop("do")
            send(answers, own_code() if name == _HELLO else handlers[name](request))


@contextmanager
def answering() -> Iterator[int]:
    """Give the descriptor to answer on: what a library prints goes to standard error and is no
    answer.
    """
    die_with_parent(int(sys.argv[1]))
    answers = os.dup(1)
    os.dup2(2, 1)
    yield answers


def own_code() -> Answer:
    """Return which code this process runs, as a worker is asked for it first."""
    return {"code": code_digest()}


def fork(work: Callable[[], Answer], timeout_s: float) -> Answer:
    """Run `work` in a forked child.

    Return what it returned, or {"failure": raised|exited|killed|hung, "detail": …}.

    The child is gone when this returns, and its memory with it: only then can the next sample's
    cache state be set.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        die_with_parent(parent)
        os.close(reading)
        die_first()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        run_and_leave(work, writing)
    os.close(writing)
    try:
        output = read_line(reading, time.monotonic() + timeout_s)
    finally:
        os.close(reading)
        if output is None:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return outcome(output, os.waitstatus_to_exitcode(status), timeout_s)


def die_first() -> None:
    """Have the kernel take this process and not the person's when memory runs out."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def run_and_leave(work: Callable[[], Answer], pipe: int) -> NoReturn:
    """Write what `work()` returns, or the error it raises, as one line, and leave by `_exit`."""
    try:
        answer = work()
    except BaseException as error:  # whatever a loader raises is this sample's outcome
        answer = {"raised": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    send(pipe, answer)
    os._exit(0)


def outcome(output: bytes | None, code: int, timeout_s: float) -> Answer:
    """Return what a child answered, or how it failed.

    `output` is what it wrote, None where it was killed for its time; `code` its exit code, the
    negative of a signal.
    """
    if output is None:
        return {
            "failure": "hung",
            "detail": f"no result within {timeout_s:.0f} s; the process was killed",
        }
    if output.endswith(b"\n"):
        answer: Answer = json.loads(output)
        if "raised" not in answer:
            return answer
        return {
            "failure": "raised",
            "detail": without_paths(_of_the_error(answer["raised"])),
            "traceback": without_paths(answer.get("traceback", "")),
        }
    if code < 0:
        return {"failure": "killed", "detail": f"by signal {-code} ({signal.Signals(-code).name})"}
    return {"failure": "exited", "detail": f"with status {code} before it gave a result"}


def _of_the_error(raised: str) -> str:
    """Return the kind and the words of an error, less torch's advice to switch its protection
    off.
    """
    kind, colon, words = raised.partition(": ")
    return (
        f"{kind}{colon}{without_advice(words)}"
        if "weights_only" in words or "safe_globals" in words
        else raised
    )


# The orchestrator's side


def refuse_other_code(who: str, answer: Mapping[str, Any]) -> None:
    """Raise `WorkerError` where a worker runs other measuring code than this process."""
    if answer.get("code") != code_digest():
        raise WorkerError(
            f"{who} answered as a worker of another version: its measuring code is"
            f" {answer.get('code')}, here it is {code_digest()}; take its own copy of the harness"
            " out of that environment, or start again if this code was edited"
        )


class Worker:
    """One worker process of a kind: started when it is needed, and again when it died."""

    def __init__(
        self,
        module: str,
        prepare: Answer,
        prepare_timeout_s: float = PREPARE_TIMEOUT_S,
        *,
        python: str = sys.executable,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        failure: str = "the worker could not be started; its own message stands above",
    ) -> None:
        """`prepare` is the first thing that the worker is asked.

        `failure` says what to do where it cannot be started.
        """
        self._command = [python, *options, "-m", f"harness.workers.{module}", str(os.getpid())]
        self._python, self._prepare, self._prepare_timeout_s = (
            python,
            {"do": "prepare"} | prepare,
            prepare_timeout_s,
        )
        self._env, self._cwd, self._failure = env, cwd, failure
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, None when none is running."""
        return self._process.pid if self._process else None

    def start(self) -> Answer:
        """Start the worker and return its answer to `prepare`.

        Raises `WorkerError`, and leaves no process, where it cannot.
        """
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._env,
            cwd=self._cwd,
            # Ctrl-C is for the orchestrator, which then ends the worker in order
            start_new_session=True,
        )
        try:
            hello = self._exchange({"do": _HELLO}, PREPARE_TIMEOUT_S)
            if hello is None:
                raise WorkerError(self._failure)
            refuse_other_code(self._python, hello)
            answer = self._exchange(self._prepare, self._prepare_timeout_s)
            if answer is None:
                raise WorkerError(self._failure)
        except BaseException:
            self.stop()
            raise
        return answer

    def ask(self, request: Answer, timeout_s: float) -> Answer:
        """Return the answer.

        {"failure": "server-died", …} where the worker died or was silent for too long.
        """
        if self._process is None or self._process.poll() is not None:
            self.start()
        answer = self._exchange(request, timeout_s + GRACE_S)
        if answer is None:
            self.stop()
            return {"failure": "server-died", "detail": "it is started again for the next sample"}
        return answer

    def stop(self) -> None:
        """Kill the worker; its children are tied to it."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _exchange(self, request: Answer, timeout_s: float) -> Answer | None:
        process = self._process
        assert process and process.stdin and process.stdout
        with suppress(BrokenPipeError):
            send(process.stdin.fileno(), request)
            answer: Answer | None = receive(process.stdout.fileno(), time.monotonic() + timeout_s)
            return answer
        return None


class WorkerClient:
    """An orchestrator's end of one worker, which it ends when it is left."""

    _worker: Worker

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None when none is running."""
        return self._worker.pid
