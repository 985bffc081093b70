"""The sample: everything one load leaves behind, and the rules that make it valid or say why it is not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import MISSING, asdict, dataclass, fields, make_dataclass
from operator import itemgetter
from typing import Any

from harness.machine.nvidia import THROTTLED
from harness.machine.page_cache import COLD_AT_MOST, WARM_AT_LEAST

SCHEMA = 1
"""Version of a sample's fields and of the manifest; raised whenever the meaning of one changes."""

STORAGE_AT_LEAST = 0.99
"""Smallest share of the tensors' bytes that a cold load must have fetched from storage; what is left is the most that a warm one that writes may."""


LIBRARIES_READ_AT_MOST = 1 << 16
"""Most bytes that a process may read from storage before its load: blocks of folders, which no proof of a file's pages covers. As single
blocks they take some milliseconds of its seconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One load by one arm in one fresh process. Seconds are floats in s, sizes in bytes, fractions 0 to 1; absent is None, never 0."""

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
    cache_state: str
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
    """Memory that was touched and given back just before a warm load, so that it does not wait for a host to back it."""
    memory_touch_s: float | None = None
    returned_s: float | None = None
    ready_s: float | None = None
    module_ready_s: float | None = None
    """When each network of a model had run once, after `ready`; None where the loader makes no model."""
    walk_s: float | None = None
    """What the walk inside `ready_s` costs by itself, measured by walking once more."""
    check_s: float | None = None
    cpu_s: float | None = None
    """Processor time, user and system, of all threads, from the start to `ready`."""
    storage_read_bytes: int | None = None
    minor_faults: int | None = None
    major_faults: int | None = None
    peak_rss_bytes: int | None = None
    """Highest resident size of the process during the load, its base included."""
    peak_growth_bytes: int | None = None
    """How far the resident size rose above what it was at the start, at its highest; mapped file pages are part of it."""
    anonymous_bytes: int | None = None
    """Growth of private memory from the start to `ready`."""
    mapped_bytes: int | None = None
    """Growth of mapped file pages from the start to `ready`; they are the page cache's own and can be dropped."""
    content_ok: bool | None = None
    peak_device_bytes: int | None = None
    """Highest growth of the GPU's memory during the load, as far as torch and the driver tell of it."""
    peak_device_is_lower_bound: bool | None = None
    """Whether `peak_device_bytes` may miss memory that a library took past torch and gave back before it returned."""
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    pcie_generation: int | None = None
    """Generation of the PCI Express link just after the load, which may be below the most it can."""
    pcie_lanes: int | None = None
    throttle_reasons: list[str] | None = None
    """What held the GPU's clocks back just before or just after, in words."""
    part: str | None = None
    """What part of the checkpoint was asked for; None where it was everything."""
    ranks: int | None = None
    """How many processes loaded together, each its share; times are then the slowest rank's, memory the largest, counts the sum."""
    read_ahead_kb: int | None = None
    """The device's readahead while this was taken, where it was set for the purpose; what it is otherwise stands in the manifest."""
    requested_bytes: int | None = None
    """Size of the pieces asked for, over all ranks; None where everything was."""
    pss_bytes: int | None = None
    """Growth of the proportional set size, all ranks holding their share; a page that n processes share counts as 1/n."""
    phases: dict[str, float] | None = None
    """What a whole process spent until its weights were ready, in s: start, import_torch, import_library, context (on a GPU), first_call, load. They add up to
    `ready_s`; what else the harness did in between is in neither, and every counter is of the load alone."""
    others_cpu_share: float | None = None
    """Share of the usable cores' time that other processes used while the sample was taken, 0 to 1."""
    steal_share: float | None = None
    """Share of it that the host gave to other machines."""
    cpu_pressure_share: float | None = None
    """Share of the time during which something waited for a processor, the load's own threads among it (`/proc/pressure/cpu`)."""
    io_pressure_share: float | None = None
    memory_pressure_share: float | None = None
    per_rank: list[dict[str, Any]] | None = None
    """Each rank's own figures, by rank."""

    def as_json(self) -> dict[str, Any]:
        """Return the sample as its line of `samples.jsonl` holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Sample:
        """Return the sample of a line; fields that a later version added are left aside, missing optional ones are None."""
        try:
            words = _words(line)
            sample = _Open(line["schema"], *_SEEN.setdefault(words, words), *_others(line), *map(line.get, _OPTIONAL))
        except KeyError as missing:
            raise TypeError(f"no {missing}") from None
        sample.__class__ = cls
        return sample  # type: ignore[no-any-return]


_REQUIRED = [field.name for field in fields(Sample) if field.default is MISSING]
_WORDS = _REQUIRED[1 : _REQUIRED.index("block")]
"""What says of a sample which arm's it is: a million of them hold the same few words, which JSON gives anew with each line."""
_SEEN: dict[tuple[Any, ...], tuple[Any, ...]] = {}
_words, _others = itemgetter(*_WORDS), itemgetter(*_REQUIRED[1 + len(_WORDS) :])
_OPTIONAL = tuple(field.name for field in fields(Sample) if field.default is None)
_Open: Any = make_dataclass("_Open", [(field.name, Any) for field in fields(Sample)], slots=True)
"""A sample not closed yet: one that is frozen takes five times as long to fill, which counts a million times. It becomes a `Sample` at once."""


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
    "not-private": "a tensor is no contiguous memory of its own: it lies in a mapped file or holds more than it fills",
    "misplaced": "a tensor is not on the device it was asked for",
    "throttled": "the GPU held its clocks back",
    "not-cold": "part of the file was in the page cache before",
    "not-warm": "part of the file was missing from the page cache before",
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
"""The reasons that are the loader's own doing: a loader that gives one of them even once has no figure."""


