"""The trial: one hostile file given to one loader, and how it ended; a line of `trials.jsonl`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

TRIALS = "trials.jsonl"


@dataclass(frozen=True)
class Trial:
    """One file given to one loader, once, in a confined process of its own.

    Seconds are floats, sizes in bytes; absent is None.

    A run holds thousands of them, so a line has no field that all of a run's would have in common:
    those stand in its manifest.
    """

    scenario: str
    """`hostile-files` for a loader, `hostile-scan` for a scanner."""
    file: str
    """The name of the hostile file."""
    family: str
    """Its family."""
    loader: str
    """The name of the loader or scanner."""
    outcome: Outcome
    """How the trial ended."""
    error: str | None
    """The class of what was raised and its first line, the name of the signal, or what was handed
    back.
    """

    seconds: float
    """Time from just before the call to the outcome."""
    peak_rss_bytes: int | None = None
    """Highest resident size of the process; the manifest has its size before the call, by loader.
    """

    left: int | None = None
    """Processes that the trial left behind and the sandbox ended; None where there was none."""

    def as_json(self) -> dict[str, Any]:
        """Return the trial as its line holds it: what is None is left out but for the error."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name == "error"
        }


class Outcome(StrEnum):
    """How a loader can meet a hostile file.

    Of a scanner, `REFUSED` is a finding, and `LOADED` that it passed the file.
    """

    REFUSED = "refused"
    LOADED = "loaded"
    RAN = "ran code"
    CRASHED = "crashed"
    STARVED = "out of memory"
    HUNG = "hung"


class Harm(StrEnum):
    """What a file would do to whoever believed it.

    `NONE` is a harmless oddity, whose refusal is recorded as well.
    """

    CODE = "runs code"
    MEMORY = "takes memory"
    TIME = "takes time"
    LIE = "lies"
    BROKEN = "is broken"
    NONE = "none"
