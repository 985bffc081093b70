"""The sandbox supervisor: imports the loaders' libraries once, and forks a confined child for each
trial of a hostile file.

It never opens a file of the corpus. Unlike the load worker, it calls every loader once on a valid
file before it forks, so that one-time initialisation does not count against the sandboxed child. It
goes on only as a process of one thread. Run as `python -m harness.workers.sandbox_worker PARENT`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import loaders
from harness.checkpoints.parts import Piece
from harness.hostile import CANARY
from harness.machine.confinement import (
    Limits,
    adopt_orphans,
    descendants,
    end_descendants,
    processes_of_user,
)
from harness.machine.heap import collapse_heap
from harness.records.trials import Outcome
from harness.workers.protocol import Answer, serve
from harness.workers.sandboxed_child import CASE, SAID, SandboxedChild, be_sandboxed

_PIECE = Piece("a")
"""What a loader of parts is asked for: the tensor that nearly every file of the corpus has or
claims to have.
"""

_LOOK_S = 0.05
_ABORTED_FOR_MEMORY = (
    "memory allocation of",
    "bad_alloc",
    "Cannot allocate memory",
    "can't allocate memory",
)
_SHORT_OF_MEMORY = (*_ABORTED_FOR_MEMORY, "MemoryError", "Unable to allocate", "out of memory")
_ERROR_LENGTH = 72
_MOST_SAID = 1 << 18
_SAID: dict[str, type | tuple[type, ...]] = {
    "began_rss": int,
    "stage": str,
    "ended": str,
    "error": str,
    "seconds": (int, float),
    "unconfined": str,
}
"""What a child's lines may tell, and as what."""


def main() -> None:
    """Serve until standard input ends or the parent dies."""
    adopt_orphans()
    serve({"prepare": prepare, "trial": trial})


def prepare(request: Answer) -> Answer:
    """Import what the loaders need and call each once on a whole checkpoint.

    Return which are absent, and why: {"absent"}.
    """
    processes_of_user()
    absent: dict[str, str] = {}
    for key, files in request["loaders"].items():
        kind, loader = loaders.by_key(key)
        try:
            if reason := loader.absence():
                absent[key] = reason
                continue
            for package in loader.requires:
                importlib.import_module(package)
            if kind != loaders.CONVERTER:  # which writes beside the file
                loader.load(asked_for(kind, files), "cpu")
        except Exception as error:
            if kind != loaders.SCANNER:  # which may find what there is not
                absent[key] = f"it fails on a whole file: {type(error).__name__}: {error}"
    gc.collect()
    gc.freeze()
    collapse_heap()
    _await_one_thread()
    return {"absent": absent}


def asked_for(kind: str, files: list[str]) -> Any:
    """Return what a loader of a kind is given of some files."""
    return [(file, [_PIECE]) for file in files] if kind == loaders.PART else files


def trial(request: Answer) -> Answer:
    """Return how one trial ended:
    {"outcome", "error", "seconds", "peak_rss_bytes", "base_rss_bytes", "left"}.

    {"failure", "detail"} where the process could not be confined: then no loader was called.
    `folder` is made for it and gone when this returns, with every process that it began.
    """
    kind, loader = loaders.by_key(request["loader"])
    folder = Path(request["folder"])
    files = _lay_out(folder / CASE, request["files"], request["links"])
    limits = Limits(seconds=request["timeout_s"])
    sandboxed_child = SandboxedChild(
        loader, asked_for(kind, [str(Path(CASE) / file) for file in files]), folder, limits
    )
    try:
        return _watch(sandboxed_child)
    finally:
        _remove(folder)


def _lay_out(case: Path, files: list[str], links: dict[str, str]) -> list[str]:
    """Make the folder that a loader sees, of links to what is to be in it, and return the files it
    is to be given.
    """
    for name, target in links.items():
        path = case / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return files


def _watch(sandboxed_child: SandboxedChild) -> Answer:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        be_sandboxed(sandboxed_child, writing)
    os.close(writing)
    report, status, usage, crowd = _until_the_end(
        pid, reading, start + sandboxed_child.limits.seconds, sandboxed_child.limits.processes
    )
    ended = time.perf_counter()
    os.close(reading)
    if (
        status == signal.SIGKILL
        and usage.ru_utime + usage.ru_stime > sandboxed_child.limits.seconds
    ):
        status = None  # the processor's clock ended it before the wall's
    left = end_descendants(settle=not crowd and status is not None)
    if "unconfined" in report and "began_rss" not in report:
        return {"failure": "unconfined", "detail": report["unconfined"]}
    outcome, error = _outcome(sandboxed_child.folder, report, status, crowd)
    return {
        "outcome": outcome,
        "error": error,
        "seconds": round(report.get("seconds", ended - start), 6),
        "peak_rss_bytes": usage.ru_maxrss << 10,
        "base_rss_bytes": report.get("began_rss"),
        "left": left or crowd or None,
    }


