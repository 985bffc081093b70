"""A cache below this machine: what the first evicted read of a file says beside the later ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from harness.records.sample import Sample
from harness.scenarios import AS_IS

_LIKELY_FROM = 1.3


@dataclass(frozen=True)
class HostCache:
    """How much slower the first evicted read of a file was than the median of the later ones.

    `ratio` is None without enough reads.
    """

    likely: bool | None
    ratio: float | None
    note: str


def host_cache(samples: Iterable[Sample]) -> HostCache:
    """Return what cold samples, in the order taken, tell of a cache that eviction does not reach (a
    hypervisor's, a controller's).
    """
    first: dict[tuple[str, str], Sample] = {}
    later: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        if (
            sample.cache_state == "cold"
            and sample.valid
            and sample.ready_s is not None
            and sample.requested_bytes is None
            and sample.storage == AS_IS  # a shape waits by itself, whatever lies below it
        ):
            file = (sample.checkpoint, sample.format)
            if file not in first:
                first[file] = sample
            elif sample.loader == first[file].loader:
                later.setdefault(file, []).append(sample.ready_s)
    ratios = [
        ready / statistics.median(later[file])
        for file, sample in first.items()
        if file in later and (ready := sample.ready_s)
    ]
    if not ratios:
        return HostCache(None, None, "too few cold reads to tell")
    ratio = statistics.median(ratios)
    if ratio >= _LIKELY_FROM:
        note = (
            f"the first evicted read of a file took {ratio:.2f} times as long as later ones. A "
            "cache below this machine is likely, so cold here means cold only inside this machine"
        )
        return HostCache(True, ratio, note)
    return HostCache(
        False,
        ratio,
        f"first evicted reads took {ratio:.2f} times as long as later ones, so there is no sign "
        "of a cache below. A cache that already held the files would show no sign",
    )
