"""The cell: what a comparison of arms is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from harness.records.sample import Sample
from harness.scenarios import AS_IS, MEMORY_LIMIT, SEARCHED, CacheState, Pair, pair_for


@dataclass(frozen=True)
class Cell:
    """Scenario x checkpoint x cache state x device, and what else a scenario tells its cells apart
    by.
    """

    scenario: str
    checkpoint: str
    cache_state: CacheState
    device: str
    part: str | None = None
    ranks: int | None = None
    read_ahead_kb: int | None = None
    """The readahead set for this cell, None for the device's own."""
    storage: str = AS_IS
    """Where the files lie: as they are, or on storage of this shape."""

    @property
    def name(self) -> str:
        """One line that names the cell in tables, seeds and test ids."""
        return f"{self.scenario}/{self.what}"

    @property
    def pair(self) -> Pair:
        """The two loaders that stand for the cell where only one ratio is shown."""
        return pair_for(self.scenario, self.checkpoint)

    @property
    def what(self) -> str:
        """The cell's name within its scenario."""
        ranks = f"{self.ranks}-rank{'' if self.ranks == 1 else 's'}" if self.ranks else None
        ahead = f"read-ahead-{self.read_ahead_kb}" if self.read_ahead_kb is not None else None
        storage = None if self.storage == AS_IS else self.storage
        state = (self.cache_state, self.device, storage, ahead)
        return "/".join(filter(None, (self.checkpoint, self.part, ranks, *state)))

    @property
    def searches_limit(self) -> bool:
        """Whether its samples are tries under a memory limit, so that some are expected to fail and
        their times are of different limits.
        """
        return self.scenario == MEMORY_LIMIT and self.part in SEARCHED

    @classmethod
    def of(cls, sample: Sample) -> Cell:
        """Return the cell a sample belongs to."""
        return cls(**{field.name: getattr(sample, field.name) for field in fields(cls)})

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Cell | None:
        """Return the cell of a manifest's entry, None of one that names no cell."""
        known: dict[str, Any] = {field.name: record.get(field.name) for field in fields(cls)}
        known["storage"] = known["storage"] or AS_IS
        named = (known[name] for name in ("scenario", "checkpoint", "cache_state", "device"))
        return cls(**known) if all(named) else None

    def as_json(self) -> dict[str, Any]:
        """Return the cell as a manifest's entry holds it."""
        return asdict(self)


def is_shaped(name: str) -> bool:
    """Return whether the name of a cell is of one on shaped storage."""
    _, _, after = name.partition("/cold/")
    return any(not part.startswith("read-ahead-") for part in after.split("/")[1:])


MINIMUM_BLOCKS = 6
"""Fewer pairs than this give no 95 % interval of a median, whatever their values (2 x 0.5^5 >
0.05).
"""
