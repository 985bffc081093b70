"""The cache state of a sample: set, kept, and read back as a figure or a reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.machine import page_cache, proof

_locks: list[page_cache.Lock] = []
"""The lock on what is warm, one at most."""
_laid: set[Path] = set()
"""The files whose pages were brought in here, and not by whoever read them last."""


def set_cache_state(cache_state: str, files: Sequence[Path]) -> tuple[float | None, str | None]:
    """Return (resident fraction once the files were set cold or warm, None), or (None, why they
    could not be).

    Of several files it is that of the one furthest from what was asked for, so that none can hide
    among the others.

    What is warm is locked until the next call, where that is allowed: a system that reclaims memory
    nobody has used for a while would take pages away between this and the load, and the load would
    read them again. Before a file is warm for the first time it is evicted: pages lie in memory as
    they were asked for, in small pieces or large, so that what the last cold load left would speed
    up or hold up every warm one (by four, of a mapped file).
    """
    try:
        if cache_state == "cold":
            _release()
            _laid.difference_update(files)
            return proof.evict(files), None
        if not (_locks and _locks[0].paths == tuple(files)):
            _release()
            if not _laid.issuperset(files):
                proof.evict(files)
                _laid.update(files)
            page_cache.warm(files)
            _locks.append(page_cache.Lock(files))
        return page_cache.warm(files).least, None
    except OSError as error:
        return None, f"{type(error).__name__}: {error.strerror}"


def residency(files: Sequence[Path]) -> float | None:
    """Return the resident fraction of the files, None where it cannot be read."""
    try:
        return page_cache.residency(files).fraction
    except OSError:
        return None


def let_go() -> None:
    """Let go of what this process keeps warm, and of what it knows of it: while it does, no process
    at all can make those files cold.
    """
    _release()
    _laid.clear()
    page_cache.let_go()


def _release() -> None:
    while _locks:
        _locks.pop().release()
