"""Loads that shaped storage kept waiting longer than its shape says: the server on this machine set
the time then, and the shape did not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from harness.records.sample import LATE, Sample

LATE_LOADS = 2
LATE_SHARE_AT_MOST = 0.2
"""A loader has no figure once this many of its loads were late, and more than this share of them:
the loads that were in time are then the quick ones, and their median would flatter.
"""
_WORDS = (
    "the server of the shaped storage was late in {late} of {total} loads, so this machine cannot"
    " serve the shape to this loader"
)
_OF_THE_CEILING = (
    "the server of the shaped storage was late in {late} of {total} loads of {ceiling}, so this"
    " machine cannot serve the shape"
)


class _WithReason(Protocol):
    """What may be invalid as late: a sample, or a weighing."""

    @property
    def reason(self) -> str | None:
        """Why it is invalid, None where it is valid."""


def late_loads(samples: Sequence[_WithReason]) -> int:
    """Return how many of one loader's loads were late, 0 where too few were to leave it out."""
    late = sum(sample.reason == LATE for sample in samples)
    return late if late >= LATE_LOADS and late > LATE_SHARE_AT_MOST * len(samples) else 0


def kept_late(samples: Iterable[Sample]) -> dict[str, str]:
    """Return the loaders of one cell that have no figure for late storage, each with the reason.

    Where a ceiling is among them, no loader of the cell has one: a plain read of the file was more
    than the server could do.
    """
    loaders: dict[str, list[Sample]] = {}
    for sample in samples:
        loaders.setdefault(sample.loader, []).append(sample)
    limited = {loader: late for loader, loads in loaders.items() if (late := late_loads(loads))}
    ceiling = next((loader for loader in limited if loader.startswith("ceiling-")), None)
    if ceiling:
        late, total = limited[ceiling], len(loaders[ceiling])
        words = _OF_THE_CEILING.format(late=late, total=total, ceiling=ceiling)
        return dict.fromkeys(loaders, words)
    return {
        loader: _WORDS.format(late=late, total=len(loaders[loader]))
        for loader, late in limited.items()
    }
