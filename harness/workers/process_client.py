"""The orchestrator's end of samples that are whole processes: each is an interpreter of its own,
from its start to weights that are ready.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import WeighbridgeError
from harness.loaders import by_key
from harness.machine import page_cache
from harness.machine.memory_group import MemoryGroup
from harness.workers.cache_state import residency, set_cache_state
from harness.workers.client import Load, under_test
from harness.workers.memory_stages import end_in_group
from harness.workers.process_worker import program
from harness.workers.protocol import Answer, outcome, read_line, refuse_other_code

_ENTERING = ("/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')
"""Moves a process into the group that is named next before it becomes the command behind that."""


class Interpreters:
    """Starts an interpreter for each sample, `python` being which."""

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python
        self._libraries: dict[str, list[Path]] = {}

    def set_cache_state(
        self, cache_state: str, files: Sequence[Path]
    ) -> tuple[float | None, str | None]:
        """Set the cache state of files and return (resident fraction then, None), or (None, why it
        could not be set or read).
        """
        return set_cache_state(cache_state, files)

    def residency(self, files: Sequence[Path]) -> float | None:
        """Return the resident fraction of files, None where it cannot be read."""
        return residency(files)

    def sample(self, load: Load, timeout_s: float) -> Answer:
        """Return what the process measured, or {"failure": …, "detail": …}.

        Never raises for anything the load does.

        Its `returned_s` and `ready_s` count from just before the process was started, without what
        the harness did in between. The files that a loader's process reads its programs from are
        known from one that was not counted, and brought into the page cache first.
        """
        if load.loader not in self._libraries:
            report = self._started(replace(load, files=load.warm_up, touch_bytes=0), timeout_s)
            if "failure" not in report:
                refuse_other_code(self._python, report)
            if "library_files" in report:
                self._libraries[load.loader] = [Path(file) for file in report["library_files"]]
        for file in self._libraries.get(load.loader, ()):
            with suppress(OSError):
                page_cache.warm([file])
        if load.in_group:
            return self._in_group(load, load.in_group.limit_bytes, timeout_s)
        return self._started(load, timeout_s)

    def _in_group(self, load: Load, limit_bytes: int | None, timeout_s: float) -> Answer:
        """Start the process in a control group of its own, whose memory is all that it takes."""
        try:
            group = MemoryGroup(limit_bytes)
        except WeighbridgeError as error:
            return {"failure": "unprepared", "detail": str(error)}
        try:
            answer = self._started(load, timeout_s, group)
            # under a limit, programs are dropped from memory and read again: that is its own cost
            return answer | end_in_group(group, answer) | {"libraries_read_bytes": None}
        finally:
            group.remove()

    def _started(self, load: Load, timeout_s: float, group: MemoryGroup | None = None) -> Answer:
        reading, writing = os.pipe()
        request: dict[str, Any] = load.as_request() | {"pipe": writing, "parent": os.getpid()}
        text = program(by_key(load.loader)[1].requires)
        spawned = time.monotonic_ns()
        command = [self._python, "-P", "-c", text, json.dumps(request | {"spawned_ns": spawned})]
        process = subprocess.Popen(
            command if group is None else [*_ENTERING, str(group.path), *command],
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a library prints is not told apart from what it complains of
            env=under_test(),
            start_new_session=True,  # Ctrl-C is for the orchestrator, which then ends the process
        )
        os.close(writing)
        output: bytes | None = None
        try:
            output = read_line(reading, time.monotonic() + timeout_s)
        finally:
            os.close(reading)
            if output is None:
                process.kill()
            code = process.wait()
        return outcome(output, code, timeout_s)
