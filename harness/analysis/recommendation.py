"""Which loader to take, by situation, from what runs measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.analysis.arms import ArmSummary
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, indistinguishable, to_take
from harness.scenarios import SCENARIOS

_SITUATIONS = {
    name: scenario.situation for name, scenario in SCENARIOS.items() if scenario.situation
}
_PARTS = ("one-tensor", "eighth-rows")


@dataclass(frozen=True)
class Choice:
    """One situation: its cell, the loader to take, and those as fast as can be told, the fastest
    first.
    """

    cell: MeasuredCell
    run: str
    take: ArmSummary
    alike: tuple[ArmSummary, ...]


def choices(evidence: Iterable[RecordedRun]) -> list[Choice]:
    """Return a choice for each situation that was measured with intervals.

    Of several runs, from the one with most loaders, then most blocks.
    """
    best: dict[str, tuple[int, int, str, MeasuredCell]] = {}
    for recorded in evidence:
        for cell in recorded.cells:
            if not recorded.paired and _asked(cell):
                blocks = len({sample.block for sample in cell.samples if sample.valid})
                found_here = (len(cell.measured()), blocks, recorded.name, cell)
                best[cell.name] = max(
                    best.get(cell.name, found_here), found_here, key=lambda candidate: candidate[:3]
                )
    choice = [_choice(cell, run) for _, _, run, cell in best.values()]
    order = list(_SITUATIONS)
    return sorted(
        filter(None, choice),
        key=lambda recommended: (
            order.index(recommended.cell.scenario),
            recommended.cell.device,
            recommended.cell.bytes or 0,
            recommended.cell.name,
        ),
    )


def _asked(cell: MeasuredCell) -> bool:
    """Return whether a cell stands for a situation: no readahead set for the purpose, and of many
    parts two.
    """
    return (
        cell.scenario in _SITUATIONS
        and cell.key.read_ahead_kb is None
        and (cell.key.part is None or cell.key.part in _PARTS)
    )


def _choice(cell: MeasuredCell, run: str) -> Choice | None:
    alike, take = indistinguishable(cell), to_take(cell)
    return (
        Choice(cell, run, take, tuple(alike))
        if take and len(cell.measured()) > 1 and alike[0].status == "measured"
        else None
    )
