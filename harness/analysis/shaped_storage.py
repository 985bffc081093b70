"""What storage does to a load: how much longer mapping takes than reading, by how large the
requests of each are, and how steady each storage is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any

from harness.analysis.arms import ArmSummary, paired_ratios
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate, estimate
from harness.records.sample import Sample
from harness.scenarios import AS_IS

READ = "safetensors-pread"
"""The library's own way to read a file instead of mapping it."""
MAPPED = ("safetensors-load-file", "safetensors-get-slice")
"""Its ways to map it: of everything at once, and tensor by tensor."""


@dataclass(frozen=True)
class MappedOverRead:
    """Of one cell, how much longer mapping took than reading, and by which requests."""

    cell: MeasuredCell
    mapped: str
    ratio: Estimate
    """`ready` of the mapped loader over that of the one that reads, within blocks."""
    mapped_request: float | None
    """Mean size of a request, bytes."""
    read_request: float | None

    @property
    def request_ratio(self) -> float | None:
        """By how many times the requests of the one that reads are larger."""
        if not self.mapped_request or not self.read_request:
            return None
        return self.read_request / self.mapped_request


def mapped_over_read(cell: MeasuredCell) -> MappedOverRead | None:
    """Return how mapping compares with reading in a cell, None where one of them is missing."""
    read = cell.arm(READ)
    arm = next(filter(None, map(cell.arm, MAPPED)), None)
    if arm is None or read is None:
        return None
    over, under = cell.valid(arm), cell.valid(read)
    ratio = estimate(paired_ratios(over, under, lambda sample: sample.ready_s))
    if ratio is None:
        return None
    return MappedOverRead(cell, arm.loader, ratio, request_bytes(over), request_bytes(under))


def request_bytes(samples: Sequence[Sample]) -> float | None:
    """Return the mean size of a request in bytes, of the median sample."""
    sizes = [sample.storage_request_bytes for sample in samples if sample.storage_request_bytes]
    return median(sizes) if sizes else None


def requests(samples: Sequence[Sample]) -> float | None:
    """Return how many requests storage served, of the median sample."""
    counts = [sample.storage_requests for sample in samples if sample.storage_requests is not None]
    return median(counts) if counts else None


def variation(samples: Sequence[Sample]) -> float | None:
    """Return the coefficient of variation of `ready`, a share of its mean, None of fewer than two
    samples.
    """
    times = [sample.ready_s for sample in samples if sample.ready_s]
    return stdev(times) / mean(times) if len(times) > 1 else None


def fastest(cell: MeasuredCell) -> list[ArmSummary]:
    """Return the loaders that are as fast to `ready` as can be told, the fastest first: those whose
    ratio to it, within blocks, does not lie wholly above 1.
    """
    arms = cell.measured()
    if not arms:
        return []
    best = cell.valid(arms[0])
    tied = [arms[0]]
    for arm in arms[1:]:
        ratio = estimate(paired_ratios(cell.valid(arm), best, lambda sample: sample.ready_s))
        if ratio and ratio.low is not None and ratio.low <= 1.0:
            tied.append(arm)
    return tied


def words_of(storage: str, manifest: Mapping[str, Any]) -> str:
    """Return a storage in words, by what the run recorded of it."""
    if storage == AS_IS:
        place = manifest.get("storage") or {}
        return f"the disk as it is ({place.get('file_system') or 'unknown'})"
    words = (manifest.get("shapes") or {}).get(storage, {}).get("words")
    name = "your own" if ":" in storage else storage
    return f"{name} ({words})" if words else name


def latency_of(storage: str, manifest: Mapping[str, Any]) -> float | None:
    """Return the latency of a storage in s, None of one that has none."""
    shape = (manifest.get("shapes") or {}).get(storage) or {}
    return shape.get("latency_s") or None
