"""Partial load: some of a checkpoint's tensors, or some of each, as private memory.

What storage gives for the bytes named_parts for.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.parts import PARTS, part
from harness.loaders import PART, all_loaders
from harness.records.cell import Cell
from harness.run.options import Options, flat

SCENARIO = "partial-load"
CHECKPOINTS = {
    "smoke": ("all-minilm-l6-v2",),
    "default": ("all-minilm-l6-v2",),
    "full": ("gpt2", "llama-3.2-1b", "mistral-7b-v0.1"),
    "gpu-short": ("all-minilm-l6-v2",),
}
PARTS_OF = {"smoke": ("one-layer", "eighth-rows"), "gpu-short": ("one-layer",)}


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms.

    Raises `WeighbridgeError` for a part that a named layout does not have.
    """
    named = (
        options.checkpoints
        if options.checkpoints is not None
        else CHECKPOINTS.get(options.profile, ())
    )
    named_parts = tuple(name for name in options.parts or () if name in PARTS)
    parts = named_parts or PARTS_OF.get(options.profile) or tuple(PARTS)
    for checkpoint in flat(named):
        for name in named_parts:
            part(name, checkpoint, LAYOUTS[checkpoint]().tensors)
    cells = {
        Cell(SCENARIO, checkpoint, cache_state, device, part=name, **conditions): options.arms(
            all_loaders(PART), device, cache_state
        )
        for device in options.devices()
        for checkpoint in (*flat(named), *options.model_names())
        for name in parts
        for cache_state, conditions in options.states()
    }
    return {cell: arms for cell, arms in cells.items() if arms}


def test_partial_load(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
