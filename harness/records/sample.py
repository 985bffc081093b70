"""The sample: everything one load leaves behind."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

from harness.scenarios import AS_IS, CacheState

SCHEMA = 1
"""Version of a sample's fields and of the manifest; raised whenever the meaning of one changes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load by one arm in one fresh process.

    Seconds are floats in s, sizes in bytes, fractions 0 to 1; absent is None, never 0.
    """

    schema: int
    run: str
    scenario: str
    checkpoint: str
    format: str
    bytes: int
    tensors: int
    loader: str
    environment: str
    device: str
    cache_state: CacheState
    block: int
    position: int
    started_at: str
    """When the cache state began to be set, UTC, ISO 8601."""
    prepare_s: float
    """Time to set and prove the cache state."""
    sample_s: float
    """Time from asking the server to the child being gone."""
    resident_before: float | None
    resident_after: float | None
    valid: bool
    reason: str | None
    """Why the sample is invalid, as one word of `REASONS`."""
    detail: str | None
    """The figure or message behind `reason`."""
    context_s: float | None = None
    first_call_s: float | None = None
    """The same call on a tiny checkpoint, just before, in the same process, its imports done."""
    memory_touch_bytes: int | None = None
    """Memory that was touched and given back just before a warm load, so that it does not wait for
    a host to back it.
    """

    memory_touch_s: float | None = None
    returned_s: float | None = None
    ready_s: float | None = None
    module_ready_s: float | None = None
    """When each network of a model had run once, after `ready`; None where the loader makes no
    model.
    """

    touch_s: float | None = None
    """What the page touch inside `ready_s` costs by itself, measured by walking once more."""
    check_s: float | None = None
    cpu_s: float | None = None
    """Processor time, user and system, of all threads, from the start to `ready`."""
    storage_read_bytes: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    peak_rss_bytes: int | None = None
    """Highest resident size of the process during the load, its base included."""
    peak_growth_bytes: int | None = None
    """How far the resident size rose above what it was at the start, at its highest; mapped file
    pages are part of it.
    """

    anonymous_bytes: int | None = None
    """Growth of private memory from the start to `ready`."""
    mapped_bytes: int | None = None
    """Growth of mapped file pages from the start to `ready`; they are the page cache's own and can
    be dropped.
    """

    content_ok: bool | None = None
    peak_device_bytes: int | None = None
    """Highest growth of the GPU's memory during the load, as far as torch and the driver tell of
    it.
    """

    peak_device_is_lower_bound: bool | None = None
    """Whether `peak_device_bytes` may miss memory that a library took past torch and gave back
    before it returned.
    """

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    pcie_generation: int | None = None
    """Generation of the PCI Express link just after the load, which may be below the most it
    can.
    """

    pcie_lanes: int | None = None
    throttle_reasons: list[str] | None = None
    """What held the GPU's clocks back just before or just after, in words."""
    part: str | None = None
    """What part of the checkpoint was asked for; None where it was everything."""
    ranks: int | None = None
    """How many processes loaded together, each its share; times are then the slowest rank's, memory
    the largest, counts the sum.
    """

    read_ahead_kb: int | None = None
    """The device's readahead while this was taken, where it was set for the purpose; what it is
    otherwise stands in the manifest.
    """

    storage: str = AS_IS
    """Where the files lay: as they are, or on storage of this shape."""
    cold_depth: str | None = None
    """Of a cold sample, how far down it was cold: `here`, this kernel's page cache, or `below`,
    every cache of this machine.
    """

    storage_witness: str | None = None
    """What `storage_read_bytes` was told by: the bytes this process read, the pages that came into
    the cache meanwhile, or the requests that shaped storage served.
    """

    storage_requests: int | None = None
    """Read requests that storage served from asking for the load to its end, whoever made them."""
    storage_request_bytes: float | None = None
    """Their mean size."""
    requested_bytes: int | None = None
    """Size of the pieces asked for, over all ranks; None where everything was."""
    pss_bytes: int | None = None
    """Growth of the proportional set size, all ranks holding their share; a page that n processes
    share counts as 1/n.
    """

    memory_limit_bytes: int | None = None
    """The memory limit of the control group that the load ran in; None where it had none."""
    group_peak_bytes: int | None = None
    """The most that was ever charged to that group, page cache included."""
    group_anonymous_bytes: int | None = None
    """Private memory charged to the group at `ready`."""
    group_file_bytes: int | None = None
    """Pages of files charged to the group at `ready`, mapped or not."""
    stays: dict[str, dict[str, int | None]] | None = None
    """What a load leaves, by stage (after_load, after_use, after_write, after_delete):
    anonymous_bytes and mapped_bytes, growth of the process since before the load, and
    page_cache_bytes, charged to its group. A stage that could not be reached is missing.
    """

    phases: dict[str, float] | None = None
    """What a whole process spent until its weights were ready, in s: start, import_torch,
    import_library, context (on a GPU), first_call, load. They add up to `ready_s`; what else the
    harness did in between is in neither, and every counter is of the load alone.
    """

    others_cpu_share: float | None = None
    """Share of the usable cores' time that other processes used while the sample was taken, 0
    to 1.
    """

    steal_share: float | None = None
    """Share of it that the host gave to other machines."""
    cpu_pressure_share: float | None = None
    """Share of the time during which something waited for a processor, the load's own threads among
    it (`/proc/pressure/cpu`).
    """

    io_pressure_share: float | None = None
    memory_pressure_share: float | None = None
    per_rank: list[dict[str, Any]] | None = None
    """Each rank's own figures, by rank."""

    def as_json(self) -> dict[str, Any]:
        """Return the sample as its line of `samples.jsonl` holds it."""
        return asdict(self)

    def __post_init__(self) -> None:
        """Keep the few words that a million samples repeat once in memory."""
        for name in (
            "run",
            "scenario",
            "checkpoint",
            "format",
            "loader",
            "environment",
            "device",
            "cache_state",
            "storage",
        ):
            object.__setattr__(self, name, sys.intern(getattr(self, name)))


BUSY = "busy"
"""The reason that is the machine's and passes: a sample that has it is taken again."""


REASONS = {
    "raised": "the loader raised an error",
    "exited": "the process exited before it gave a result",
    "killed": "the process was killed by a signal",
    "hung": "the process gave no result in time",
    "server-died": "the server of the environment died",
    "unprepared": "the cache state could not be set or read",
    "wrong-content": "the tensors are not the checkpoint's",
    "not-private": (
        "a tensor is no contiguous memory of its own: it lies in a mapped file or holds more than"
        " it fills"
    ),
    "misplaced": "a tensor is not on the device it was asked for",
    "throttled": "the GPU held its clocks back",
    "not-cold": "part of the file was in the page cache before",
    "not-warm": "part of the file was missing from the page cache before",
    "storage-late": "shaped storage answered later than its shape says",
    "storage-unknown": "the system does not tell what was read from storage",
    "storage-short": "storage gave less than was loaded, so something else served the rest",
    "libraries-read": "a library was read from storage while the process started",
    "storage-read": "storage was read although everything was in the page cache",
    BUSY: "other processes used the processors meanwhile",
}
"""Every reason a sample can be invalid for."""


FAILURES = ("raised", "exited", "killed", "hung")
"""The reasons that are a load's own end, before it gave anything."""


WRONG = ("wrong-content", "misplaced")
"""The reasons that are the loader's own doing: a loader that gives one of them even once has no
figure.
"""
