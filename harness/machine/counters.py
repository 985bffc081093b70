"""What the kernel counted for this process: storage bytes, page faults, processor time, memory.

Needs the standard library alone, since it runs inside an environment under test.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Counters:
    """Totals since the process began.

    Sizes in bytes, time in s; None where the system does not tell.
    """

    storage_read_bytes: int | None
    minor_faults: int
    major_faults: int
    cpu_s: float


@dataclass(frozen=True)
class Memory:
    """Resident memory of this process in bytes, anonymous told apart from mapped files.

    None where the system does not tell.
    """

    anonymous: int | None
    mapped: int | None
    peak: int | None
    resident: int | None
    """All of it, shared memory included."""


def counters() -> Counters:
    """Return this process's counters (`/proc/self/io` for what it fetched from storage,
    `getrusage(2)` for the rest).
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    read = _fields("/proc/self/io").get("read_bytes")
    return Counters(
        int(read) if read else None,
        usage.ru_minflt,
        usage.ru_majflt,
        usage.ru_utime + usage.ru_stime,
    )


def memory() -> Memory:
    """Return this process's resident memory from `/proc/self/status`."""
    status = _fields("/proc/self/status")

    def size(field: str) -> int | None:
        return int(status[field].split()[0]) * 1024 if field in status else None

    return Memory(size("RssAnon"), size("RssFile"), size("VmHWM"), size("VmRSS"))


def proportional() -> int | None:
    """Return this process's proportional set size in bytes (`/proc/self/smaps_rollup`): a page that
    n processes share counts as 1/n.
    """
    size = _fields("/proc/self/smaps_rollup").get("Pss")
    return int(size.split()[0]) * 1024 if size else None


def reset_peak() -> bool:
    """Start the resident peak afresh (`/proc/self/clear_refs`, value 5).

    Return whether the system let it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _fields(path: str) -> dict[str, str]:
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    return {
        name: value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }
