"""The meeting: a loader and a hostile file, and how it ended. A line of `samples.jsonl` like a sample's, told from it by its scenario."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

HOSTILE_FILES, HOSTILE_SCAN = SCENARIOS = ("hostile-files", "hostile-scan")
"""The scenarios of a meeting: of a file with a loader, and with a scanner."""

_OPTIONAL = ("peak_rss_bytes", "left")


@dataclass(frozen=True)
class Meeting:
    """One file given to one loader, once, in a confined process of its own. Seconds are floats, sizes in bytes; absent is None.

    A run holds thousands of them, so a line has no field that all of a run's would have in common: those stand in its manifest.
    """

    scenario: str
    file: str
    family: str
    loader: str
    outcome: str
    error: str | None
    """The class of what was raised and its first line, the name of the signal, or what was handed back."""
    seconds: float
    """Time from just before the call to the outcome."""
    peak_rss_bytes: int | None
    """Highest resident size of the process; what it had before the call, its libraries, stands in the manifest by loader."""
    left: int | None = None
    """Processes that were left behind and had to be ended; None where none was."""

    def as_json(self) -> dict[str, Any]:
        """Return the meeting as its line holds it: what is None is left out but for the error."""
        return {name: value for name, value in asdict(self).items() if value is not None or name == "error"}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Meeting:
        """Return the meeting of a line; fields that a later version added are left aside."""
        known = {field.name: line.get(field.name) for field in fields(cls)}
        if missing := [name for name in known if name not in line and name not in _OPTIONAL]:
            raise ValueError(f"without {', '.join(missing)}")
        return cls(**known)  # type: ignore[arg-type]
