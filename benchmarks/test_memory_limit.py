"""Memory: the smallest limit under which each loader still loads, what a load leaves in memory, and
what several processes that each load everything share.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, record, replay
from harness.analysis.arms import wrong
from harness.analysis.memory_limits import floor_of
from harness.loaders import MODEL, all_formats, all_loaders
from harness.records.cell import Cell
from harness.run.options import Options, flat
from harness.scenarios import (
    LIMIT,
    MEMORY_LIMIT,
    MEMORY_PARTS,
    MODEL_STAYS,
    STAYS,
    WORKERS,
)

CHECKPOINTS = {
    "default": ("all-minilm-l6-v2",),
    "full": ("gpt2", "small-stable-diffusion"),
}
PARTS = {"default": (LIMIT, STAYS), "full": MEMORY_PARTS}
"""What a profile asks where the person names no part."""
LOADERS = (
    "torch-load",
    "torch-load-mmap",
    "safetensors-load-file",
    "safetensors-pread",
    "safetensors-load-bytes",
)
"""What people choose between: mapped and read, of both formats, and everything into memory
first.
"""
SHARING = ("torch-load", "torch-load-mmap", "safetensors-load-file", "safetensors-pread")
"""Mapped and read, of both formats: what a server's workers would use."""
PROCESSES = (1, 2, 4, 8)


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms, all of them cold and on the CPU: a page
    that was in the page cache before is charged to nobody here.
    """
    if "cold" not in options.cache_states:
        return {}
    named = options.checkpoints
    checkpoints = named if named is not None else CHECKPOINTS.get(options.profile, ())
    parts: tuple[str, ...] = tuple(name for name in options.parts or () if name in MEMORY_PARTS)
    if not options.parts:
        parts = PARTS.get(options.profile, ())
    usual = None if options.profile == "full" else LOADERS
    cells: dict[Cell, tuple[str, ...]] = {}
    for part in parts:
        if part == MODEL_STAYS:
            cells |= _of_models(options, checkpoints)
            continue
        for checkpoint in (*flat(checkpoints), *options.model_names()):
            arms = SHARING if part == WORKERS else LOADERS if part not in (LIMIT, STAYS) else usual
            for ranks in PROCESSES if part == WORKERS else (None,):
                cell = Cell(MEMORY_LIMIT, checkpoint, "cold", "cpu", part=part, ranks=ranks)
                cells[cell] = _loaders(options, arms)
    return {cell: arms for cell, arms in cells.items() if arms}


def _loaders(options: Options, usual: tuple[str, ...] | None) -> tuple[str, ...]:
    known = {name: loader for name, loader in all_loaders().items() if not loader[1].ceiling}
    return options.arms(known, "cpu", "cold", usual)


def _of_models(options: Options, checkpoints: tuple[str, ...]) -> dict[Cell, tuple[str, ...]]:
    """Return a cell for each checkpoint that a loader makes a model of."""
    cells = {}
    for checkpoint in checkpoints:
        able = {
            name
            for name, form in all_formats().items()
            if form.beside and form.beside(checkpoint) is not None
        }
        known = {
            name: loader for name, loader in all_loaders(MODEL).items() if loader[1].format in able
        }
        cell = Cell(MEMORY_LIMIT, checkpoint, "cold", "cpu", part=MODEL_STAYS)
        cells[cell] = options.arms(known, "cpu", "cold")
    return cells


def test_memory_limit(arm: Arm, benchmark: BenchmarkFixture) -> None:
    if not (arm.result.cell.searches_limit and arm.samples):
        replay(arm, benchmark)
        return
    if problem := wrong(arm.samples):
        pytest.fail(f"{arm.loader} returned wrong tensors: {problem}", pytrace=False)
    free = [sample for sample in arm.samples if sample.valid and sample.memory_limit_bytes is None]
    if free and benchmark is not None:
        record(arm, free, benchmark)
    if floor_of(arm.samples, arm.samples[0].bytes) is None:
        pytest.skip(f"its smallest limit is not known after {len(arm.samples)} tries")
