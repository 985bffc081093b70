"""`weighbridge advise`: a quick probe of a person's own checkpoint on this machine, and what to do.

The answer comes first, in three lines: what to use cold, what warm, and the line to type. `--json`
prints one document instead: every field of `harness.analysis.advice_record.Advice`, and beside them
`first_lines` (the three lines) and `run` (the run's directory). Times are in s, sizes in bytes;
what is unknown is null. Progress goes to stderr, so that stdout holds the answer alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from harness.analysis.advice import CONVERTERS, advice, loaders_for
from harness.analysis.advice_record import Advice
from harness.analysis.run_cells import cells_of
from harness.checkpoints.folders import format_of, weights_at
from harness.console import say
from harness.errors import WeighbridgeError
from harness.machine.description import gpus
from harness.machine.shapes import EXAMPLE, SHAPES
from harness.measure.blocks import Limits
from harness.records.cell import MINIMUM_BLOCKS, Cell
from harness.report.advice_text import Paths, evidence_lines, first_lines, paragraphs
from harness.report.terminal import WIDTH
from harness.run.options import Options, parse
from harness.run.plan import Plan, block_cost, size_of
from harness.run.run import Run
from harness.scenarios import AS_IS, CONVERSION, FULL_LOAD

TIME_S = 13.0
"""Seconds of measuring that a small checkpoint is given; a large one takes what its blocks take."""
BLOCKS = (MINIMUM_BLOCKS, 2 * MINIMUM_BLOCKS)
"""Fewest and most blocks of a cell of loads."""
CONVERSIONS = 2
"""Blocks of the conversion: its cost is told to a digit or two, and each block takes long."""
_CEILINGS = {("cpu", "cold"): ("ceiling-read",), ("cpu", "warm"): ()}
"""One that bounds each cell; on a GPU the copy to it does. Warm loads on the CPU map and copy
nothing, and a ceiling would take as long as all of them."""


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
        "--storage",
        metavar="NAME",
        help=(
            f"give advice for this storage: {', '.join(SHAPES)}, or your own, {EXAMPLE} (default:"
            " the disk as it is)"
        ),
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
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
        help="where missing formats are written (default: the store of all runs)",
    )
    parser.add_argument(
        "--results", metavar="DIR", help="where the run is written (default: results)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Probe a checkpoint, print the advice and where its evidence lies, and return 0.

    Raises `WeighbridgeError`, also where the storage asked for cannot be had here.
    """
    overrides = {
        "model": [arguments.path],
        "key": arguments.key,
        "profile": "smoke",
        "storage": arguments.storage,
        "store": arguments.store,
        "results": arguments.results,
        "rounds": arguments.rounds,
    }
    options = parse(overrides)
    if len(options.storage) > 1:
        raise WeighbridgeError(
            f"--storage {arguments.storage}: names {len(options.storage)} storages; advice is for"
            " one at a time"
        )
    given = _format_name(options.models[0])
    plan = plan_of(options, given)
    limits = limits_of(plan, options)
    name = options.model_names()[0]
    _tell(
        f"{name}: {size_of(name, options) / 1e6:,.0f} MB; measuring takes about"
        f" {likely_s(plan, options, limits):.0f} s, plus the time to write missing formats"
    )
    command = ["weighbridge", "advise", arguments.path]
    with Run(options, plan, command, _progress, lambda _: None, limits_of=limits) as measured:
        for cell in plan:
            outcome = measured.measure(cell)
            if cell.storage != AS_IS and not outcome.samples:
                raise WeighbridgeError(f"--storage {arguments.storage}: {outcome.reason}")
    _progress("")
    if measured.measured_nothing:
        raise WeighbridgeError(
            f"{arguments.path}: nothing could be measured: {measured.measured_nothing}; name other"
            " storage for the store with --store"
        )
    manifest = measured.directory.manifest()
    advised = advice(manifest, cells_of(manifest, measured.directory.samples()), given)
    paths = paths_of(arguments.path, arguments.key)
    lines = first_lines(advised, paths)
    if arguments.json:
        facts = {"run": str(measured.directory.path), "first_lines": lines}
        say(json.dumps(asdict(advised) | facts, indent=1))
    else:
        _print(advised, lines)
    # the page needs pandas and matplotlib, so that the answer is printed before they are imported
    from harness.report.run_page import write_run_report

    page = write_run_report(measured.directory)
    if not arguments.json:
        say(f"The whole evidence: {page}")
    return 0


