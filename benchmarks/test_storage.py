"""Storage: cold loads of one checkpoint by the loaders that people choose between, from the disk as
it is and from shaped storage: by latency, by requests a second, by readahead, in file order and in
random order of the tensors.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.checkpoints.parts import ORDERS
from harness.loaders import PART, all_loaders
from harness.records.cell import Cell
from harness.run.options import Options, flat
from harness.scenarios import AS_IS, STORAGE

PROFILE = "storage"
CHECKPOINTS = ("all-minilm-l6-v2",)
LOADERS = (
    "torch-load",
    "torch-load-mmap",
    "safetensors-load-file",
    "safetensors-pread",
    "safetensors-load-bytes",
    "safetensors-prefetch-cache",
)
"""What people choose between: mapped and read, of both formats, everything into memory first, and
threads that read ahead of a mapping.
"""
ORDERED = ("safetensors-get-slice", "safetensors-pread")
"""Mapped and read, tensor by tensor."""

GRID: dict[str, tuple[int | None, ...]] = {
    AS_IS: (None,),
    "cloud-volume": (128, 4096),
    "network-disk": (128, 4096),
    "object-store": (4096,),
    "hard-disk": (128,),
    "latency:5ms+rate:1GBps+depth:16": (128,),
    "requests:300": (128,),
}
"""The readaheads in KiB on each storage, None for its own: what ten minutes have time for."""


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms: none but in its own profile.

    Storages, readaheads and parts that are asked for by name stand in place of the grid.
    """
    if options.profile != PROFILE:
        return {}
    swept = options.read_ahead_kb or (None,)
    grid = dict.fromkeys(options.storage, swept) if options.storage != (AS_IS,) else GRID
    orders = [name for name in options.parts or () if name in ORDERS] if options.parts else [None]
    named = options.checkpoints if options.checkpoints is not None else CHECKPOINTS
    cells = {}
    for checkpoint in (*flat(named), *options.model_names()):
        for storage, read_ahead in grid.items():
            for kb in read_ahead:
                for order in orders:
                    known, usual = (
                        (all_loaders(PART), ORDERED) if order else (all_loaders(), LOADERS)
                    )
                    cell = Cell(
                        STORAGE,
                        checkpoint,
                        "cold",
                        "cpu",
                        part=order,
                        read_ahead_kb=kb,
                        storage=storage,
                    )
                    cells[cell] = tuple(
                        name
                        for name in options.arms(known, "cpu", "cold", usual)
                        if not known[name][1].ceiling or name == "ceiling-read"
                    )
    return {cell: arms for cell, arms in cells.items() if arms}


def test_storage(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
