"""Requests that storage served: how many, and how large."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_SECTOR_BYTES = 512
"""The unit of `/sys/block/*/stat`, whatever the device's own."""


@dataclass(frozen=True)
class Served:
    """Read requests served and their bytes, as totals or as the difference of two."""

    requests: int
    bytes: int
    late_s: float | None = None
    """By how much answers came later than a shape says, added up; None of a device."""
    waited_s: float | None = None
    """How long requests took until they were answered, added up; None of a device."""

    @property
    def mean_bytes(self) -> float | None:
        """Bytes of a request on average, None where there was none."""
        return self.bytes / self.requests if self.requests else None

    @property
    def late_share(self) -> float | None:
        """Share of the waiting that a shape's server added itself, 0 to 1; None of a device."""
        if self.late_s is None or not self.waited_s:
            return None
        return self.late_s / self.waited_s

    def since(self, before: Served) -> Served:
        """Return what was served between two readings."""
        return Served(
            self.requests - before.requests,
            self.bytes - before.bytes,
            _difference(self.late_s, before.late_s),
            _difference(self.waited_s, before.waited_s),
        )


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def served_by_device(stat: Path) -> Served | None:
    """Return what a block device served (`stat` of its folder in sysfs), None where it does not
    tell.

    It counts every reader's requests.
    """
    try:
        fields = stat.read_text(encoding="ascii").split()
        return Served(int(fields[0]), int(fields[2]) * _SECTOR_BYTES)
    except (OSError, ValueError, IndexError):
        return None