def _print(advised: Advice, lines: tuple[str, ...]) -> None:
    """Print the three lines as they are, the paragraphs and the evidence."""
    say("\n".join(lines))
    for paragraph in paragraphs(advised):
        say(f"\n{_wrapped(paragraph)}")
    say("\nEvidence:")
    for line in evidence_lines(advised):
        say(_wrapped(line) if len(line) > WIDTH else line)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH, break_on_hyphens=False))


def _format_name(path: Path) -> str:
    try:
        return format_of(weights_at(path))
    except WeighbridgeError as error:
        raise WeighbridgeError(f"--model {error}") from None


def paths_of(text: str, key: str | None = None) -> Paths:
    """Return the names that the lines to type give to what a person named by `text`.

    Where it is one file, the lines name it and what a conversion makes of it, beside it.
    """
    path = Path(text)
    chosen = f" --key {shlex.quote(key)}" if key else ""
    if not path.exists():  # a hub id; a conversion of one has to be told where to put the result
        folder = f"{text.partition('@')[0].rpartition('/')[2]}-safetensors"
        convert = f"weighbridge convert {shlex.quote(text)} {shlex.quote(folder)}{chosen}"
        return Paths("file", "file", json.dumps(text), convert)
    weights = weights_at(path)
    if len(weights.files) > 1:
        folder = json.dumps(str(weights.folder))
        convert = f"weighbridge convert {shlex.quote(str(weights.folder))}{chosen}"
        return Paths("file", "file", folder, convert)
    file = weights.files[0]
    return Paths(
        json.dumps(str(file), ensure_ascii=False),
        json.dumps(str(file.with_name(weights.name)), ensure_ascii=False),
        "folder",
        f"weighbridge convert {shlex.quote(str(file))}{chosen}",
    )


def plan_of(options: Options, given: str) -> dict[Cell, tuple[str, ...]]:
    """Return what is probed: whole loads, cold on the storage asked for and warm, to the GPU where
    there is one, and a conversion where there is something to convert.
    """
    name = options.model_names()[0]
    device = "cuda" if gpus() else "cpu"
    plan: dict[Cell, tuple[str, ...]] = {}
    for state, conditions in options.states():
        plan[Cell(FULL_LOAD, name, state, device, **conditions)] = (
            *loaders_for(given, size_of(name, options), state, device),
            *_CEILINGS.get((device, state), ("ceiling-to-device",)),
        )
    if convert := CONVERTERS.get(given):
        plan[Cell(CONVERSION, name, "warm", "cpu")] = (convert,)
    return plan


def limits_of(plan: Plan, options: Options) -> dict[Cell, Limits]:
    """Return how many blocks each cell takes, and within which time.

    A cell of loads takes its part of `TIME_S`, and in any case the blocks that an interval needs:
    those with an invalid sample are made up for.
    """
    forever = float("inf")
    costs = {cell: _block_s(plan, cell, options) for cell in plan}
    loads_s = sum(cost for cell, cost in costs.items() if cell.scenario != CONVERSION)
    limits = {}
    for cell, cost in costs.items():
        if cell.scenario == CONVERSION:
            blocks = min(options.rounds or CONVERSIONS, CONVERSIONS)
            limits[cell] = Limits(blocks, forever, forever, until_precise=False)
        elif options.rounds:
            limits[cell] = Limits(options.rounds, forever, forever, until_precise=False)
        else:
            budget = TIME_S * cost / loads_s
            # of a large one, two blocks more than an interval needs make up for a busy moment
            most = BLOCKS[1] if budget > MINIMUM_BLOCKS * cost else MINIMUM_BLOCKS + 2
            limits[cell] = Limits(most, budget, forever)
    return limits


def likely_s(plan: Plan, options: Options, limits: Mapping[Cell, Limits]) -> float:
    """Return roughly how many s the plan takes within its limits."""
    total = 0.0
    for cell, limit in limits.items():
        cost = _block_s(plan, cell, options)
        least = min(limit.blocks, MINIMUM_BLOCKS) * cost
        total += max(least, min(limit.budget_s, limit.blocks * cost))
    return total


def _block_s(plan: Plan, cell: Cell, options: Options) -> float:
    return block_cost(cell, plan[cell], size_of(cell.checkpoint, options))


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _progress(text: str) -> None:
    """Show what goes on, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text[:WIDTH]}")
        sys.stderr.flush()
