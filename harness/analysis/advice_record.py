"""What advice on one checkpoint says, as plain data; `weighbridge advise --json` prints it.

Times are in s, until every page is ready; sizes in bytes; what is unknown is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.analysis.lines_to_type import Library
from harness.analysis.statistics import Estimate
from harness.scenarios import CacheState


class Verdict(StrEnum):
    """How the loader that is advised compares with the one in use today."""

    FASTER = "faster"
    ALIKE = "no measurable difference"
    KEEP = "keep what is in use"
    UNDECIDED = "too few blocks to tell"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Use:
    """What to use in one cache state; times are until every page is ready, in s."""

    cache_state: CacheState
    verdict: Verdict
    storage: str | None = None
    """The storage in words where it was shaped, None for the disk as it is."""
    loader: str | None = None
    name: str | None = None
    ready_s: Estimate | None = None
    own_loader: str | None = None
    own_name: str | None = None
    own_ready_s: Estimate | None = None
    times_as_fast: Estimate | None = None
    """The time of the loader in use today over this one's, within blocks."""
    blocks: int = 0
    reason: str | None = None
    """Why it was not measured."""


@dataclass(frozen=True)
class ToType:
    """A line to type for one library."""

    library: Library
    text: str
    loader: str
    advised: bool
    """Whether it is the advised loader; else the fastest measured that the library offers."""


@dataclass(frozen=True)
class Memory:
    """What a load needs, bytes: at its peak, of which the process before the load, and pages
    mapped from the file, which the kernel can drop; and the limit to ask for.
    """

    loader: str
    peak_bytes: float
    process_bytes: float
    mapped_bytes: float
    ask_for_bytes: float


@dataclass(frozen=True)
class Conversion:
    """What a conversion to safetensors costs and saves, in s; loads are those that pay it back."""

    cost_s: Estimate | None
    cold_saving_s: Estimate | None
    warm_saving_s: Estimate | None
    cold_loads: int | None
    """None where no cold load is known to save anything."""
    warm_loads: int | None
    without: Use | None
    """The best without converting, warm, where it is faster than what is in use."""


@dataclass(frozen=True)
class Bottleneck:
    """What the advised load's time goes to."""

    cache_state: CacheState
    loader: str
    what: str
    share_of_ceiling: float | None
    ceiling: str | None
    ceiling_bytes_per_s: float | None


@dataclass(frozen=True)
class Figures:
    """A loader's figures; times in s until every page is ready, memory in bytes."""

    loader: str
    name: str
    cold_s: Estimate | None
    warm_s: Estimate | None
    peak_bytes: float | None


@dataclass(frozen=True)
class Evidence:
    """What the advice rests on."""

    samples: int
    valid: int
    invalid: dict[str, int]
    blocks: dict[str, int]
    """By cell."""
    not_measured: dict[str, str]
    """Why each cell, or each loader of one, has no figure."""
    read_ahead_kb: int | None


@dataclass(frozen=True)
class Advice:
    """Everything that `weighbridge advise` says."""

    checkpoint: str
    bytes: int | None
    format: str
    device: str
    cold: Use
    warm: Use
    lines: tuple[ToType, ...]
    convert_first: bool
    memory: Memory | None
    conversion: Conversion | None
    """None where the file is safetensors already."""
    bottlenecks: tuple[Bottleneck, ...]
    figures: tuple[Figures, ...]
    evidence: Evidence
