"""Sharded load: every rank of a tensor-parallel job brings up its own share, all together.

The slowest rank is the sample.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.tensor_parallel import shares
from harness.loaders import DEVICES, PART, SHARE, all_loaders
from harness.records.cell import Cell
from harness.run.options import Options

SCENARIO = "sharded-load"
CHECKPOINTS = {
    "smoke": ("bloom-slim",),
    "default": ("bloom-560m",),
    "full": ("bloom-560m",),
    "gpu-short": (),
}
RANKS = {"smoke": (2,), "default": (4,), "full": (1, 2, 4, 8), "gpu-short": ()}
ARMS = ("safetensors-get-slice", "torch-load", "torch-load-mmap", "safetensors-scatter")
"""Each rank slices; each unpickles everything and keeps its share; each maps the pickle and copies
its share; one reads and scatters.
"""


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms.

    Raises `WeighbridgeError` for a number of ranks that a layout cannot be split into.

    A layout that nobody splits is left aside, unless ranks are asked for.
    """
    named = (
        options.checkpoints
        if options.checkpoints is not None
        else CHECKPOINTS.get(options.profile, ())
    )
    known = {
        name: loader
        for name, loader in (all_loaders(PART) | all_loaders(SHARE)).items()
        if not loader[1].ceiling
    }
    ranks = options.ranks or RANKS.get(options.profile, ())
    split = [checkpoint for checkpoint in named if options.ranks or LAYOUTS[checkpoint]().heads]
    for checkpoint in split:
        for count in ranks:
            shares(LAYOUTS[checkpoint](), count)
    cells = {
        Cell(SCENARIO, checkpoint, cache_state, device, ranks=count, **conditions): options.arms(
            known, device, cache_state, ARMS
        )
        for device in DEVICES
        for checkpoint in split
        for count in ranks
        for cache_state, conditions in options.states()
    }
    return {cell: arms for cell, arms in cells.items() if arms}


def test_sharded_load(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
