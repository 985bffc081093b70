"""Pipeline load: what a person calls and gets, a whole pipeline or a model ready to run, in both
formats, from folders and from one file.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.loaders import MODEL, all_formats, all_loaders
from harness.records.cell import Cell
from harness.run.options import Options

SCENARIO = "pipeline-load"
CHECKPOINTS = {
    "smoke": ("small-stable-diffusion",),
    "default": ("small-stable-diffusion",),
    "full": ("small-stable-diffusion", "gpt2", "stable-diffusion-2.1"),
    "gpu-short": ("small-stable-diffusion",),
}

_CLAIMED = ("diffusers-safetensors", "diffusers-bin")
FEWER_ARMS = {"smoke": _CLAIMED, "default": _CLAIMED, "gpu-short": _CLAIMED}
"""Where a profile's time would not reach for every way: the two that the document under test gives
figures of.
"""


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms: the loaders whose format holds a
    checkpoint as a model.
    """
    named = (
        options.checkpoints
        if options.checkpoints is not None
        else CHECKPOINTS.get(options.profile, ())
    )
    forms = {name: form for name, form in all_formats().items() if form.beside}
    cells = {}
    for device in options.devices():
        for checkpoint in named:
            able = {
                name
                for name, form in forms.items()
                if form.beside and form.beside(checkpoint) is not None
            }
            known = {
                name: loader
                for name, loader in all_loaders(MODEL).items()
                if loader[1].format in able
            }
            usual = (
                FEWER_ARMS.get(options.profile)
                if device == "cpu" or options.profile == "gpu-short"
                else None
            )
            for cache_state, conditions in options.states():
                cells[Cell(SCENARIO, checkpoint, cache_state, device, **conditions)] = options.arms(
                    known, device, cache_state, usual if options.checkpoints is None else None
                )
    return {cell: arms for cell, arms in cells.items() if arms}


def test_pipeline_load(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
