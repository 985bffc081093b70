"""A process that may do little: bounded memory, time, files and processes, and no way to write
outside one folder.

Writing is held back by Landlock (landlock(7); Linux 6.2 for truncation, ABI 3), which asks for no
privilege and is handed down to every process that is started; the rest by resource limits
(setrlimit(2)). What a limit of the user's processes does not bind, as root's, the watcher counts:
`descendants`. Landlock does not hold back a change of modes or times.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION = 1
_PATH_BENEATH = 1
_LEAST_ABI = 3
_WRITE_FILE, _TRUNCATE, _IOCTL = 1 << 1, 1 << 14, 1 << 15
_WRITES = _WRITE_FILE | 0b11_1111_1111 << 4 | _TRUNCATE
"""Every right to write, make, remove, rename or cut a file or folder; reading is let be."""
_TCP, _SCOPES = 0b11, 0b11
"""To bind and to connect (ABI 4); abstract sockets and signals outside the domain (ABI 6)."""
_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 38, 36
_DEVICES = ("/dev/null", "/dev/ptmx", "/dev/pts", "/dev/tty")
"""What a confined process may write to beside its folder: it keeps nothing there."""
_SETTLE_S, _POLL_S = 0.5, 0.01


@dataclass(frozen=True)
class Limits:
    """What a confined process may take.

    Sizes in bytes. The time is for its watcher to keep; of the processor it has two seconds more.
    """

    memory: int = 1 << 29
    """Private memory beyond what it has when it is confined."""
    seconds: float = 2.0
    file_bytes: int = 256 << 20
    files: int = 256
    processes: int = 32
    """It and all that it starts, threads left aside."""


def refusal() -> str | None:
    """Return why no process can be confined here, or None."""
    if not sys.platform.startswith("linux"):
        return "no process can be confined here: Landlock is Linux's"
    abi = _abi()
    if abi < _LEAST_ABI:
        reason = (
            f"this kernel has version {abi}"
            if abi > 0
            else "this kernel has none, or it is switched off (see the boot parameter lsm=)"
        )
        return (
            f"no process can be confined here: Landlock of version {_LEAST_ABI} is needed (Linux"
            f" 6.2), and {reason}"
        )
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        return (
            "no process can be confined here: this kernel does not list a process's children"
            " (CONFIG_PROC_CHILDREN)"
        )
    return None


def confine(folder: Path, limits: Limits) -> None:
    """Hold this process, and whatever it starts, to `limits` and to writing in `folder`.

    There is no way back.

    Raises `OSError` where the kernel refuses: then the process must not go on.
    """
    own_bytes = _private_bytes() + limits.memory
    for what, most in (
        (resource.RLIMIT_DATA, own_bytes),
        (resource.RLIMIT_CPU, int(limits.seconds) + 2),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_NPROC, processes_of_user() + limits.processes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        bounded = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bounded, bounded))
    _landlock(folder)


def adopt_orphans() -> None:
    """Have every process that is left behind by a child become a child of this one (`prctl(2)`), so
    that none is lost from sight.
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(
            ctypes.get_errno(), "the processes that a child leaves behind cannot be adopted"
        )


def descendants(pid: int) -> list[int]:
    """Return every process below `pid` by its number.

    One that has ended and was not waited for is counted until it is.
    """
    numbers, ahead = [], [pid]
    while ahead:
        below = _children(ahead.pop())
        numbers += below
        ahead += below
    return numbers


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process (proc(5), `children`, Linux 4.2 with
    CONFIG_PROC_CHILDREN); none of one that is gone.
    """
    numbers: list[int] = []
    with suppress(OSError):
        for thread in os.scandir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"{thread.path}/children") as children:
                numbers += map(int, children.read().split())
    return numbers


def end_descendants(settle: bool = True) -> int:
    """Wait for every process that this one's children have left behind, having killed those that do
    not end; return how many were killed.

    `settle` gives them half a second to end by themselves.
    """
    deadline = time.monotonic() + (_SETTLE_S if settle else 0)
    while (left := _any_left()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    killed: set[int] = set()
    while left:  # one that is killed may have started another meanwhile
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        left = _any_left()
    return len(killed)


def _any_left() -> bool:
    """Wait for every child that has ended, and return whether there is another."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _abi() -> int:
    return int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION)))


def _landlock(folder: Path) -> None:
    abi = _abi()
    handled = _WRITES | (_IOCTL if abi >= 5 else 0)
    rules = struct.pack("=QQQ", handled, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _checked(
        _libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(size), ctypes.c_uint(0)),
        "a Landlock ruleset",
    )
    try:
        _allow(ruleset, str(folder), handled)
        for device in _DEVICES:
            with suppress(FileNotFoundError):
                _allow(ruleset, device, handled & (_WRITE_FILE | _TRUNCATE | _IOCTL))
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        _checked(
            _libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)),
            "Landlock's restriction",
        )
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, beneath)
        _checked(
            _libc.syscall(
                _ADD_RULE,
                ctypes.c_int(ruleset),
                ctypes.c_int(_PATH_BENEATH),
                rule,
                ctypes.c_uint(0),
            ),
            f"a Landlock rule for {path}",
        )
    finally:
        os.close(beneath)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return int(result)


def _private_bytes() -> int:
    """Return the private memory that counts against RLIMIT_DATA: VmData of proc(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status does not tell VmData")


@cache
def processes_of_user() -> int:
    """Return how many processes and threads this user had when it was first asked, what
    RLIMIT_NPROC counts; forked children know it.
    """
    mine, count = os.getuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            count += len(list((process / "task").iterdir())) if process.stat().st_uid == mine else 0
    return count
