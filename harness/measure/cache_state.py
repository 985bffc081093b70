"""The cache state of a sample: set, and read back as a figure or a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.machine import page_cache


def set_cache_state(cache_state: str, files: Sequence[Path]) -> tuple[float | None, str | None]:
    """Return (resident fraction of the files once they were set cold or warm, None), or (None, why they could not be)."""
    set_state: dict[str, Callable[..., page_cache.Residency]] = {"cold": page_cache.evict, "warm": page_cache.warm}
    try:
        return set_state[cache_state](files).fraction, None
    except OSError as error:
        return None, f"{type(error).__name__}: {error.strerror}"


def residency(files: Sequence[Path]) -> float | None:
    """Return the resident fraction of the files, None where it cannot be read."""
    try:
        return page_cache.residency(files).fraction
    except OSError:
        return None
