"""The weighing: everything that one run of a person's command leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.scenarios import CacheState

WeighedArm = Literal["command", "against"]
"""The command that is weighed, and the one that it is compared with."""
WeighingReason = Literal[
    "unprepared", "not-cold", "not-warm", "not-kept", "read-by-others", "storage-read", "busy"
]
"""Why a weighing is invalid: its cache state could not be set; files were not cold or not warm
before it; warm files were dropped while it ran; pages came that the command did not read; storage
was read though the files were warm; others used the machine.
"""


@dataclass(frozen=True, slots=True)
class Weighing:
    """One run of a command in a process group of its own.

    Seconds are floats in s, sizes in bytes, shares 0 to 1; absent is None, never 0.
    """

    run: str
    arm: WeighedArm
    cache_state: CacheState
    block: int
    position: int
    fresh: bool
    """Whether its block is one that a first verdict had to be confirmed by."""
    started_at: str
    prepare_s: float
    """Time to set and prove the cache state."""
    weighed_s: float
    """Time from the start of the command's supervisor to the reading after it."""
    valid: bool
    reason: WeighingReason | None
    detail: str | None
    resident_before: float | None
    """Resident share of the files just before the command started."""
    resident_after: float | None
    time_s: float | None = None
    """From the start of the command to its end, or to the line that was waited for."""
    cpu_s: float | None = None
    user_s: float | None = None
    system_s: float | None = None
    storage_read_bytes: int | None = None
    """What storage gave to the command and all its descendants, whichever file it is of."""
    gained_bytes: int | None = None
    """Bytes of the files that came into the page cache while it ran."""
    storage_requests: int | None = None
    """Read requests that the whole disk below the files served meanwhile."""
    storage_request_bytes: float | None = None
    """Their mean size."""
    minor_faults: int | None = None
    major_faults: int | None = None
    peak_bytes: int | None = None
    """Largest resident memory of one of its processes; the supervisor's own, about 15 MB, is the
    least that can be told.
    """
    io_waiting_s: float | None = None
    """How long anything on the machine waited for storage meanwhile (PSI, `some`)."""
    left_running: int | None = None
    """How many of its processes outlived it, and were ended; 0 where a line ended the clock."""
    others_cpu_share: float | None = None
    steal_share: float | None = None
    cpu_pressure_share: float | None = None
    io_pressure_share: float | None = None
    memory_pressure_share: float | None = None

    @property
    def io_waiting_share(self) -> float | None:
        """Share of its time during which something waited for storage."""
        return self._share(self.io_waiting_s)

    @property
    def cpu_share(self) -> float | None:
        """Processor time over time: 1 is one core all the time."""
        return self._share(self.cpu_s)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def _share(self, seconds: float | None) -> float | None:
        return None if seconds is None or not self.time_s else seconds / self.time_s
