"""The orchestrator's end of a weighed command: start its supervisor, read the answer, leave nothing
behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import WeighbridgeError
from harness.workers.weighed_command import GRACE_S

_ROOT = Path(__file__).parents[2]
_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n"
    "from harness.workers.weighed_command import main\n"
    "main()\n"
)
_SHOWN_LINES = 12
"""How many of the last lines of a failed command's output an error shows."""


@dataclass(frozen=True)
class CommandOptions:
    """How commands are run, the same for each."""

    since: str | None = None
    """The clock begins at the first line of output that this pattern matches."""
    until: str | None = None
    """The clock ends at the first line of output, after that, that this pattern matches."""
    timeout_s: float = 600.0
    show: bool = False
    """Whether the output is shown on the standard error as it comes."""


class Used(msgspec.Struct, frozen=True):
    """What a command and all its descendants used, to its end or to the line that was waited for.

    Seconds, bytes and counts; None for what the system does not tell.
    """

    time_s: float
    user_s: float
    system_s: float
    io_waiting_s: float | None
    """How long anything on the machine waited for storage meanwhile (`/proc/pressure/io`)."""
    storage_read_bytes: int | None
    minor_faults: int
    major_faults: int
    peak_bytes: int
    """Largest resident memory of one of the processes."""
    began: bool
    """Whether the line came at which the clock begins."""
    matched: bool
    timed_out: bool
    exit_status: int
    left_running: int
    """How many processes were still running when the command had ended."""
    output: str


def run_command(command: Sequence[str], options: CommandOptions) -> Used:
    """Run a command once in a process group of its own and return what it used.

    Raises `WeighbridgeError` with the end of its output where it cannot be started, fails, takes
    too long, or ends without the line that was waited for.
    """
    request = {
        "command": list(command),
        "since": options.since,
        "until": options.until,
        "timeout_s": options.timeout_s,
        "show": options.show,
        "parent": os.getpid(),
    }
    supervisor = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(request)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        line, _ = supervisor.communicate()
    except BaseException:
        supervisor.terminate()
        with suppress(subprocess.TimeoutExpired):
            supervisor.wait(2 * GRACE_S)
        supervisor.kill()
        supervisor.communicate()
        raise
    answer = json.loads(line) if line else {"failure": "its supervisor was killed"}
    if "failure" in answer:
        raise WeighbridgeError(f"{command[0]}: {answer['failure']}")
    used = msgspec.convert(answer, Used)
    if problem := _problem(used, options):
        raise WeighbridgeError(f"{' '.join(command)}: {problem}{_last_lines(used.output)}")
    return used


def _problem(used: Used, options: CommandOptions) -> str | None:
    """Return what went wrong with a command, or None."""
    if used.timed_out:
        return f"did not end within {options.timeout_s:g} s (--timeout); its last lines:"
    if not used.began:
        return f"ended without a line that matches --since {options.since!r}; its last lines:"
    if options.until and not used.matched:
        return f"ended without a line that matches --until {options.until!r}; its last lines:"
    if not options.until and used.exit_status:
        ended = (
            f"was killed by signal {-used.exit_status}"
            if used.exit_status < 0
            else f"ended with status {used.exit_status}"
        )
        return f"{ended}; its last lines:"
    return None


def _last_lines(output: str) -> str:
    lines = output.rstrip().splitlines()[-_SHOWN_LINES:]
    return "".join(f"\n  {line}" for line in lines) or " none"
