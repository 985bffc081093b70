"""Weighing commands: set and prove the cache state, run, judge; and the blocks of an experiment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.machine import proof
from harness.machine.busy import Meter
from harness.machine.requests import Served, served_by_device
from harness.machine.set_state import FileState, Outcome, set_state
from harness.machine.storage_stack import request_statistics
from harness.measure.blocks import Limits, order_of_block, stop_reason, until_quiet
from harness.measure.weighing_validity import judge_weighing
from harness.records.weighing import WeighedArm, Weighing
from harness.scenarios import CacheState
from harness.workers.cache_state import residency, set_cache_state
from harness.workers.weighed_client import CommandOptions, Used, run_command

_HARD_S = 600.0
"""Time after which no further block of a state is begun, enough for an interval or not."""


@dataclass(frozen=True)
class Load:
    """What is weighed: commands, the files whose cache state is set, and how they are run."""

    run: str
    files: tuple[Path, ...]
    commands: Mapping[WeighedArm, tuple[str, ...]]
    options: CommandOptions
    busy_at_most: float
    seed: int
    meter: Meter = field(default_factory=Meter)

    @property
    def file_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class StateHere:
    """Whether a cache state can be had and proved for the files, and how."""

    state: CacheState
    refusal: str | None
    """Why it cannot; None where it can."""
    depth: str | None = None
    """How far down a cold file is cold, of the file that is cold least far."""
    proof: str | None = None
    counted: bool = True
    """Whether the kernel counts what a process reads from this storage."""


def state_here(files: Sequence[Path], state: CacheState) -> StateHere:
    """Return whether a state can be set and proved for these files, found by setting it.

    Raises `WeighbridgeError` where one is no file that can be read.
    """
    states = [set_state(file, state) for file in files]
    refused = next((entry for entry in states if entry.outcome != Outcome.PROVED), None)
    if refused:
        return StateHere(state, f"{refused.file.name}: {_why(refused)}")
    depth = "here" if any(entry.depth == "here" for entry in states) else "below"
    witnesses = {proof.witness_of(file) for file in files} if state == "cold" else set()
    return StateHere(state, None, depth, states[0].proof, witnesses <= {"bytes read"})


def _why(entry: FileState) -> str:
    holders = f", which {', '.join(entry.held_by)} maps" if entry.held_by else ""
    return f"{entry.reason}{holders}"


def weighings(
    load: Load, here: StateHere, limits: Limits, first_block: int = 0, *, fresh: bool = False
) -> Iterator[Weighing]:
    """Yield each run of the commands in one state as it comes, every command once a block and in
    random order, until there are enough or the time is spent.

    One that is invalid as busy is taken again, after a wait for quiet. Raises `WeighbridgeError`
    where a command fails.
    """
    block, spent_s, whole = 0, 0.0, 0
    while stop_reason(block, whole, spent_s, limits, precise=False) is None:
        number = first_block + block
        cell = f"weigh/{here.state}"
        valid = True
        for position, arm in enumerate(order_of_block(load.seed, cell, number, [*load.commands])):
            take = partial(_weighed, load, here, _arm(arm), number, position, fresh)
            for weighing in until_quiet(take, lambda: load.meter.wait_for_quiet(load.busy_at_most)):
                spent_s += weighing.prepare_s + weighing.weighed_s
                yield weighing
            valid &= weighing.valid
        block, whole = block + 1, whole + valid


def blocks_within(blocks: int | None, default: int, budget_s: float) -> Limits:
    """Return the limits of one state: as many blocks as asked for, or the default number within
    the time.
    """
    if blocks is not None:
        return Limits(blocks, float("inf"), float("inf"), until_precise=False)
    return Limits(default, budget_s, _HARD_S, until_precise=False)


def _arm(name: str) -> WeighedArm:
    return "against" if name == "against" else "command"


def _weighed(
    load: Load, here: StateHere, arm: WeighedArm, block: int, position: int, fresh: bool
) -> Weighing:
    """Return one run of a command, valid or not."""
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    served = _served(load.files[0])
    start = time.perf_counter()
    before, problem = set_cache_state(here.state, load.files)
    prepared = time.perf_counter()
    load.meter.begin()
    served_before = served()
    used = None if before is None else run_command(load.commands[arm], load.options)
    served_after, after = served(), residency(load.files)
    done = time.perf_counter()
    busyness = load.meter.end(wait=load.busy_at_most < 1.0)
    gained = None if before is None or after is None else round((after - before) * load.file_bytes)
    read = None
    if used:
        read = used.storage_read_bytes if here.counted else gained
    judgement = judge_weighing(
        here.state,
        before,
        after,
        load.file_bytes,
        read,
        here.counted,
        problem,
        busyness.share,
        load.busy_at_most,
    )
    requests = (
        served_after.since(served_before) if used and served_after and served_before else None
    )
    return Weighing(
        run=load.run,
        arm=arm,
        cache_state=here.state,
        block=block,
        position=position,
        fresh=fresh,
        started_at=started_at,
        prepare_s=round(prepared - start, 6),
        weighed_s=round(done - prepared, 6),
        valid=judgement.valid,
        reason=judgement.reason,
        detail=judgement.detail,
        resident_before=before,
        resident_after=after,
        storage_read_bytes=read,
        gained_bytes=gained,
        storage_requests=requests.requests if requests else None,
        storage_request_bytes=requests.mean_bytes if requests else None,
        **(_figures(used) if used else {}),
        **asdict(busyness),
    )


def _figures(used: Used) -> dict[str, Any]:
    """Return the figures of a command as fields of a weighing."""
    return {
        "time_s": round(used.time_s, 9),
        "cpu_s": round(used.user_s + used.system_s, 6),
        "user_s": used.user_s,
        "system_s": used.system_s,
        "minor_faults": used.minor_faults,
        "major_faults": used.major_faults,
        "peak_bytes": used.peak_bytes,
        "io_waiting_s": used.io_waiting_s,
        "left_running": used.left_running,
    }


def _served(file: Path) -> Callable[[], Served | None]:
    """Return what tells what the disk below a file has served; nothing where no disk tells."""
    statistics = request_statistics(file.parent)
    return lambda: served_by_device(statistics) if statistics else None


def warm_up(load: Load, here: StateHere) -> None:
    """Run every command once, uncounted, so that programs and libraries are in the page cache.

    Raises `WeighbridgeError` where one fails.
    """
    for command in load.commands.values():
        set_cache_state(here.state, load.files)
        run_command(command, load.options)
