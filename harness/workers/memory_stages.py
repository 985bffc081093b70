"""What a load leaves in memory, stage by stage, and how a load in a control group ended."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.machine.counters import Memory, memory
from harness.machine.memory_group import MemoryGroup

if TYPE_CHECKING:
    import torch

    from harness.workers.protocol import Answer

_PAGE = mmap.PAGESIZE


class Stages:
    """The memory of this process, and what is charged to its group, at each stage that is
    marked.
    """

    def __init__(self, before: Memory, group: MemoryGroup | None) -> None:
        """`before` is the process's memory before the load."""
        self._before, self._group = before, group
        self.bytes: dict[str, dict[str, int | None]] = {}

    def mark(self, stage: str) -> None:
        """Keep what there is now: growth since before the load, sizes in bytes."""
        now = memory()
        self.bytes[stage] = {
            "anonymous_bytes": _grown(self._before.anonymous, now.anonymous),
            "mapped_bytes": _grown(self._before.mapped, now.mapped),
            "page_cache_bytes": self._group.charged().page_cache if self._group else None,
        }

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Leave what this process takes meanwhile out of every later stage."""
        start = memory()
        yield
        end, before = memory(), self._before
        self._before = replace(
            before,
            anonymous=_sum(before.anonymous, _grown(start.anonymous, end.anonymous)),
            mapped=_sum(before.mapped, _grown(start.mapped, end.mapped)),
        )

    def write(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Write to every page of each CPU tensor what is there already, as a first change of the
        weights would.

        Return False, with nothing written, where one of them may not be written to.
        """
        spans = [
            (tensor.data_ptr(), tensor.nbytes)
            for tensor in tensors
            if tensor.nbytes and tensor.is_contiguous() and not tensor.is_cuda
        ]
        fixed = list(_read_only())
        if any(
            start < end and address + size > start and address < end
            for address, size in spans
            for start, end in fixed
        ):
            return False
        for address, size in spans:
            content = memoryview((ctypes.c_char * size).from_address(address)).cast("B")
            content[:1] = content[:1].tobytes()
            pages = content[-address % _PAGE :: _PAGE]
            pages[:] = pages.tobytes()
        return True


def end_in_group(group: MemoryGroup, answer: Answer) -> Answer:
    """Return what the group tells of the load that ran in it: its peak, and whether it was the
    kernel that killed it.
    """
    outcome: Answer = {"group_peak_bytes": group.peak()}
    if answer.get("failure") == "killed" and group.kills():
        outcome["detail"] = f"by the kernel, for memory, under a limit of {group.limit_bytes} bytes"
    return outcome


def _read_only() -> Iterator[tuple[int, int]]:
    """Yield (first address, end) of every mapping that may not be written to."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, rights, *_ = line.split(maxsplit=2)
        if "w" not in rights:
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end


def _sum(size: int | None, more: int | None) -> int | None:
    return None if size is None or more is None else size + more


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
