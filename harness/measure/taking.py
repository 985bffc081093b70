"""Taking a sample: set the cache state, prove it, ask for the load, judge what came back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.checkpoints.store import Artifact, Checkpoint
from harness.loaders import Loader
from harness.machine import page_cache
from harness.machine.description import available_memory
from harness.measure.client import Load, Server
from harness.measure.sample import SCHEMA, Sample, judge

_SLOWEST_BYTES_PER_S = 20e6
_TIMEOUT_AT_LEAST_S = 60.0
_MEMORY_RESERVE = 1 << 30


@dataclass(frozen=True)
class Arm:
    """A loader in an environment: what one cell compares with others."""

    key: str
    """`module:name`, by which the server finds the loader."""
    loader: Loader
    environment: str
    server: Server
    rehearsal: tuple[Path, ...]


@dataclass(frozen=True)
class Cell:
    """Scenario x checkpoint x cache state x device."""

    scenario: str
    checkpoint: str
    cache_state: str
    device: str

    @property
    def name(self) -> str:
        """One line that names the cell in tables, seeds and test ids."""
        return f"{self.scenario}/{self.checkpoint}/{self.cache_state}/{self.device}"


@dataclass(frozen=True)
class Place:
    """Where a sample stands in its run: block number and position within the block."""

    run: str
    block: int
    position: int


def take_sample(cell: Cell, checkpoint: Checkpoint, arm: Arm, place: Place, timeout_s: float | None = None) -> Sample:
    """Return one sample of one arm, valid or not; raises only where the harness itself is at fault."""
    artifact = checkpoint.artifacts[arm.loader.container]
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    # Warm loads become repeatable by it. Cold ones do not: what they fill beside their own memory is the page cache, in larger pieces.
    touch_bytes = min(int(checkpoint.bytes * arm.loader.memory), room()) if cell.cache_state == "warm" else 0
    start = time.perf_counter()
    before, problem = _prepare(cell.cache_state, artifact)
    prepared = time.perf_counter()
    answer: dict[str, Any] = {"failure": "unprepared", "detail": problem}
    if before is not None:
        load = Load(arm.key, artifact.files, arm.rehearsal, checkpoint.checksums_file, cell.device, touch_bytes)
        answer = arm.server.sample(load, timeout_s or sample_timeout(checkpoint.bytes))
    done = time.perf_counter()
    judgement = judge(cell.cache_state, before if before is not None else -1.0, checkpoint.bytes, answer)
    measured = {name: value for name, value in answer.items() if name not in ("failure", "detail")}
    return Sample(
        schema=SCHEMA,
        run=place.run,
        scenario=cell.scenario,
        checkpoint=cell.checkpoint,
        format=artifact.format,
        bytes=checkpoint.bytes,
        tensors=checkpoint.tensors,
        loader=arm.loader.name,
        environment=arm.environment,
        device=cell.device,
        cache_state=cell.cache_state,
        block=place.block,
        position=place.position,
        started_at=started_at,
        prepare_s=round(prepared - start, 9),
        sample_s=round(done - prepared, 9),
        memory_touch_bytes=touch_bytes,
        resident_before=before,
        resident_after=_residency_now(artifact),
        valid=judgement.valid,
        reason=judgement.reason,
        detail=judgement.detail,
        **measured,
    )


def room() -> int:
    """Return the memory a load may take, in bytes: what can be had, less a reserve for everything else."""
    available = available_memory()
    return 1 << 62 if available is None else max(available - _MEMORY_RESERVE, 0)


def sample_timeout(size: int) -> float:
    """Return after how many seconds a load of `size` bytes counts as hung."""
    return max(_TIMEOUT_AT_LEAST_S, size / _SLOWEST_BYTES_PER_S)


def _prepare(cache_state: str, artifact: Artifact) -> tuple[float | None, str | None]:
    """Return (resident fraction of the artifact once it was set, None), or (None, why it could not be)."""
    set_state: dict[str, Callable[..., page_cache.Residency]] = {"cold": page_cache.evict, "warm": page_cache.warm}
    try:
        return set_state[cache_state](artifact.files).fraction, None
    except OSError as error:
        return None, f"{type(error).__name__}: {error.strerror}"


def _residency_now(artifact: Artifact) -> float | None:
    try:
        return page_cache.residency(artifact.files).fraction
    except OSError:
        return None
