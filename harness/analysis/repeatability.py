"""Whether two runs of one machine say the same: every ratio they share, interval against
interval.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.analysis.arms import ArmSummary
from harness.analysis.ceilings import is_ceiling
from harness.analysis.statistics import Estimate

CLOCKS = ("returned", "ready", "module ready")


@dataclass(frozen=True)
class Shared:
    """One ratio to the cell's reference loader that two runs know with an interval, and whether the
    intervals overlap.
    """

    cell: str
    loader: str
    clock: str
    a: Estimate
    b: Estimate
    agree: bool


def shared_ratios(a: Iterable[ArmSummary], b: Iterable[ArmSummary]) -> list[Shared]:
    """Return every ratio that both runs know with an interval, of the same cell, loader and
    environment by the same clock, in `a`'s order.

    Whether the two are of one machine and the same content is for the caller to know. Ceilings are
    no loaders and the reference's own ratio is 1, so neither is there.
    """
    theirs = {_key(arm): arm for arm in b}
    pairs = [(arm, other) for arm in a if _compared(arm) and (other := theirs.get(_key(arm)))]
    ratios = [
        (arm, clock, mine, other)
        for arm, summary in pairs
        for clock, mine, other in zip(CLOCKS, _ratios(arm), _ratios(summary), strict=True)
        if mine and other
    ]
    return [
        Shared(arm.cell.name, arm.loader, clock, mine, other, overlap(mine, other))
        for arm, clock, mine, other in ratios
        if mine.low is not None and other.low is not None
    ]


def overlap(a: Estimate, b: Estimate) -> bool:
    """Return whether two intervals have a value in common; never where one is missing."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low <= b.high and b.low <= a.high


def _key(arm: ArmSummary) -> tuple[str, str, str]:
    return arm.cell.name, arm.loader, arm.environment


def _compared(arm: ArmSummary) -> bool:
    return not is_ceiling(arm.loader) and arm.loader != arm.cell.pair.reference


def _ratios(arm: ArmSummary) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    return arm.ratio_returned, arm.ratio_ready, arm.ratio_module_ready