@dataclass(frozen=True)
class Judgement:
    """Whether a sample counts, and why not."""

    valid: bool
    reason: str | None = None
    detail: str | None = None


def judge(
    cache_state: str,
    resident_before: float,
    size: int,
    answer: dict[str, Any],
    reads: bool = True,
    writes: bool = False,
    always_throttled: Collection[str] = (),
    busy: float | None = None,
    busy_at_most: float = 1.0,
) -> Judgement:
    """Return whether a sample counts, from the cache state asked for, the residency proved before, the bytes asked for and the child's answer.

    What `reads` no file while the clock runs, a ceiling of memory or of the way to a device, owes storage nothing. What `writes` one may be
    given as much by storage, warm, as a cold load may do without: the file system reads its maps of what is free. `always_throttled` are the
    throttle reasons that the GPU gives at rest too: they tell nothing of a load, and invalidate none. `busy` is the share of the usable
    cores' time that others had; more than `busy_at_most` makes a sample invalid that nothing else does.
    """
    if "failure" in answer:
        return Judgement(False, answer["failure"], answer["detail"])
    read = answer["storage_read_bytes"]
    if cache_state == "cold" and resident_before > COLD_AT_MOST:
        state = Judgement(False, "not-cold", f"{resident_before:.4f} of the file was resident before")
    elif cache_state == "warm" and resident_before < WARM_AT_LEAST:
        state = Judgement(False, "not-warm", f"{resident_before:.4f} of the file was resident before")
    elif cache_state == "cold" and read is None:
        state = Judgement(False, "storage-unknown", "no /proc/self/io")
    elif cache_state == "cold" and reads:
        enough = read >= STORAGE_AT_LEAST * size
        state = (
            Judgement(enough) if enough else Judgement(False, "storage-short", f"{read} bytes read from storage for {size} bytes asked for")
        )
    else:
        allowed = (1 - STORAGE_AT_LEAST) * size if writes else 0
        state = Judgement(False, "storage-read", f"{read} bytes read from storage") if (read or 0) > allowed else Judgement(True)
    if state.valid and (answer.get("libraries_read_bytes") or 0) > LIBRARIES_READ_AT_MOST:
        state = Judgement(False, "libraries-read", f"{answer['libraries_read_bytes']} bytes read from storage before the load")
    if state.valid and busy is not None and busy > busy_at_most:
        state = Judgement(False, BUSY, f"others had {busy:.0%} of the cores' time, more than {busy_at_most:.0%}")
    return _fault_of_the_load(answer, always_throttled) or state


def _fault_of_the_load(answer: dict[str, Any], always_throttled: Collection[str]) -> Judgement | None:
    """Return what is wrong with what a load handed back, or with the device while it did; it is told before the cache state."""
    if answer.get("not_private"):
        return Judgement(False, "not-private", answer["not_private"])
    if not answer["content_ok"]:
        return Judgement(False, "wrong-content", answer.get("wrong") or "a tensor's name, dtype, shape or bytes differ")
    if answer.get("misplaced"):
        return Judgement(False, "misplaced", answer["misplaced"])
    held = [reason for reason in answer.get("throttle_reasons") or () if reason in THROTTLED and reason not in always_throttled]
    return Judgement(False, "throttled", ", ".join(held)) if held else None
