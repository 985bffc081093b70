"""The check: a promise that was put to the test, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

CHECKS = "checks.jsonl"


@dataclass(frozen=True)
class Check:
    """One promise put to the test in a run, in words that stand by themselves."""

    schema: int
    """Version of the fields."""
    run: str
    """The run's name."""
    claim: str
    """Which claim of the page it belongs to."""
    check: str
    """Its name, the same in every run."""
    subject: str
    """The library that was asked, and its version."""
    condition: str
    """What was called, on what."""
    promised: str
    """What the documentation promises."""
    happened: str
    """What happened."""
    message: str | None
    """The error, or else the warning, that a person sees; None where there was none."""
    outcome: str
    """`kept`, `broken` or `not tested here`."""
    seconds: float
    """How long the check took, its process included. The first check of an environment also
    includes what all its checks need.
    """

    started_at: str
    """UTC, ISO 8601."""

    def as_json(self) -> dict[str, Any]:
        """Return the check as its line of `checks.jsonl` holds it."""
        return asdict(self)
