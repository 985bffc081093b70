"""Loads that shaped storage kept waiting longer than its shape says: the server on this machine set
the time then, and the shape did not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

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


def kept_late(samples: Iterable[Sample]) -> dict[str, str]:
    """Return the loaders of one cell that have no figure for late storage, each with the reason.

    Where a ceiling is among them, no loader of the cell has one: a plain read of the file was more
    than the server could do.
    """
    taken = list(samples)
    totals = Counter(sample.loader for sample in taken)
    late = Counter(sample.loader for sample in taken if sample.reason == LATE)
    limited = {
        loader: (count, totals[loader])
        for loader, count in late.items()
        if count >= LATE_LOADS and count > LATE_SHARE_AT_MOST * totals[loader]
    }
    ceiling = next((loader for loader in limited if loader.startswith("ceiling-")), None)
    if ceiling:
        count, total = limited[ceiling]
        words = _OF_THE_CEILING.format(late=count, total=total, ceiling=ceiling)
        return dict.fromkeys(totals, words)
    return {
        loader: _WORDS.format(late=count, total=total) for loader, (count, total) in limited.items()
    }
