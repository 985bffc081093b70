"""`weighbridge ceilings`: the cold ceilings beside fio, which reads the same file cold in the same
rounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.analysis.statistics import Estimate, estimate
from harness.checkpoints.store import Store
from harness.checkpoints.store_location import default_store
from harness.console import say
from harness.errors import WeighbridgeError
from harness.loaders import all_formats, all_loaders
from harness.machine import page_cache, proof
from harness.machine.lock import only_run
from harness.measure.blocks import order_of_block
from harness.measure.take_sample import Place, take_sample
from harness.records.cell import Cell
from harness.records.limits import COLD_AT_MOST
from harness.run.options import parse
from harness.run.resources import Resources

REACHES = 0.95
"""The share of fio's best that a read of ours has to reach."""
JOBS = {
    "fio psync, 1 job of 1 MiB": ("--ioengine=psync", "--bs=1m"),
    "fio psync, 2 jobs of 1 MiB": (
        "--ioengine=psync",
        "--bs=1m",
        "--numjobs=2",
        "--size=50%",
        "--offset_increment=50%",
    ),
    "fio psync, 2 jobs of 4 MiB": (
        "--ioengine=psync",
        "--bs=4m",
        "--numjobs=2",
        "--size=50%",
        "--offset_increment=50%",
    ),
    "fio libaio, direct, 8 of 1 MiB": ("--ioengine=libaio", "--direct=1", "--bs=1m", "--iodepth=8"),
    "fio libaio, direct, 4 of 4 MiB": ("--ioengine=libaio", "--direct=1", "--bs=4m", "--iodepth=4"),
}
"""Sequential reads of one file, each as fio's arguments."""

_COMMON = (
    "--name=read",
    "--rw=read",
    "--readonly",
    "--group_reporting",
    "--output-format=json",
    "--thread",
)
_BUFFERED = ("ceiling-read", "ceiling-read-4m")
_Read = Callable[[int], float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ceilings`."""
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default="gpt2",
        metavar="CHECKPOINT",
        help="the checkpoint whose file is read (default: gpt2)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=11,
        metavar="N",
        help="how often each of them reads it (default: 11)",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where checkpoints are kept (default: the store of all runs)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the rates and return 0, or 1 where the ceilings fall short of fio.

    Raises `WeighbridgeError`.
    """
    return 0 if check_ceilings(arguments.checkpoint, arguments.rounds, arguments.store, say) else 1


def check_ceilings(
    checkpoint: str, rounds: int, store: Path | None, say: Callable[[str], None]
) -> bool:
    """Say at what rates the cold ceilings and fio read one checkpoint's safetensors file, in turns
    of random order; return whether ours reach.

    A read's share is the median, over the rounds, of its rate over that of fio's best job. Raises
    `WeighbridgeError` without fio, where the file cannot be made cold, or where a ceiling has no
    valid sample.
    """
    if shutil.which("fio") is None:
        raise WeighbridgeError(
            "fio is not installed here; install the package fio of your Linux distribution"
        )
    options = parse({"checkpoints": checkpoint, "cache_states": "cold", "rounds": str(rounds)})
    cell = Cell("full-load", checkpoint, "cold", "cpu")
    ceilings = tuple(
        name
        for name in options.arms(all_loaders(), "cpu", "cold")
        if all_loaders()[name][1].ceiling
    )
    folder = Store(store or default_store(), say, all_formats())
    able = proof.capability(folder.folder)
    if not able.cold:
        raise WeighbridgeError(f"cold refused: {able.reason}")
    resources = Resources(folder, options, {cell: ceilings}, say)
    with only_run(Path("fio")):
        try:
            made_checkpoint = resources.checkpoint(checkpoint)
            if made_checkpoint.sharded:
                raise WeighbridgeError(
                    f"{checkpoint} is in shards, and fio reads one file; name another checkpoint"
                )
            (file,) = made_checkpoint.artifacts["safetensors"].files
            reads: dict[str, _Read] = {name: _ceiling(resources, cell, name) for name in ceilings}
            reads |= {job: _fio(arguments, file) for job, arguments in JOBS.items()}
            rates = _in_turns(reads, rounds)
        finally:
            resources.close()
    return _judged(rates, say)


def _ceiling(resources: Resources, cell: Cell, name: str) -> _Read:
    def read(block: int) -> float:
        sample = take_sample(
            cell,
            resources.checkpoint(cell.checkpoint),
            resources.arm(cell, name),
            Place("fio", block, 0),
        )
        if not sample.valid or not sample.returned_s:
            raise WeighbridgeError(f"{name} gave no valid sample: {sample.reason}: {sample.detail}")
        return sample.bytes / sample.returned_s

    return read


def _fio(arguments: Sequence[str], file: Path) -> _Read:
    def read(_: int) -> float:
        left = page_cache.evict([file]).fraction
        if left > COLD_AT_MOST:
            raise WeighbridgeError(
                f"{file.name} could not be made cold for fio: {left:.4f} of it stayed in the page"
                " cache"
            )
        ended = subprocess.run(
            ["fio", *_COMMON, *arguments, f"--filename={file}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise WeighbridgeError(
                f"fio {' '.join(arguments)} failed: {ended.stderr.strip() or ended.stdout.strip()}"
            )
        (job,) = json.loads(ended.stdout[ended.stdout.index("{") :])["jobs"]
        return float(job["read"]["bw_bytes"])

    return read


def _in_turns(reads: dict[str, _Read], rounds: int) -> dict[str, list[float]]:
    """Return each one's rates in bytes/s, a round after the other."""
    rates: dict[str, list[float]] = {name: [] for name in reads}
    for number in range(rounds):
        for name in order_of_block(0, "fio", number, list(reads)):
            rates[name].append(reads[name](number))
    return rates


def _judged(rates: dict[str, list[float]], say: Callable[[str], None]) -> bool:
    estimates = {name: _of(values) for name, values in rates.items()}
    best = max(JOBS, key=lambda job: estimates[job].median)
    for name in sorted(estimates, key=lambda name: -estimates[name].median):
        share = _of([rate / other for rate, other in zip(rates[name], rates[best], strict=True)])
        say(
            f"{name:<32}{estimates[name].median / 1e9:6.2f} GB/s   {100 * share.median:5.1f} % of"
            f" {best}{_between(share)}"
        )
    ours = max(_BUFFERED, key=lambda name: estimates[name].median)
    reached = (
        _of([rate / other for rate, other in zip(rates[ours], rates[best], strict=True)]).median
        >= REACHES
    )
    say(
        f"{ours} {'reaches' if reached else 'does not reach'} {100 * REACHES:.0f} % of fio's best"
        f" sequential read ({best})"
    )
    return reached


def _of(values: Sequence[float]) -> Estimate:
    interval = estimate(values)
    assert interval
    return interval


def _between(estimate: Estimate) -> str:
    return (
        ""
        if estimate.low is None or estimate.high is None
        else f" [{100 * estimate.low:.1f}-{100 * estimate.high:.1f}]"
    )
