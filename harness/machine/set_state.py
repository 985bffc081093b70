"""One file's cache state set and proved, for whoever measures anything: what it was, what it is, by
which proof, how far down, and who stands in the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from harness.errors import WeighbridgeError
from harness.machine import page_cache, proof
from harness.machine.page_cache import ResidencyHiddenError
from harness.machine.storage_stack import MEMORY, stack
from harness.records.limits import COLD_AT_MOST, WARM_AT_LEAST
from harness.scenarios import CacheState


class Outcome(StrEnum):
    """What came of a file."""

    PROVED = "proved"
    NOT_REACHED = "not reached"
    CANNOT_BE_TOLD = "cannot be told here"


EXIT_CODES = {Outcome.PROVED: 0, Outcome.NOT_REACHED: 1, Outcome.CANNOT_BE_TOLD: 2}


@dataclass(frozen=True)
class FileState:
    """A file after its state was set: shares resident 0 to 1, None where they cannot be read."""

    file: Path
    bytes: int
    state: CacheState
    before: float | None
    after: float | None
    proof: str | None
    """The call that tells which pages are resident."""
    depth: Literal["here", "below"] | None
    outcome: Outcome
    reason: str | None = None
    held_by: tuple[str, ...] = ()
    """Processes that map the file, as far as this process may know."""


def set_state(file: Path, state: CacheState) -> FileState:
    """Make a file cold or warm, and return what came of it.

    Raises `WeighbridgeError` where it is no file that can be read.
    """
    if not file.is_file():
        raise WeighbridgeError(f"{file}: there is no such file")
    try:
        size = file.stat().st_size
        page_cache.hold_if_opening_drops([file])
        try:
            before = page_cache.residency([file])
            layers = stack(file.parent)
            depth, _ = proof.depth_of(layers)
            if state == "warm":
                return _warmed(file, size, before.fraction)
            if layers and layers[0].name in MEMORY:
                reason = f"{layers[0].name} is memory, where no file can be cold"
                return FileState(
                    file,
                    size,
                    state,
                    before.fraction,
                    before.fraction,
                    None,
                    None,
                    Outcome.CANNOT_BE_TOLD,
                    reason,
                )
            left = page_cache.evict([file])
            if refused := proof.not_cold_below(layers):
                return FileState(
                    file,
                    size,
                    state,
                    before.fraction,
                    left.fraction,
                    left.method,
                    "here",
                    Outcome.CANNOT_BE_TOLD,
                    refused,
                )
        finally:
            page_cache.let_go()
    except ResidencyHiddenError as error:
        return FileState(
            file, 0, state, None, None, None, None, Outcome.CANNOT_BE_TOLD, error.strerror
        )
    except OSError as error:
        raise WeighbridgeError(f"{file}: cannot be read ({error.strerror})") from None
    reached = left.fraction <= COLD_AT_MOST
    return FileState(
        file,
        size,
        state,
        before.fraction,
        left.fraction,
        left.method,
        depth if reached else None,
        Outcome.PROVED if reached else Outcome.NOT_REACHED,
        None if reached else "pages stay resident because a process maps, locks or uses them",
        () if reached else tuple(_mappers(file)),
    )


def _warmed(file: Path, size: int, before: float) -> FileState:
    """Return a file's state once it was read through."""
    after = page_cache.warm([file])
    if after.fraction >= WARM_AT_LEAST:
        os.close(os.open(file, os.O_RDONLY))
        if page_cache.residency([file]).fraction < WARM_AT_LEAST:
            return FileState(
                file,
                size,
                "warm",
                before,
                0.0,
                after.method,
                None,
                Outcome.CANNOT_BE_TOLD,
                "opening a file drops its pages on this file system, so no file can be warm",
            )
    reached = after.fraction >= WARM_AT_LEAST
    return FileState(
        file,
        size,
        "warm",
        before,
        after.fraction,
        after.method,
        "here" if reached else None,
        Outcome.PROVED if reached else Outcome.NOT_REACHED,
        None if reached else "the pages did not stay in memory: memory may be short",
    )


def exit_code(states: Sequence[FileState]) -> int:
    """Return 0 where every state is proved, 2 where one cannot be proved here, else 1."""
    return max((EXIT_CODES[state.outcome] for state in states), default=0)


def _mappers(file: Path) -> Iterator[str]:
    """Yield the processes that map a file, as `name (pid)`."""
    status = file.stat()
    place = (f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", str(status.st_ino))
    for process in sorted(Path("/proc").iterdir()):
        if not process.name.isdigit():
            continue
        try:
            maps = (process / "maps").read_text(encoding="utf-8", errors="replace")
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if any(tuple(line.split()[3:5]) == place for line in maps.splitlines()):
            yield f"{name} ({process.name})"
