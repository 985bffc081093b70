"""What a sample costs beyond the load it is about: the harness on its own scale."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.records.sample import Sample


@dataclass(frozen=True)
class SampleCost:
    """Median costs of a checkpoint's samples in s."""

    checkpoint: str
    bytes: int
    samples: int
    process_s: float
    """Asking, forking, warming up, reading counters, and the process and its memory going away."""
    check_s: float
    """Comparing every byte of the content."""
    beyond_load_s: float
    """Both together: everything but the load and the setting of the state it finds."""
    prepare_cold_s: float | None
    prepare_warm_s: float | None
    memory_touch_s: float
    """Touching the memory that a warm load is given."""


def sample_costs(samples: Iterable[Sample]) -> list[SampleCost]:
    """Return what the valid samples of each checkpoint cost, smallest checkpoint first.

    Loads of less than everything are left aside.
    """
    checkpoints: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        if sample.valid and sample.requested_bytes is None:
            checkpoints.setdefault((sample.bytes, sample.checkpoint), []).append(sample)
    return [
        _cost(checkpoint, size, samples)
        for (size, checkpoint), samples in sorted(checkpoints.items())
    ]


def _cost(checkpoint: str, size: int, samples: Sequence[Sample]) -> SampleCost:
    touches = [sample.memory_touch_s or 0.0 for sample in samples]
    beyond = [
        sample.sample_s - (sample.ready_s or 0.0) - touch
        for sample, touch in zip(samples, touches, strict=True)
    ]
    checks = [sample.check_s or 0.0 for sample in samples]

    def prepared(cache_state: str) -> float | None:
        times = [sample.prepare_s for sample in samples if sample.cache_state == cache_state]
        return statistics.median(times) if times else None

    return SampleCost(
        checkpoint=checkpoint,
        bytes=size,
        samples=len(samples),
        process_s=statistics.median(
            all_but - check for all_but, check in zip(beyond, checks, strict=True)
        ),
        check_s=statistics.median(checks),
        beyond_load_s=statistics.median(beyond),
        prepare_cold_s=prepared("cold"),
        prepare_warm_s=prepared("warm"),
        memory_touch_s=statistics.median([touch for touch in touches if touch] or [0.0]),
    )
