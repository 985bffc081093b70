"""The cache state of a sample: set, kept, and read back as a figure or a reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.machine import page_cache

_locks: list[page_cache.Lock] = []
"""The lock on what is warm, one at most."""


def set_cache_state(cache_state: str, files: Sequence[Path]) -> tuple[float | None, str | None]:
    """Return (resident fraction of the files once they were set cold or warm, None), or (None, why they could not be).

    What is warm is locked until the next call, where that is allowed: a system that reclaims memory nobody has used for a while would
    take pages away between this and the load, and the load would read them again.
    """
    try:
        if cache_state == "cold":
            _release()
            return page_cache.evict(files).fraction, None
        if not (_locks and _locks[0].paths == tuple(files)):
            _release()
            page_cache.warm(files)
            _locks.append(page_cache.Lock(files))
        return page_cache.warm(files).fraction, None
    except OSError as error:
        return None, f"{type(error).__name__}: {error.strerror}"


def residency(files: Sequence[Path]) -> float | None:
    """Return the resident fraction of the files, None where it cannot be read."""
    try:
        return page_cache.residency(files).fraction
    except OSError:
        return None


def _release() -> None:
    while _locks:
        _locks.pop().release()