def _until_the_end(
    pid: int, reading: int, deadline: float, processes: int
) -> tuple[Answer, int | None, resource.struct_rusage, int]:
    """Return what the child said, its wait status (None: time was up), what it used, and how many
    processes were too many (0: none).
    """
    heard, crowd, late = b"", 0, False
    child = os.pidfd_open(pid)
    try:
        while not select.select([child], [], [], _LOOK_S)[0]:
            heard += _read(reading)
            crowd, late = len(descendants(pid)), time.perf_counter() > deadline
            if late or crowd > processes:
                _kill(pid)
                break
    finally:
        os.close(child)
    _, status, usage = os.wait4(pid, 0)
    return (
        _said(heard + _read(reading)),
        None if late else status,
        usage,
        crowd if crowd > processes else 0,
    )


def _read(pipe: int) -> bytes:
    """Return what lies in a pipe, as much of it as an honest child would have written."""
    heard = b""
    with suppress(BlockingIOError):
        while len(heard) < _MOST_SAID and (piece := os.read(pipe, 1 << 16)):
            heard += piece
    return heard


def _kill(pid: int) -> None:
    for number in (pid, *descendants(pid)):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _said(heard: bytes) -> Answer:
    """Return what the child's lines tell, taken together.

    A payload may have written anything, so what is no line of ours is left aside.
    """
    report: Answer = {}
    for line in heard.splitlines():
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                report |= {
                    name: value
                    for name, value in answer.items()
                    if isinstance(value, _SAID.get(name, ()))
                }
    return report


def _outcome(
    folder: Path, report: Answer, status: int | None, crowd: int
) -> tuple[str, str | None]:
    """Return (outcome, what stands beside it): a canary goes before everything that a process says
    of itself.
    """
    words = _words(folder, report, status)
    if os.path.lexists(folder / CANARY):
        return Outcome.RAN, words
    if crowd:
        return Outcome.CRASHED, f"ended for its {crowd} processes"
    if status is None:
        return Outcome.HUNG, report.get("stage")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return (Outcome.STARVED if _starved(folder, -code) else Outcome.CRASHED), words
    ended = report.get("ended")
    if ended is None:
        return Outcome.CRASHED, words
    if ended == Outcome.LOADED:
        return Outcome.LOADED, words
    return (
        Outcome.STARVED
        if any(mark in report.get("error", "") for mark in _SHORT_OF_MEMORY)
        else Outcome.REFUSED
    ), words


def _words(folder: Path, report: Answer, status: int | None) -> str | None:
    code = os.waitstatus_to_exitcode(status) if status is not None else 0
    if code < 0:
        last = _last_line(folder)
        return f"{signal.Signals(-code).name}{f': {last}' if last else ''}"[:_ERROR_LENGTH]
    if "error" not in report and status is not None:
        return f"ended by itself with status {code}"
    text: str | None = report.get("error")
    return text if text is None or len(text) <= _ERROR_LENGTH else f"{text[: _ERROR_LENGTH - 1]}…"


def _starved(folder: Path, number: int) -> bool:
    """Return whether a process that a signal ended had run out of memory: it said so, or the kernel
    took it.
    """
    return number == signal.SIGKILL or any(
        mark in _said_to_stderr(folder) for mark in _ABORTED_FOR_MEMORY
    )


def _said_to_stderr(folder: Path) -> str:
    with suppress(OSError), (folder / SAID).open("rb") as printed:
        return printed.read(1 << 16).decode(errors="replace")
    return ""


def _last_line(folder: Path) -> str:
    lines = [line.strip() for line in _said_to_stderr(folder).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _remove(folder: Path) -> None:
    """Remove a folder, whatever a payload did to its modes."""
    for inside, _, _ in os.walk(folder):
        with suppress(OSError):
            Path(inside).chmod(0o700)  # so that it can be emptied
    shutil.rmtree(folder, ignore_errors=True)


def _await_one_thread() -> None:
    """Wait until the threads that a library's call began have ended: a fork would not have them.

    Raises `RuntimeError` where they stay.
    """
    deadline = time.monotonic() + 10
    while len(list(Path("/proc/self/task").iterdir())) > 1:
        if time.monotonic() > deadline:
            raise RuntimeError("a library keeps threads running, so nothing can be forked safely")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
