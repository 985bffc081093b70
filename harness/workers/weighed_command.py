"""The process that starts a command, watches it, and counts what it and all its descendants used.

It runs as a small interpreter of its own, so that it can adopt every orphan of the command
(`PR_SET_CHILD_SUBREAPER`) without changing whoever asked. It needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from harness.machine.busy import waited
from harness.machine.lifeline import adopt_orphans, die_with_parent

GRACE_S = 5.0
"""Time between asking the processes that are left to end and killing them."""
_KEPT_BYTES = 16 << 10
"""How much of the end of the output is kept for an error."""
_SECTOR_BYTES = 512
"""The unit of `ru_inblock`: the kernel derives it from the bytes of `/proc/PID/io`."""


class _StopError(Exception):
    """Whoever asked is gone, or wants the command stopped."""


@dataclass
class _Output:
    """The pipe that a command's output comes by, the end of what came, and what is looked for."""

    descriptor: int
    since: re.Pattern[str] | None
    until: re.Pattern[str] | None
    show: bool
    kept: bytearray = field(default_factory=bytearray)
    line: bytes = b""
    began: bool = False
    """Whether the line of `since` has come; from the start where none is waited for."""
    matched: bool = False
    closed: bool = False

    def read(self) -> None:
        """Take what has come; note whether a line of it matches."""
        while not self.closed:
            try:
                piece = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return
            self.closed = not piece
            self.kept += piece
            del self.kept[:-_KEPT_BYTES]
            if self.show:
                sys.stderr.buffer.write(piece)
                sys.stderr.buffer.flush()
            if self.since or self.until:
                *lines, line = (self.line + piece).split(b"\n")
                self.line = line[-_KEPT_BYTES:]
                for text in [*lines, line] if self.closed else lines:
                    self._look_at(text.decode(errors="replace"))

    def _look_at(self, line: str) -> None:
        if not self.began and self.since:
            self.began = bool(self.since.search(line))
        elif self.until:
            self.matched |= bool(self.until.search(line))


def main() -> None:
    """Weigh the command that the first argument asks for and write the answer as a line."""
    request = json.loads(sys.argv[1])
    die_with_parent(request["parent"], signal.SIGTERM)
    signal.signal(signal.SIGTERM, _stop)
    adopt_orphans()
    try:
        answer = _weigh(request)
    except _StopError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_all(None)
        sys.exit(1)
    sys.stdout.write(json.dumps(answer) + "\n")


def _stop(*_: object) -> NoReturn:
    raise _StopError


