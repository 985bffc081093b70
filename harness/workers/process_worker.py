"""One sample of a whole process: a fresh interpreter that imports what a loader needs, makes its
first call and loads, each to a clock of its own.

The program it is started with reads the clock in its first statement, then around `import torch`,
then around the loader's own library, before anything of the harness is imported; what the harness
itself needs stands between the clocks.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

NANO_PER_S = 1e9
PHASES = ("start", "import_torch", "import_library", "context", "first_call", "load")
"""What a process does until its weights are ready, in that order: up to its first statement, and
then what each is called.

A process on the CPU makes no `context`, so its samples have no such phase.
"""


def program(requires: Sequence[str]) -> str:
    """Return the text of the program for a loader that requires these packages."""
    imports = "".join(f"import {package}\n" for package in requires if package != "torch")
    return (
        "import time\n"
        "clocks = [time.monotonic_ns()]\n"
        "import torch\n"
        "clocks.append(time.monotonic_ns())\n"
        f"{imports}"
        "clocks.append(time.monotonic_ns())\n"
        "from harness.workers.process_worker import main\n"
        "main(clocks)\n"
    )


def main(clocks: Sequence[int]) -> None:
    """Take the sample that the first argument asks for, write its fields as a line to the pipe that
    is named there, and leave.
    """
    request = json.loads(sys.argv[1])
    from harness.machine.lifeline import die_with_parent
    from harness.workers.protocol import run_and_leave

    die_with_parent(request["parent"])
    run_and_leave(lambda: _take(request, clocks), request["pipe"])


def _take(request: dict[str, Any], clocks: Sequence[int]) -> dict[str, Any]:
    from harness.machine.counters import counters
    from harness.workers import load_sample
    from harness.workers.load_worker import task_of
    from harness.workers.protocol import own_code

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    answer = load_sample.take(task_of(request))
    began, torch_there, library_there = clocks
    context, first, load = answer["context_s"], answer["first_call_s"], answer["ready_s"]
    spans = (
        (began - request["spawned_ns"]) / NANO_PER_S,
        (torch_there - began) / NANO_PER_S,
        (library_there - torch_there) / NANO_PER_S,
    )
    before = sum(spans) + (context or 0.0) + first
    phases = dict(zip(PHASES, (*spans, context, first, load), strict=True))
    read = counters().storage_read_bytes
    return (
        answer
        | own_code()
        | {
            "phases": {name: seconds for name, seconds in phases.items() if seconds is not None},
            "returned_s": before + answer["returned_s"],
            "ready_s": before + load,
            "libraries_read_bytes": None if read is None else read - answer["storage_read_bytes"],
            "library_files": _files_in_use(),
        }
    )


def _files_in_use() -> list[str]:
    """Return the files that this process has read its programs from: modules, their compiled forms,
    shared libraries and the interpreter.
    """
    known = [
        getattr(module, "__dict__", {}) for module in list(sys.modules.values())
    ]  # asking one for a name may run it
    used = {
        path
        for names in known
        for path in (names.get("__file__"), names.get("__cached__"))
        if isinstance(path, str)
    }
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        used |= {
            parts[5]
            for parts in (line.split(maxsplit=5) for line in lines)
            if len(parts) == 6 and (".so" in parts[5] or "x" in parts[1])
        }
    return sorted(path for path in used if Path(path).is_file())
