"""Process start: from a fresh interpreter to weights that are ready, what a command-line user waits
for, each step to a clock of its own.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.loaders import all_loaders
from harness.records.cell import Cell
from harness.run.options import Options, flat
from harness.scenarios import CACHE_STATES, PROCESS_START

CHECKPOINTS = {"smoke": (), "default": ("gpt2",), "full": ("gpt2",), "gpu-short": ("gpt2",)}
STATES = {"default": ("warm",), "gpu-short": ("warm",)}
"""Where a profile's time would not reach for both: a process reads its libraries from memory either
way.
"""

_FEWER = ("torch-load", "safetensors-load-file")
"""Where a profile's time would not reach for every loader on the CPU: the two formats, by the call
that each is known for.
"""


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms: the loaders of the full load, but for
    ceilings, which no process starts with.
    """
    named = flat(
        options.checkpoints
        if options.checkpoints is not None
        else CHECKPOINTS.get(options.profile, ())
    )
    known = {name: loader for name, loader in all_loaders().items() if not loader[1].ceiling}
    cells = {
        Cell(PROCESS_START, checkpoint, cache_state, device, **conditions): options.arms(
            known,
            device,
            cache_state,
            (
                _FEWER
                if options.profile == "gpu-short" or (device == "cpu" and options.profile != "full")
                else None
            ),
        )
        for device in options.devices()
        for checkpoint in named
        for cache_state, conditions in options.states()
        if cache_state in STATES.get(options.profile, CACHE_STATES)
        or options.checkpoints is not None
    }
    return {cell: arms for cell, arms in cells.items() if arms}


def test_process_start(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
