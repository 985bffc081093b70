"""One sample, taken in a forked child: warm up, load, read the clocks and counters, check the
content, leave.

Between the two readings of the clock stands the load and nothing else; the page touch and its clock
come next, then a model's first run with a clock of its own; everything that reads `/proc`, hashes
or talks comes before, between or after.
"""

from __future__ import annotations

import gc
import mmap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.checksum import Checksum, checksums, difference
from harness.machine.counters import counters, memory, proportional, reset_peak
from harness.workers.device import Device, device_of, numbered
from harness.workers.memory_stages import Stages

if TYPE_CHECKING:
    from harness.loaders import Contract, Tensors
    from harness.machine.memory_group import MemoryGroup

NANO_PER_S = 1e9
_SLACK_BYTES = 4096  # an allocator rounds up
_MADV_POPULATE_WRITE = 23  # <asm-generic/mman-common.h>; Python's mmap does not name it


@dataclass(frozen=True)
class Task:
    """What a child is to load, and what it is held to."""

    loader: Contract
    target: Any
    """What the loader is given: files, files with pieces, or every rank's."""
    warm_up: Any
    """The same of the tiny checkpoint."""
    device: str
    expected: Mapping[str, Checksum]
    touch_bytes: int
    private: bool = False
    """Whether every tensor must be contiguous memory of its own."""
    join: Callable[[], Callable[[], None]] | None = None
    """Joins the other ranks' children and returns what waits until all have come to the same
    point.
    """

    group: MemoryGroup | None = None
    """The control group that the load is to run in, entered after the warm-up load."""
    stays: bool = False
    """Whether to tell what the load leaves in memory, stage by stage."""


def take(task: Task, device_of: Callable[[str], Device] = device_of) -> dict[str, Any]:
    """Return one sample's measured fields: seconds as floats, sizes in bytes, None for what the
    system does not tell.

    `device_of` makes the device that a name stands for. Raises whatever the loader raises.
    """
    loader, target, device_name = task.loader, task.target, numbered(task.device)
    device = device_of(device_name)
    meet = task.join() if task.join else _alone
    context_s = device.make_context()
    first_call_s = _warm_up(loader, task.warm_up, device_name)
    memory_touch_s = touch_memory(task.touch_bytes)
    load = loader.ready_to_load(target, device_name)
    device.begin()
    pss_before = proportional() if task.join else None
    if task.group:
        task.group.enter()
    reset = reset_peak()
    memory_before = memory()
    meet()
    device.wait()
    before = counters()
    start = time.perf_counter_ns()
    value = load()
    device.wait()
    returned = time.perf_counter_ns()
    loaded = loader.tensors(value)
    stages = Stages(memory_before, task.group) if task.stays else None
    if stages:
        stages.mark("after_load")
    touching = (
        time.perf_counter_ns() if loader.makes_model or stages else returned
    )  # naming a model's tensors and reading what is charged are no part of its load
    device.bring_up(loaded.values())
    ready = time.perf_counter_ns() - (touching - returned)
    after, memory_after = counters(), memory()
    of_device = device.end()
    charged = task.group.charged() if task.group else None
    first_run_s = _run(loader, value, device)
    if stages:
        stages.mark("after_use")
    elif task.group:
        task.group.leave()  # what is checked from here on is no part of what a load needs
    meet()
    pss_after = proportional() if task.join else None
    # a rank that left before the others had counted would make their shares of common pages larger
    meet()
    touch_s = _repeat_touch(loaded, device)
    check_start = time.perf_counter_ns()
    with stages.left_out() if stages else nullcontext():
        wrong = difference(_content(loader, loaded, target), task.expected)
    check_s = (time.perf_counter_ns() - check_start) / NANO_PER_S
    misplaced = None if loader.ceiling else device.misplaced(loaded)
    private = not_private(loaded) if task.private and not loader.ceiling else None
    if stages:
        if stages.write(loaded.values()):
            stages.mark("after_write")
        del value, loaded
        gc.collect()
        stages.mark("after_delete")
    return {
        "context_s": context_s,
        "first_call_s": first_call_s,
        "memory_touch_s": memory_touch_s,
        "returned_s": (returned - start) / NANO_PER_S,
        "ready_s": (ready - start) / NANO_PER_S,
        "module_ready_s": (
            None if first_run_s is None else (ready - start) / NANO_PER_S + first_run_s
        ),
        "touch_s": touch_s,
        "check_s": check_s,
        "cpu_s": round(after.cpu_s - before.cpu_s, 6),
        "storage_read_bytes": _grown(before.storage_read_bytes, after.storage_read_bytes),
        "minor_faults": after.minor_faults - before.minor_faults,
        "major_faults": after.major_faults - before.major_faults,
        "peak_rss_bytes": memory_after.peak if reset else None,
        "peak_growth_bytes": _grown(memory_before.resident, memory_after.peak) if reset else None,
        "anonymous_bytes": _grown(memory_before.anonymous, memory_after.anonymous),
        "mapped_bytes": _grown(memory_before.mapped, memory_after.mapped),
        "pss_bytes": _grown(pss_before, pss_after),
        "content_ok": wrong is None,
        "wrong": wrong,
        "group_anonymous_bytes": charged.anonymous if charged else None,
        "group_file_bytes": charged.page_cache if charged else None,
        "stays": stages.bytes if stages else None,
        "misplaced": misplaced,
        "not_private": private,
        "started_ns": start,
        **of_device,
        "peak_device_is_lower_bound": _lower_bound(loader, of_device),
    }