def _weigh(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the command used: seconds, bytes, counts; None for what the system hides."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    since, until = (
        re.compile(request[name]) if request[name] else None for name in ("since", "until")
    )
    output = _Output(reading, since, until, request["show"], began=since is None)
    began = _Begin()
    try:
        process = subprocess.Popen(
            request["command"],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return {"failure": f"cannot be started ({error.strerror})"}
    finally:
        os.close(writing)
    end, timed_out, began = _watch(process.pid, output, began, began.at + request["timeout_s"])
    waited_after = waited("io")
    used = _used_so_far() if output.matched else None
    outlived = 0 if output.matched or timed_out else len(_descendants())
    process.returncode = status = _end_all(process.pid, output, at_once=not output.matched)
    return {
        "time_s": end - began.at,
        "io_waiting_s": _difference(began.waited_s, waited_after),
        "began": output.began,
        "matched": output.matched,
        "timed_out": timed_out,
        "exit_status": status,
        "left_running": outlived,
        "output": output.kept.decode(errors="replace"),
        **_beyond(began.used, used or _used_by_reaped()),
    }


@dataclass(frozen=True)
class _Begin:
    """What the totals were when the clock began."""

    at: float = field(default_factory=time.perf_counter)
    waited_s: float | None = field(default_factory=lambda: waited("io"))
    used: dict[str, Any] = field(default_factory=dict)


def _beyond(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what was used between two readings; of memory, the later peak."""
    return {
        name: value
        if name == "peak_bytes" or value is None or before.get(name) is None
        else max(value - before[name], 0)
        for name, value in after.items()
    }


def _watch(pid: int, output: _Output, began: _Begin, deadline: float) -> tuple[float, bool, _Begin]:
    """Return when the command ended or the line came, whether the deadline came first, and what
    the clock began with.
    """
    ending = os.pidfd_open(pid)
    poll = select.poll()
    for descriptor in (ending, output.descriptor):
        poll.register(descriptor, select.POLLIN)
    try:
        while True:
            ready = dict(poll.poll(max(0.0, deadline - time.perf_counter()) * 1e3))
            now = time.perf_counter()
            if not ready:
                return now, True, began
            waiting = not output.began
            output.read()
            if waiting and output.began:
                began = _Begin(now, used=_used_so_far())
            if output.matched or ending in ready:
                return now, False, began
            if output.closed:
                with suppress(KeyError):
                    poll.unregister(output.descriptor)
    finally:
        os.close(ending)


def _end_all(pid: int | None, output: _Output | None = None, *, at_once: bool = False) -> int:
    """End every process that is left and reap all; return the command's exit status.

    They are asked by SIGTERM first, and killed after `GRACE_S`. A command that ended by itself has
    nothing left to say: with `at_once` what it left behind is not waited for longer than it takes.
    """
    status, deadline = 0, time.monotonic() + GRACE_S
    number = signal.SIGTERM
    asked: set[int] = set()
    while True:
        for descendant in _descendants():
            if descendant not in asked or number == signal.SIGKILL:
                asked.add(descendant)
                with suppress(OSError):
                    os.kill(descendant, number)
        try:
            reaped, code, _ = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if reaped == pid:
            status = os.waitstatus_to_exitcode(code)
        if reaped == 0:
            time.sleep(0.001 if at_once else 0.01)
        if output:
            output.read()
        if time.monotonic() > deadline:
            number = signal.SIGKILL


def _descendants() -> list[int]:
    """Return the processes below this one, those that have ended and wait to be reaped aside."""
    parents: dict[int, int] = {}
    alive: set[int] = set()
    for name in os.listdir("/proc"):  # noqa: PTH208  # the names are all that is needed
        if name.isdigit() and (fields := _stat(int(name))):
            parents[int(name)] = int(fields[1])
            if fields[0] not in ("Z", "X"):
                alive.add(int(name))
    below, ahead = set[int](), {os.getpid()}
    while ahead:
        ahead = {pid for pid, parent in parents.items() if parent in ahead} - below
        below |= ahead
    return sorted(below & alive)


def _used_by_reaped() -> dict[str, Any]:
    """Return what all processes used that have ended here, orphans among them.

    `getrusage(2)`, `RUSAGE_CHILDREN`: sums, and of memory the largest process. `ru_inblock` is the
    kernel's count of `/proc/PID/io` in sectors, so that no byte is lost when a process ends.
    """
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "storage_read_bytes": usage.ru_inblock * _SECTOR_BYTES,
        "minor_faults": usage.ru_minflt,
        "major_faults": usage.ru_majflt,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def _used_so_far() -> dict[str, Any]:
    """Return what the processes below this one have used until now, while they still run.

    Each counts for itself and for the children that it has reaped (`/proc/PID/stat`,
    `/proc/PID/io`).
    """
    tick = os.sysconf("SC_CLK_TCK")
    totals = dict.fromkeys(("user_s", "system_s", "minor_faults", "major_faults"), 0.0)
    read: int | None = 0
    peak = 0
    for pid in _descendants():
        if not (fields := _stat(pid)):
            continue
        own = [int(value) for value in fields[7:15]]
        totals["minor_faults"] += own[0] + own[1]
        totals["major_faults"] += own[2] + own[3]
        totals["user_s"] += (own[4] + own[6]) / tick
        totals["system_s"] += (own[5] + own[7]) / tick
        counted = _figure(f"/proc/{pid}/io", "read_bytes")
        read = None if read is None or counted is None else read + counted
        peak = max(peak, 1024 * (_figure(f"/proc/{pid}/status", "VmHWM") or 0))
    faults = {name: int(totals[name]) for name in ("minor_faults", "major_faults")}
    return {**totals, **faults, "storage_read_bytes": read, "peak_bytes": peak}


def _stat(pid: int) -> list[str] | None:
    """Return the fields of `/proc/PID/stat` from the state on, None of a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return None


def _figure(path: str, name: str) -> int | None:
    """Return a figure of a file of `/proc` that has a name and a figure a line."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0])
    return None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
