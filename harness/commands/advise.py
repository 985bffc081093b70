"""`weighbridge advise`: a quick probe of a person's own checkpoint on this machine, and what it
says to do.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from harness.analysis.run_cells import cells_of
from harness.checkpoints.folders import format_of, weights_at
from harness.console import say
from harness.errors import WeighbridgeError
from harness.machine.description import gpus
from harness.records.cell import MINIMUM_BLOCKS, Cell
from harness.records.run_directory import RunDirectory
from harness.report.advice_text import LOADERS, advice
from harness.report.run_page import write_run_report
from harness.report.terminal import WIDTH
from harness.run.options import Options, parse
from harness.run.plan import block_cost, size_of
from harness.run.run import Run
from harness.scenarios import CACHE_STATES, CONVERSION, FULL_LOAD

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
_MORE = " More of it: nox -s bench-cpu -- --model PATH"
"""What measures more in a checkout; an installed wheel has no benchmarks."""
TIME_S = 36.0
"""Seconds of measuring that a small checkpoint is given; a large one takes what its blocks take."""
BLOCKS = (MINIMUM_BLOCKS, 12)
"""Fewest and most blocks of a cell."""
_CEILINGS = {("cpu", "cold"): ("ceiling-read",), ("cpu", "warm"): ("ceiling-copy",)}
"""One that bounds each cell; on a GPU the copy to it does."""

_CONVERTERS = {"torch-zip": "convert", "torch-legacy": "convert-legacy"}
"""What makes safetensors of each format."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `advise` may be asked."""
    parser.add_argument(
        "path",
        metavar="PATH",
        help="a weights file, a folder, or a hub id (ORG/NAME@REVISION); it is only read",
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help="where in a training checkpoint the tensors lie, such as params_ema or model.ema",
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        help=(
            f"blocks of every cell (default: {BLOCKS[0]}, of a small checkpoint up to {BLOCKS[1]})"
        ),
    )
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="where the formats it lacks are made (default: the store of all runs)",
    )
    parser.add_argument(
        "--results", metavar="DIR", help="where the run is written (default: results)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Probe a checkpoint, print the advice and where its evidence lies, and return 0.

    Raises `WeighbridgeError`.
    """
    loaders = ",".join((*LOADERS, *_CONVERTERS.values()))
    overrides = {
        "model": [arguments.path],
        "key": arguments.key,
        "loaders": loaders,
        "profile": "smoke",
        "store": arguments.store,
        "results": arguments.results,
    }
    options = parse({**overrides, "rounds": arguments.rounds})
    given = _format_name(options.models[0])
    plan = plan_of(options, given)
    block_s = sum(
        block_cost(cell, arms, size_of(cell.checkpoint, options)) for cell, arms in plan.items()
    )
    rounds = options.rounds or blocks_for(block_s)
    options = parse({**overrides, "rounds": str(rounds)})
    say(
        f"{options.model_names()[0]}: {size_of(options.model_names()[0], options) / 1e6:,.0f} MB;"
        f" measuring takes {rounds * block_s:.0f} s or so, and making the formats it lacks some"
        " more"
    )
    with Run(
        options, plan, ["weighbridge", "advise", arguments.path], _progress, lambda _: None
    ) as measured:
        for cell in plan:
            measured.measure(cell)
    _progress("")
    if measured.measured_nothing:
        raise WeighbridgeError(
            f"{arguments.path}: nothing could be measured: {measured.measured_nothing}; name other"
            " storage for the store with --store"
        )
    tell(measured.directory, given)
    return 0


def _format_name(path: Path) -> str:
    try:
        return format_of(weights_at(path))
    except WeighbridgeError as error:
        raise WeighbridgeError(f"--model {error}") from None


def tell(run: RunDirectory, given: str) -> None:
    """Print the advice that a run gives on a file of the format `given`, and write its page."""
    manifest = run.manifest()
    for paragraph in advice(manifest, cells_of(manifest, run.samples()), given):
        say(
            "\n".join(textwrap.wrap(paragraph.replace("**", ""), WIDTH, break_on_hyphens=False))
            + "\n"
        )
    say(f"The evidence: {write_run_report(run)}.{_MORE if _BENCHMARKS.is_dir() else ''}")


def plan_of(options: Options, given: str) -> dict[Cell, tuple[str, ...]]:
    """Return what is probed: whole loads, cold and warm, on every device there is, and a conversion
    where there is something to convert.
    """
    name = options.model_names()[0]
    plan: dict[Cell, tuple[str, ...]] = {}
    for device in ("cpu", *(("cuda",) if gpus() else ())):
        for state in CACHE_STATES:
            plan[Cell(FULL_LOAD, name, state, device)] = (
                *LOADERS,
                *_CEILINGS.get((device, state), ("ceiling-to-device",)),
            )
    if convert := _CONVERTERS.get(given):
        plan[Cell(CONVERSION, name, "warm", "cpu")] = (convert,)
    return plan


def blocks_for(block_s: float) -> int:
    """Return how many blocks to take where one of every cell takes so many seconds: never fewer
    than an interval needs.
    """
    return max(BLOCKS[0], min(BLOCKS[1], int(TIME_S / block_s)))


def _progress(text: str) -> None:
    """Show what goes on, on a terminal only."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\033[K{text[:WIDTH]}")
        sys.stdout.flush()
