"""The plan of a run: its cells, the loaders that are their arms, and which cells come first."""

from __future__ import annotations

from collections.abc import Mapping

from harness.checkpoints.folders import weights_at
from harness.checkpoints.layouts import LAYOUTS
from harness.errors import WeighbridgeError
from harness.loaders import (
    CONVERTER,
    EVERYTHING,
    MODEL,
    OF_FILES,
    PART,
    SCANNER,
    SHARE,
    Contract,
    all_loaders,
)
from harness.machine.shapes import shape_named
from harness.records.cell import Cell
from harness.run.options import Options, model_name
from harness.scenarios import AS_IS, MEMORY_LIMIT, STORAGE, WHOLE_PROCESS
from harness.scenarios import PROCESS_START as PROCESS_START

Plan = Mapping[Cell, tuple[str, ...]]
"""The cells of a run, in the order they are to be taken, each with the loaders that are its
arms.
"""


_SCENARIOS_BY_VALUE = (
    "full-load",
    "pipeline-load",
    "partial-load",
    PROCESS_START,
    "conversion",
    "scan",
    STORAGE,
    MEMORY_LIMIT,
    "sharded-load",
)
_ON_GPU_BY_VALUE = ("full-load", "partial-load", PROCESS_START, "pipeline-load")
_LARGE_BYTES = 750_000_000
"""Full loads of built-in checkpoints beyond the size of the page's claim tell least for their
time.
"""


_VALUED = ("gpt2", "llama-3.2-1b")
"""The checkpoints that the claim about GPUs is judged by: the size that the page names, and one
five times as large.
"""

_START_S, _MODEL_S = 2.5, 0.7
"""What an interpreter takes that imports torch, and what a model takes beside its bytes,
roughly.
"""


_CONVERSION = 3
"""How many loads a conversion takes as long as, roughly: it writes what it reads."""


def kind_of(cell: Cell, name: str) -> str:
    """Return which kind of loader an arm of a cell is."""
    if cell.scenario == MEMORY_LIMIT or (cell.part is None and cell.ranks is None):
        return next(
            (kind for kind in (MODEL, CONVERTER, SCANNER) if name in all_loaders(kind)), EVERYTHING
        )
    return PART if name in all_loaders(PART) else SHARE


def loader_of(cell: Cell, name: str) -> tuple[str, Contract]:
    """Return (module, loader) of an arm of a cell."""
    return all_loaders(kind_of(cell, name))[name]


def in_order(plan: Plan, options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the plan with its cells in the order of what they answer, both cache states of one
    together: a run cut off keeps the first.

    Full loads come first, and of what answers as much the cheapest, so that the first tables come
    soon. Large built-in checkpoints come last but for sharded loads. On a GPU alone it is
    `most_valuable_first`.
    """
    if plan and all(cell.device != "cpu" for cell in plan):
        return most_valuable_first(plan)
    sizes = {cell: size_of(cell.checkpoint, options) for cell in plan}
    together: dict[tuple[object, ...], float] = {}
    for cell, arms in plan.items():
        together[_group(cell)] = max(
            block_cost(cell, arms, sizes[cell]), together.get(_group(cell), 0.0)
        )
    return {
        cell: plan[cell]
        for cell in sorted(
            plan, key=lambda cell: (_rank(cell, sizes[cell]), together[_group(cell)])
        )
    }


def _rank(cell: Cell, size: int) -> float:
    """Return where a cell's scenario stands by what it answers.

    A large full load of a built-in checkpoint stands behind all but one.
    """
    if (
        cell.scenario == _SCENARIOS_BY_VALUE[0]
        and cell.checkpoint in LAYOUTS
        and size > _LARGE_BYTES
    ):
        return len(_SCENARIOS_BY_VALUE) - 1.5
    return (
        _SCENARIOS_BY_VALUE.index(cell.scenario)
        if cell.scenario in _SCENARIOS_BY_VALUE
        else len(_SCENARIOS_BY_VALUE)
    )


def most_valuable_first(plan: Plan) -> dict[Cell, tuple[str, ...]]:
    """Return the plan of a GPU with its cells in the order of what they answer: it may be lent for
    minutes.

    Full loads come first, of the checkpoints in `_VALUED` and then of the others, warm before cold;
    then parts, process start, pipelines.
    """
    place = {cell: number for number, cell in enumerate(plan)}
    return {
        cell: plan[cell] for cell in sorted(plan, key=lambda cell: (*_value(cell), place[cell]))
    }


def _value(cell: Cell) -> tuple[int, int, bool]:
    scenario = (
        _ON_GPU_BY_VALUE.index(cell.scenario)
        if cell.scenario in _ON_GPU_BY_VALUE
        else len(_ON_GPU_BY_VALUE)
    )
    checkpoint = _VALUED.index(cell.checkpoint) if cell.checkpoint in _VALUED else len(_VALUED)
    return scenario, checkpoint, cell.cache_state == "cold"


def block_cost(cell: Cell, arms: tuple[str, ...], size: int) -> float:
    """Return roughly what a block of a cell costs in s, from bytes and arms alone.

    Only the cells' proportions matter.
    """
    per_gb, ranks = (1.2 if cell.cache_state == "cold" else 1.0), cell.ranks or 1
    size *= _CONVERSION if any(kind_of(cell, name) == CONVERTER for name in arms) else 1
    loads = [
        ranks if kind_of(cell, name) in OF_FILES or loader_of(cell, name)[1].whole else 0.5
        for name in arms
    ]
    around = 0.05 if ranks == 1 else 0.3
    if cell.part == WHOLE_PROCESS or cell.scenario == PROCESS_START:
        around = _START_S
    elif any(kind_of(cell, name) == MODEL for name in arms):
        around = _MODEL_S
    slower = 0.0
    if cell.storage != AS_IS:
        slower = shape_named(cell.storage).likely_s(size, cell.read_ahead_kb)
    return sum(around + load * (size / 1e9 * per_gb + slower) for load in loads)


def size_of(checkpoint: str, options: Options) -> int:
    """Return a checkpoint's size in bytes, of the person's own that of its files."""
    if checkpoint in LAYOUTS:
        return LAYOUTS[checkpoint]().bytes
    path = next(path for path in options.models if model_name(path, LAYOUTS) == checkpoint)
    try:
        return sum(file.stat().st_size for file in weights_at(path).files)
    except WeighbridgeError as error:
        raise WeighbridgeError(f"--model {error}") from None


def _group(cell: Cell) -> tuple[object, ...]:
    return cell.scenario, cell.checkpoint, cell.device, cell.part, cell.ranks
