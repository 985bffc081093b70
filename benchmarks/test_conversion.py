"""Conversion: what it costs to make safetensors of a torch file, and to verify them, beside a plain
copy of that file.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.loaders import CONVERTER, all_loaders
from harness.records.cell import Cell
from harness.run.options import Options, flat

SCENARIO = "conversion"
CHECKPOINTS = {
    "smoke": (),
    "default": ("all-minilm-l6-v2",),
    "full": ("all-minilm-l6-v2", "gpt2", "llama-3.2-1b"),
    "gpu-short": (),
}
_FEWER = ("file-copy", "convert", "convert-and-verify")
"""Where a profile's time would not reach for older formats."""


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms, smallest checkpoint first."""
    named = flat(
        options.checkpoints
        if options.checkpoints is not None
        else CHECKPOINTS.get(options.profile, ())
    )
    usual = None if options.profile == "full" else _FEWER
    cells = {
        Cell(SCENARIO, checkpoint, cache_state, "cpu", **conditions): options.arms(
            all_loaders(CONVERTER), "cpu", cache_state, usual
        )
        for checkpoint in named
        for cache_state, conditions in options.states()
    }
    return {cell: arms for cell, arms in cells.items() if arms}


def test_conversion(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