def first_call(
    loader: Contract, warm_up: Any, join: Callable[[], Callable[[], None]] | None = None
) -> dict[str, Any]:
    """Return what the very first call of a loader in a process costs and which modules it imports:
    {first_call_s, modules}.
    """
    import sys

    if join:
        join()
    known = set(sys.modules)
    seconds = _warm_up(loader, warm_up, numbered(loader.devices[0]))
    return {"first_call_s": seconds, "modules": sorted(set(sys.modules) - known)}


def not_private(tensors: Tensors) -> str | None:
    """Return what is wrong with the first CPU tensor that is no contiguous memory of its own, or
    None.
    """
    files = [(start, end) for start, end, file in _mappings() if file]
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if not tensor.is_contiguous():
            return f"{name} is not contiguous"
        if storage.nbytes() > tensor.nbytes + _SLACK_BYTES:
            return f"{name} holds {storage.nbytes()} bytes of memory and fills {tensor.nbytes}"
        if (
            tensor.nbytes
            and not tensor.is_cuda
            and any(start <= tensor.data_ptr() < end for start, end in files)
        ):
            return f"{name} lies in a mapped file"
    return None


def _mappings() -> Iterator[tuple[int, int, bool]]:
    """Yield (first address, end, whether it is a file's) of every mapping of this process.

    Nothing where the system does not tell.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        yield start, end, inode != "0"


def _alone() -> None:
    """Meet nobody: most samples have one process."""


def touch_memory(size: int) -> float:
    """Write to every page of `size` bytes of fresh memory and give them back, by large pages and
    then by small ones; return the s it took.

    A virtual machine's host takes back what the machine has freed and backs it again at the first
    touch, at a fraction of the speed of memory. A load is to be given memory whose state is known,
    as its file's is: pages that were in use a moment ago. Large pages come from elsewhere than
    small ones, so both are touched: without the large ones, loads into NumPy's memory took about
    twice as long, and scattered.
    """
    if size == 0:
        return 0.0
    start = time.perf_counter_ns()
    for advice in (getattr(mmap, "MADV_HUGEPAGE", None), None):
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
            if advice is not None:
                with suppress(OSError):  # a kernel without large pages has none to touch
                    fresh.madvise(advice)
            _populate(fresh, size)
    return (time.perf_counter_ns() - start) / NANO_PER_S


def _populate(fresh: mmap.mmap, size: int) -> None:
    try:
        fresh.madvise(_MADV_POPULATE_WRITE)
    except (OSError, AttributeError):  # before Linux 5.14, and elsewhere
        fresh[:: mmap.PAGESIZE] = bytes(-(-size // mmap.PAGESIZE))


def _warm_up(loader: Contract, target: Any, name: str) -> float:
    """Do everything a sample does on a tiny checkpoint, so that what belongs to the process is
    paid; return the call's seconds.
    """
    device = device_of(name)
    load = loader.ready_to_load(target, name)
    device.wait()
    start = time.perf_counter_ns()
    value = load()
    device.wait()
    seconds = (time.perf_counter_ns() - start) / NANO_PER_S
    loaded = loader.tensors(value)
    device.bring_up(loaded.values())
    _run(loader, value, device)
    _content(loader, loaded, target)
    counters(), memory()
    return seconds


def _run(loader: Contract, loaded: Any, device: Device) -> float | None:
    """Run each network of a model once and return the s that took, None where the loader makes
    none.
    """
    if not loader.makes_model:
        return None
    start = time.perf_counter_ns()
    loader.run(loaded)
    device.wait()
    return (time.perf_counter_ns() - start) / NANO_PER_S


def _repeat_touch(loaded: Tensors, device: Device) -> float:
    """Return the page touch's own cost in s: what it takes once there is nothing left to bring
    up.
    """
    start = time.perf_counter_ns()
    device.bring_up(loaded.values())
    return (time.perf_counter_ns() - start) / NANO_PER_S


def _content(loader: Contract, loaded: Tensors, target: Any) -> dict[str, Checksum]:
    return checksums(loader.content(loaded, target))


def _lower_bound(loader: Contract, of_device: Mapping[str, Any]) -> bool | None:
    """Return whether the peak of device memory may miss some of it; None without a peak."""
    if of_device.get("peak_device_bytes") is None:
        return None
    return loader.own_device_memory or bool(of_device.get("peak_device_is_lower_bound"))


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
