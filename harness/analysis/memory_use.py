"""What memory a load needs, what it leaves, and what several processes share, from the samples of a
run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from harness.analysis.memory_limits import (
    LOADED,
    Floor,
    Try,
    floor_of,
    limit_at,
    outcome_of,
    tries_of,
)
from harness.analysis.run_cells import MeasuredCell
from harness.records.sample import BUSY, FAILURES, Sample
from harness.scenarios import LIMIT, SEARCHED, WHOLE_PROCESS

MARGIN = 1.1
"""What is asked for beyond what was just enough."""
STAGES = ("after_load", "after_use", "after_write", "after_delete")
"""The stages of what stays, in their order."""
MAPPED_AT_MOST = 0.1
"""A loader whose private memory grows by less than this share of the checkpoint maps it."""


@dataclass(frozen=True)
class LoaderLimits:
    """One loader of one cell: what was tried, the smallest limit, and times to ready in s."""

    loader: str
    size: int
    """The checkpoint's bytes."""
    floor: Floor | None
    tries: tuple[Try, ...]
    free_s: float | None
    """Time to ready without a limit, the median."""
    maps: bool

    def at(self, factor: float) -> tuple[float | None, str | None]:
        """Return (the median time to ready under `factor` times the checkpoint, None), or (None,
        how it ended there, or `busy` where no sample counts); two Nones where it was not tried.
        """
        limit = limit_at(factor, self.size)
        here = [attempt for attempt in self.tries if attempt.limit_bytes == limit]
        failed = next((attempt.outcome for attempt in here if not attempt.loaded), None)
        if failed is None and self.floor and limit < self.floor.limit_bytes:
            failed = self.floor.outcome
        times = [attempt.ready_s for attempt in here if attempt.loaded and attempt.ready_s]
        if failed or not times:
            return None, failed or (BUSY if here else None)
        return median(times), None

    @property
    def slowdown_at_floor(self) -> float | None:
        """How many times as long a load took under its smallest limit as without one."""
        times = [
            attempt.ready_s
            for attempt in self.tries
            if self.floor and attempt.limit_bytes == self.floor.limit_bytes and attempt.ready_s
        ]
        return median(times) / self.free_s if times and self.free_s else None

    def slowdown(self, factor: float) -> float | None:
        """Return how many times as long a load took under `factor` times the checkpoint."""
        seconds, _ = self.at(factor)
        return seconds / self.free_s if seconds and self.free_s else None


def limits_of(cell: MeasuredCell) -> list[LoaderLimits]:
    """Return what a cell tells of each of its loaders, the one with the smallest limit first and
    those whose limit is not known last.
    """
    rows = []
    for loader in dict.fromkeys(sample.loader for sample in cell.samples):
        samples = [sample for sample in cell.samples if sample.loader == loader]
        size = samples[0].bytes
        free = [sample for sample in _free(samples) if outcome_of(sample) == LOADED]
        times = [sample.ready_s for sample in free if sample.valid and sample.ready_s]
        grown = [sample.anonymous_bytes for sample in free if sample.anonymous_bytes is not None]
        rows.append(
            LoaderLimits(
                loader,
                size,
                floor_of(samples, size),
                tuple(tries_of(samples)),
                median(times) if times else None,
                bool(grown) and median(grown) < MAPPED_AT_MOST * size,
            )
        )
    return sorted(
        rows, key=lambda row: (row.floor is None, row.floor.limit_bytes if row.floor else 0)
    )


@dataclass(frozen=True)
class MemoryNeed:
    """The memory that a process needs to load a checkpoint, bytes."""

    least_bytes: int
    """What is just enough. A mapped load is slow there."""
    ask_bytes: int
    """The limit to ask for: with a margin, and room for the pages that a mapped load uses."""
    by: Literal["whole processes", "limits", "plain loads"]
    """What it was told by: limits on whole processes, on the load alone, or no limit at all."""


def memory_to_ask_for(samples: Iterable[Sample]) -> MemoryNeed | None:
    """Return the memory limit to ask for to load one checkpoint by one loader on the CPU, None
    where the samples do not tell.

    `samples` are that loader's of that checkpoint, of any scenario in which it loads everything.
    The smallest limit found for a whole process counts most. Else it is the smallest one found for
    the load, and else what a load without a limit kept at its peak, in both cases with the resident
    size of the process before it. Pages that a load maps are not needed to load, but are read again
    and again where there is no room for them: the limit to ask for holds them.
    """
    samples = [sample for sample in samples if sample.device == "cpu"]
    plain = [
        sample
        for sample in _free(samples)
        if outcome_of(sample) == LOADED  # a busy machine makes no load need more
        and sample.peak_growth_bytes is not None
        and sample.ranks is None
    ]
    if not plain:
        return None
    size = plain[0].bytes
    mapped = max(median([sample.mapped_bytes or 0 for sample in plain]), 0)
    process = median(
        [(sample.peak_rss_bytes or 0) - (sample.peak_growth_bytes or 0) for sample in plain]
    )
    by_part = {
        part: floor_of([sample for sample in samples if sample.part == part], size)
        for part in SEARCHED
    }
    by: Literal["whole processes", "limits", "plain loads"]
    if whole := by_part[WHOLE_PROCESS]:
        least, by = float(whole.limit_bytes), "whole processes"
    elif floor := by_part[LIMIT]:
        least, by = process + floor.limit_bytes, "limits"
    else:
        kept = median(
            [
                max((sample.peak_growth_bytes or 0) - (sample.mapped_bytes or 0), 0)
                for sample in plain
            ]
        )
        least, by = process + kept, "plain loads"
    return MemoryNeed(round(least), round(MARGIN * (least + mapped)), by)


@dataclass(frozen=True)
class Stage:
    """What there is at one stage after a load, medians in bytes; None where it is not known."""

    anonymous_bytes: float | None
    mapped_bytes: float | None
    page_cache_bytes: float | None


def stages_of(samples: Sequence[Sample]) -> dict[str, Stage]:
    """Return what a loader's samples tell of each stage, without those that none reached."""
    stages = {}
    for stage in STAGES:
        entries = [
            sample.stays[stage]
            for sample in samples
            if sample.valid and sample.stays and stage in sample.stays
        ]
        if entries:
            stages[stage] = Stage(
                *(
                    median(known) if (known := _known(entries, name)) else None
                    for name in ("anonymous_bytes", "mapped_bytes", "page_cache_bytes")
                )
            )
    return stages


def proportional_in_all(samples: Sequence[Sample]) -> float | None:
    """Return the growth of the proportional memory of all processes that loaded together, the
    median over samples in bytes; a page that n of them share counts once in all.
    """
    totals = []
    for sample in samples:
        shares = [rank.get("pss_bytes") for rank in sample.per_rank or ()]
        if sample.valid and shares and None not in shares:
            totals.append(sum(share for share in shares if share is not None))
    return median(totals) if totals else None


def without_failed_tries(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples but those that a search for a limit expects to fail."""
    return [
        sample
        for sample in samples
        if sample.memory_limit_bytes is None or sample.reason not in FAILURES
    ]


def _free(samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.memory_limit_bytes is None]


def _known(entries: Sequence[dict[str, int | None]], name: str) -> list[int]:
    return [value for entry in entries if (value := entry.get(name)) is not None]
