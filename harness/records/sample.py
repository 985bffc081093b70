"""The sample: everything one load leaves behind."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any, Final

from harness.scenarios import AS_IS, CacheState

SCHEMA = 1
"""Version of a sample's fields and of the manifest; raised whenever the meaning of one changes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load by one arm in one fresh process.

    Seconds are floats in s, sizes in bytes, fractions 0 to 1; absent is None, never 0.
    """

    schema: int
    """Version of the fields, `SCHEMA`."""
    run: str
    """The run's name."""
    scenario: str
    """What was asked of the loader."""
    checkpoint: str
    """The name of the checkpoint."""
    format: str
    """The format of its files."""
    bytes: int
    """Size of its tensors."""
    tensors: int
    """How many tensors it has."""
    loader: str
    """The name of the loader."""
    environment: str
    """The name of the environment; a run has one unless it compares two."""
    device: str
    """Where the tensors go: `cpu` or `cuda`."""
    cache_state: CacheState
    """The state that was set: `cold` or `warm`."""
    block: int
    """The number of the block, from 0."""
    position: int
    """The place in the block, from 0."""
    started_at: str
    """When the cache state began to be set, UTC, ISO 8601."""
    prepare_s: float
    """Time to set and prove the cache state."""
    sample_s: float
    """Time from asking the worker to the end of its child process."""
    resident_before: float | None
    """Share of the files' pages in the page cache before the load."""
    resident_after: float | None
    """The same after the load."""
    valid: bool
    """Whether the sample counts."""
    reason: str | None
    """Why the sample is invalid, as one word of `REASONS`."""
    detail: str | None
    """The figure or message behind `reason`."""
    context_s: float | None = None
    """Time to make the GPU's context, before the clock starts."""
    first_call_s: float | None = None
    """Time of the warm-up load, in the same process just before."""
    memory_touch_bytes: int | None = None
    """Memory touched and freed just before a warm load, so that the load does not wait for a
    virtual machine's host to supply it.
    """

    memory_touch_s: float | None = None
    returned_s: float | None = None
    """From just before the call to its return."""
    ready_s: float | None = None
    """From just before the call until every page of every tensor has been touched."""
    module_ready_s: float | None = None
    """When each network of a model had run once, after `ready`; None where the loader makes no
    model.
    """

    touch_s: float | None = None
    """What the page touch inside `ready_s` costs by itself, measured by a second one."""
    check_s: float | None = None
    """Time to compare the content with the checkpoint, after the clocks have stopped."""
    cpu_s: float | None = None
    """Processor time, user and system, of all threads, from the start to `ready`."""
    storage_read_bytes: int | None = None
    """Bytes that storage gave during the load."""
    minor_faults: int | None = None
    """Page faults during the load that needed no storage."""
    major_faults: int | None = None
    """Page faults during the load that waited for storage."""
    peak_rss_bytes: int | None = None
    """Highest resident size of the process during the load, its base included."""
    peak_growth_bytes: int | None = None
    """How far the resident size rose above what it was at the start, at its highest; mapped file
    pages are part of it.
    """

    anonymous_bytes: int | None = None
    """Growth of private memory from the start to `ready`."""
    mapped_bytes: int | None = None
    """Growth of mapped file pages from the start to `ready`; they belong to the page cache, and the
    kernel can drop them.
    """

    content_ok: bool | None = None
    """Whether every tensor is the checkpoint's, byte by byte."""
    peak_device_bytes: int | None = None
    """Highest growth of the GPU's memory during the load, as far as torch and the driver tell of
    it.
    """

    peak_device_is_lower_bound: bool | None = None
    """Whether `peak_device_bytes` may miss memory that a library took past torch and gave back
    before it returned.
    """

    sm_clock_mhz: int | None = None
    """Clock of the GPU's processors just after the load, in MHz."""
    memory_clock_mhz: int | None = None
    """Clock of the GPU's memory just after the load, in MHz."""
    pcie_generation: int | None = None
    """Generation of the PCI Express link just after the load, which may be below the most it
    can.
    """

    pcie_lanes: int | None = None
    """Lanes of the PCI Express link just after the load."""
    throttle_reasons: list[str] | None = None
    """What held the GPU's clocks back just before or just after, in words."""
    part: str | None = None
    """What part of the checkpoint was asked for; None where it was everything."""
    ranks: int | None = None
    """How many processes loaded together, each its share. Times are then those of the slowest
    rank, memory that of the largest, and counts are sums.
    """

    read_ahead_kb: int | None = None
    """The device's readahead in KiB, where the run set it; the manifest has the device's own."""

    storage: str = AS_IS
    """Where the files lay: as they are, or on storage of this shape."""
    cold_depth: str | None = None
    """Of a cold sample, how far down it was cold: `here`, this kernel's page cache, or `below`,
    every cache of this machine.
    """

    storage_witness: str | None = None
    """Where `storage_read_bytes` comes from: the bytes this process read, the pages that came into
    the cache meanwhile, or the requests that shaped storage served.
    """

    storage_requests: int | None = None
    """Read requests that storage served from asking for the load to its end, whoever made them."""
    storage_request_bytes: float | None = None
    """Their mean size."""
    requested_bytes: int | None = None
    """Size of the pieces asked for, over all ranks; None where everything was."""
    pss_bytes: int | None = None
    """Growth of the proportional set size while all ranks hold their shares; a page that n
    processes share counts as 1/n.
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
    """Time of each phase of a whole process until its weights were ready, in s: start,
    import_torch, import_library, context (on a GPU), first_call, load. They add up to `ready_s`.
    Every counter is of the load alone.
    """

    others_cpu_share: float | None = None
    """Share of the usable cores' time that other processes used while the sample was taken, 0
    to 1.
    """

    steal_share: float | None = None
    """Share of the usable cores' time that the host gave to other machines."""
    cpu_pressure_share: float | None = None
    """Share of the time during which a thread waited for a processor, the load's own threads
    included (`/proc/pressure/cpu`).
    """

    io_pressure_share: float | None = None
    """The same for storage."""
    memory_pressure_share: float | None = None
    """The same for memory."""
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


BUSY: Final = "busy"
"""The reason that is the machine's and passes: a sample that has it is taken again."""


LATE: Final = "storage-late"
"""The reason that is the server's of shaped storage."""


REASONS = {
    "raised": "the loader raised an error",
    "exited": "the process exited before it gave a result",
    "killed": "the process was killed by a signal",
    "hung": "the process gave no result in time",
    "server-died": "the worker of the environment died",
    "unprepared": "the cache state could not be set or read",
    "wrong-content": "a tensor differs from the checkpoint's",
    "not-private": (
        "a tensor has no contiguous memory of its own: it lies in a mapped file, or its memory is"
        " larger than it is"
    ),
    "misplaced": "a tensor is not on the device it was asked for",
    "throttled": "the GPU held its clocks back",
    "not-cold": "part of the file was in the page cache before",
    "not-warm": "part of the file was missing from the page cache before",
    LATE: "shaped storage answered later than its shape says",
    "storage-unknown": "the system does not report what was read from storage",
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
