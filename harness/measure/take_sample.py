"""Taking a sample: set the cache state, prove it, ask for the load, judge what came back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.checkpoints.store import Checkpoint, Selection
from harness.loaders import Contract
from harness.machine.busy import Meter
from harness.machine.description import available_memory
from harness.machine.proof import Depth, Witness
from harness.machine.requests import Served
from harness.measure.validity import judge
from harness.records.cell import Cell
from harness.records.sample import SCHEMA, Sample
from harness.workers.client import InGroup, Load, Server
from harness.workers.process_client import Interpreters
from harness.workers.rank_client import SomeRanks

_SLOWEST_BYTES_PER_S = 20e6
_TIMEOUT_AT_LEAST_S = 60.0
_MEMORY_RESERVE = 1 << 30
_MEASURED = {field.name for field in fields(Sample)} - {"detail"}
METER = Meter()
"""Tells of every sample how busy the machine was with something else than this process and what it
starts.
"""


@dataclass(frozen=True)
class Arm:
    """A loader in an environment: what one cell compares with others."""

    key: str
    """By which the server finds the loader."""
    loader: Contract
    environment: str
    server: Server | SomeRanks | Interpreters
    warm_up: tuple[Path, ...]


@dataclass(frozen=True)
class Place:
    """Where a sample stands in its run: block number and position within the block, and what the
    run's GPU reports at rest.
    """

    run: str
    block: int
    position: int
    always_throttled: tuple[str, ...] = ()
    """The throttle reasons that the GPU reported before the run loaded anything."""
    witness: Witness = "bytes read"
    """By what a load is seen to read storage."""
    depth: Depth | None = None
    """How far down what is cold is cold."""
    served: Callable[[], Served | None] = lambda: None
    """What storage served so far."""


def take_sample(
    cell: Cell,
    checkpoint: Checkpoint,
    arm: Arm,
    place: Place,
    selected: Sequence[Selection] = (),
    timeout_s: float | None = None,
    keep_traceback: Callable[[str], None] = lambda _: None,
    busy_at_most: float = 1.0,
    in_group: InGroup | None = None,
) -> Sample:
    """Return one sample of one arm, valid or not; raises only where the harness itself is at fault.

    `selected` is what is asked for of the checkpoint, by each rank where there are several; nothing
    stands for everything. `keep_traceback` is given the traceback of an error that the loader
    raised. Where others had more than `busy_at_most` of the cores' time the sample is invalid; by
    default nothing is too much. `in_group` has the load take place in a control group of its own.
    """
    artifact = checkpoint.artifacts[arm.loader.format]
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    ranks = cell.ranks or 1
    touch_bytes = (
        _memory_to_touch(checkpoint, arm.loader, selected, ranks)
        if cell.cache_state == "warm"
        else 0
    )
    METER.begin()
    start = time.perf_counter()
    before, problem = arm.server.set_cache_state(cell.cache_state, artifact.files)
    prepared = time.perf_counter()
    served_before = place.served()
    answer: dict[str, Any] = {"failure": "unprepared", "detail": problem}
    if before is not None:
        expected = tuple(selection.file for selection in selected) or (checkpoint.checksums_file,)
        load = Load(
            arm.key, artifact.files, arm.warm_up, expected, cell.device, touch_bytes, in_group
        )
        answer = arm.server.sample(load, timeout_s or sample_timeout(checkpoint.bytes * ranks))
    done = time.perf_counter()
    served_after, after = place.served(), arm.server.residency(artifact.files)
    served = served_after.since(served_before) if served_after and served_before else None
    if "storage_read_bytes" in answer:
        answer["storage_read_bytes"] = _read_bytes(
            place.witness, answer["storage_read_bytes"], served, before, after, artifact.file_bytes
        )
    busyness = METER.end(wait=busy_at_most < 1.0)
    if answer.get("traceback"):
        keep_traceback(answer["traceback"])
    least, loader = _least_read(checkpoint, selected), arm.loader
    judgement = judge(
        cell.cache_state,
        before if before is not None else -1.0,
        least,
        answer,
        loader.reads,
        loader.writes,
        place.always_throttled,
        busyness.share,
        busy_at_most,
        served.late_share if served else None,
    )
    return Sample(
        schema=SCHEMA,
        run=place.run,
        **cell.as_json(),
        format=artifact.format,
        bytes=checkpoint.bytes,
        tensors=checkpoint.tensors,
        loader=arm.loader.name,
        environment=arm.environment,
        block=place.block,
        position=place.position,
        started_at=started_at,
        prepare_s=round(prepared - start, 9),
        sample_s=round(done - prepared, 9),
        memory_touch_bytes=touch_bytes,
        resident_before=before,
        resident_after=after,
        cold_depth=place.depth if cell.cache_state == "cold" else None,
        storage_witness=place.witness if "failure" not in answer else None,
        storage_requests=served.requests if served else None,
        storage_request_bytes=served.mean_bytes if served else None,
        valid=judgement.valid,
        reason=judgement.reason,
        detail=judgement.detail,
        memory_limit_bytes=in_group.limit_bytes if in_group else None,
        requested_bytes=sum(selection.bytes for selection in selected) if selected else None,
        **asdict(busyness),
        **{name: value for name, value in answer.items() if name in _MEASURED},
    )


def _read_bytes(
    witness: Witness,
    counted: int | None,
    served: Served | None,
    before: float | None,
    after: float | None,
    file_bytes: int,
) -> int | None:
    """Return the bytes that a load read from storage, as its storage tells of them.

    On FUSE the kernel counts none for the process: there the pages that came into the cache tell,
    or a shape's own count.
    """
    if witness == "requests served":
        return served.bytes if served else None
    if witness == "pages gained":
        return None if None in (before, after) else round((after - before) * file_bytes)  # type: ignore[operator]
    return counted


def _memory_to_touch(
    checkpoint: Checkpoint, loader: Contract, selected: Sequence[Selection], ranks: int
) -> int:
    """Return how much memory each process touches before a warm load: what its load will hold, or
    its share of what there is.

    Warm loads become repeatable by it. Cold ones do not: what they fill beside their own memory is
    the page cache, in larger pieces. A ceiling touches nothing: what it fills is there already.
    """
    if loader.ceiling:
        return 0
    part = max((selection.bytes for selection in selected), default=0)
    return min(int(loader.memory * checkpoint.bytes if loader.whole else 0) + part, room() // ranks)


def _least_read(checkpoint: Checkpoint, selected: Sequence[Selection]) -> int:
    """Return the fewest bytes that a cold load must fetch: what several ranks ask for is read once,
    and is never more than there is.
    """
    return (
        min(sum(selection.bytes for selection in selected), checkpoint.bytes)
        if selected
        else checkpoint.bytes
    )


def room() -> int:
    """Return the memory a load may take, in bytes: what can be had, less a reserve for everything
    else.
    """
    available = available_memory()
    return 1 << 62 if available is None else max(available - _MEMORY_RESERVE, 0)


def sample_timeout(size: int) -> float:
    """Return after how many seconds a load of `size` bytes counts as hung."""
    return max(_TIMEOUT_AT_LEAST_S, size / _SLOWEST_BYTES_PER_S)
