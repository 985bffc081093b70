"""Reads records that were written with earlier names: the one place where those names still
stand.
"""

from __future__ import annotations

from typing import Any

_KEYS = {
    "night": "paired_run",
    "nights": "simulated_runs",
    "pairs_in_a_night": "pairs_in_a_run",
    "planted_percent": "slowed_percent",
    "guests": "loaders_under_test",
    "no_guests": "without_trials",
    "not_met": "untried",
    "container": "format",
}
"""Keys of a manifest, old name to new."""
_FIELDS = ((b'"walk_s":', b'"touch_s":'),)
"""Fields of a sample, as they stand in its line."""


def manifest_in_new_names(value: Any) -> Any:
    """Return a manifest, or a part of one, with every key under its present name."""
    if isinstance(value, dict):
        return {_KEYS.get(key, key): manifest_in_new_names(part) for key, part in value.items()}
    return [manifest_in_new_names(part) for part in value] if isinstance(value, list) else value


def line_in_new_names(line: bytes) -> bytes:
    """Return a sample's line with every field under its present name."""
    for old, new in _FIELDS:
        line = line.replace(old, new)
    return line


def is_trial(line: bytes) -> bool:
    """Return whether a line is a trial's: earlier runs keep trials and samples in one file."""
    return b'"scenario":"hostile-' in line
