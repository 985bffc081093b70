"""The check: a promise that was put to the test, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

CHECKS = "checks.jsonl"


@dataclass(frozen=True)
class Check:
    """One promise put to the test in a run, in words that stand by themselves."""

    schema: int
    run: str
    claim: str
    """Which claim of the page it belongs to."""
    check: str
    """Its name, the same in every run."""
    subject: str
    """The library that was asked, and its version."""
    condition: str
    """What was called, on what."""
    promised: str
    happened: str
    message: str | None
    """What a person is told: the error, or else what was warned of; None where nothing was said."""
    outcome: str
    """`kept`, `broken` or `not tested here`."""
    seconds: float
    """How long the check took, its process included, and for the first of an environment what all
    its checks need.
    """

    started_at: str
    """UTC, ISO 8601."""

    def as_json(self) -> dict[str, Any]:
        """Return the check as its line of `checks.jsonl` holds it."""
        return asdict(self)
