"""Ceilings: which of those measured in a cell's blocks bounds the loads there, and by which
resource.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from harness.records.sample import Sample

STORAGE, COPY, TRANSFER = "storage", "copy", "transfer"


def is_ceiling(loader: str) -> bool:
    """Return whether a loader of this name is a ceiling: what a machine can do at best, and no way
    to load.
    """
    return loader.startswith("ceiling-")


def resource_of(loader: str, cache_state: str) -> str:
    """Return what a ceiling is the best of: reading from `storage`, the `copy` from memory to
    memory, or the `transfer` to a device.
    """
    if loader.startswith("ceiling-to-device"):
        return TRANSFER
    return STORAGE if cache_state == "cold" and loader != "ceiling-copy" else COPY


def bounding(device: str, cache_state: str, ceilings: Mapping[str, Sequence[Sample]]) -> str | None:
    """Return which ceiling of a cell bounds its loads, from the valid samples of each.

    None where none has any.

    Of each resource its fastest ceiling counts, of the resources the slowest: a load can do all at
    once, and no faster than that. On the way to a GPU no copy in memory is needed, so that one
    bounds nothing there unless nothing else was measured.
    """
    medians = {
        name: statistics.median(times)
        for name, samples in ceilings.items()
        if is_ceiling(name)
        and (
            times := [
                sample.ready_s for sample in samples if sample.valid and sample.ready_s is not None
            ]
        )
    }
    fastest: dict[str, str] = {}
    for name in sorted(medians, key=lambda name: medians[name]):
        fastest.setdefault(resource_of(name, cache_state), name)
    if device != "cpu" and len(fastest) > 1:
        fastest.pop(COPY, None)
    return max(fastest.values(), key=lambda name: medians[name], default=None)
