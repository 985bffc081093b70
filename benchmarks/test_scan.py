"""Scan: how long each scanner takes over a clean checkpoint, beside the time that loading the same
tensors takes.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.loaders import SCANNER, all_loaders
from harness.records.cell import Cell
from harness.run.options import Options, flat

SCENARIO = "scan"
SESSION = "safety"
CHECKPOINTS = {
    "smoke": ("lora-1000",),
    "default": ("lora-1000", "all-minilm-l6-v2", "gpt2"),
    "full": ("lora-1000", "all-minilm-l6-v2", "gpt2", "llama-3.2-1b"),
    "gpu-short": (),
}
_BESIDE = ("torch-load", "safetensors-load-file")
"""The loads that the scans stand beside."""


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms: warm ones alone, since scans are to be
    told apart and not disks.
    """
    named = flat(
        options.checkpoints
        if options.checkpoints is not None
        else CHECKPOINTS.get(options.profile, ())
    )
    known = all_loaders(SCANNER) | {
        name: loader for name, loader in all_loaders().items() if name in _BESIDE
    }
    cells = {
        Cell(SCENARIO, checkpoint, "warm", "cpu"): options.arms(known, "cpu", "warm")
        for checkpoint in named
        if "warm" in options.cache_states
    }
    return {
        cell: arms
        for cell, arms in cells.items()
        if any(name in all_loaders(SCANNER) for name in arms)
    }


def test_scan(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
