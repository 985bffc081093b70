"""What one run says to do: a loader for each cell that asks which to use, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from harness.analysis.arms import ArmSummary
from harness.analysis.run_cells import MeasuredCell, pair_ratio, to_take
from harness.analysis.statistics import Estimate
from harness.scenarios import (
    FULL_LOAD,
    PARTIAL_LOAD,
    PIPELINE_LOAD,
    PROCESS_START,
    SCENARIOS,
    SHARDED_LOAD,
    STORAGE,
)

_ORDER = (FULL_LOAD, PIPELINE_LOAD, SHARDED_LOAD, PARTIAL_LOAD, PROCESS_START, STORAGE)
"""Scenarios that most people ask about first."""


@dataclass(frozen=True)
class Advice:
    """The loader to use in one cell."""

    cell: MeasuredCell
    take: ArmSummary
    other: ArmSummary | None
    """What it is compared with: the scenario's other loader, or else the slowest measured; None
    where nothing else was measured.
    """
    ratio: Estimate | None
    """Its `ready` over that of `other`, within blocks; None without a pair."""

    @property
    def conclusive(self) -> bool:
        """Whether the whole interval of the ratio lies on one side of 1."""
        ratio = self.ratio
        if ratio is None or ratio.low is None or ratio.high is None:
            return False
        return ratio.high < 1.0 or ratio.low > 1.0


@dataclass(frozen=True)
class Situation:
    """A scenario on a device and a storage, by the cells of one checkpoint that stand for it."""

    advices: tuple[Advice, ...]
    """By cache state, cold first."""
    others: tuple[Advice, ...]
    """Of the same situation with other checkpoints or parts."""

    @property
    def agreeing(self) -> int:
        """How many of the others name the same loader as the cell of their cache state."""
        takes = {advice.cell.cache_state: advice.take.loader for advice in self.advices}
        return sum(
            takes.get(advice.cell.cache_state) == advice.take.loader for advice in self.others
        )


def situations(cells: Iterable[MeasuredCell]) -> list[Situation]:
    """Return what to use in each situation that was measured, what most people ask first.

    The largest checkpoint stands for a situation. Scenarios that compare no loaders a person
    chooses among, such as conversion and scans, have none.
    """
    groups: dict[tuple[str, str, str], list[Advice]] = {}
    for cell in cells:
        if _asks_which(cell.scenario) and (advice := _advice(cell)):
            key = (cell.scenario, cell.device, cell.key.storage)
            groups.setdefault(key, []).append(advice)
    ordered = sorted(groups.items(), key=lambda group: (_place(group[0][0]), *group[0][1:]))
    return [_situation(advices) for _, advices in ordered]


def _asks_which(scenario: str) -> bool:
    known = SCENARIOS.get(scenario)
    return scenario in _ORDER or (known is not None and known.situation is not None)


def _place(scenario: str) -> int:
    return _ORDER.index(scenario) if scenario in _ORDER else len(_ORDER)


def _advice(cell: MeasuredCell) -> Advice | None:
    """Return what to use in a cell, None where nothing was measured."""
    take = to_take(cell)
    if take is None:
        return None
    other = _compared_with(cell, take)
    ratio = pair_ratio(cell, take.loader, other.loader, attrgetter("ready_s")) if other else None
    return Advice(cell, take, other, ratio)


def _compared_with(cell: MeasuredCell, take: ArmSummary) -> ArmSummary | None:
    for name in (cell.pair.compared, cell.pair.reference):
        if name != take.loader and (arm := cell.arm(name)):
            return arm
    rest = [arm for arm in cell.measured() if arm.loader != take.loader]
    return rest[-1] if rest else None


def _situation(advices: Sequence[Advice]) -> Situation:
    """Return a situation by the setting whose cells say most: most cache states, not swept by
    readahead, the largest, the first taken.
    """
    settings: dict[tuple[object, ...], list[Advice]] = {}
    for advice in advices:
        key = advice.cell.key
        setting = (key.checkpoint, key.part, key.ranks, key.read_ahead_kb)
        settings.setdefault(setting, []).append(advice)
    chosen = max(
        settings.values(),
        key=lambda alike: (
            len(alike),
            alike[0].cell.key.read_ahead_kb is None,
            alike[0].cell.bytes or 0,
            alike[0].cell.key.ranks or 0,
        ),
    )
    others = tuple(advice for advice in advices if advice not in chosen)
    by_state = sorted(chosen, key=lambda advice: advice.cell.cache_state)
    return Situation(tuple(by_state), others)
