"""What may be asked of a regression run, checked before anything is installed or measured."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import WeighbridgeError, unknown_name
from harness.loaders import all_loaders
from harness.machine import shape_mount
from harness.machine.description import gpus
from harness.machine.shapes import shape_named
from harness.measure.slowed_loaders import PERCENTS
from harness.records.cell import Cell
from harness.regression.environments import requirements_of
from harness.run.options import FLAGS, Options, flat, parse
from harness.run.plan import size_of
from harness.scenarios import AS_IS

TAKEN = (
    "--profile",
    "--model",
    "--checkpoints",
    "--loaders",
    "--cache-states",
    "--storage",
    "--rounds",
    "--budget",
    "--store",
    "--results",
    "--seed",
)
"""The options that a regression run shares with every run."""
TOTAL_S = {"smoke": 120.0, "default": 600.0, "full": 3600.0}
CALIBRATION_S = {"smoke": 240.0, "default": 1200.0, "full": 7200.0}
BLOCKS = {"smoke": 24, "default": 60, "full": 120}
CHECKPOINTS = {
    "smoke": ("lora-1000", "all-minilm-l6-v2"),
    "default": ("lora-1000", "all-minilm-l6-v2", "gpt2"),
    "full": ("lora-1000", "all-minilm-l6-v2", "gpt2", "llama-3.2-1b"),
}
SHAPE = "latency:1ms+rate:100MBps"
"""The storage of cold cells: so steady that a load 8 % slower is found, where a disk hides 25 %."""
SHAPED_AT_MOST = 200_000_000
"""Largest built-in checkpoint, in bytes, that is loaded from it where none is named: a load takes
its time, and a larger one tells no more.
"""
LOADERS = ("torch-load", "torch-load-mmap", "safetensors-load-file", "safetensors-safe-open")
"""The ways of the two libraries under test that people use most; `--loaders` takes any other."""
_ALWAYS_THERE = {"torch", "safetensors", "numpy", "picklescan"}


@dataclass(frozen=True)
class PairedRequest:
    """What a regression run is to measure."""

    options: Options
    plan: dict[Cell, tuple[str, ...]]
    peers: bool
    """Whether its loaders need more than torch, safetensors and NumPy."""
    note: str
    """On which storage its cold cells are, and why, in a sentence."""


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that a regression run shares with every run, and where environments are
    kept.
    """
    for flag in TAKEN:
        parser.add_argument(flag, **FLAGS[flag])
    parser.add_argument(
        "--environments",
        type=Path,
        metavar="DIR",
        help="where environments under test are installed (default: a folder of the store)",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="the thresholds of this machine (default: beside the store's checkpoints)",
    )


def paired_request(given: argparse.Namespace) -> PairedRequest:
    """Return what is asked for; raises `WeighbridgeError` in one line for what does not exist."""
    raw: dict[str, Any] = {
        flag.strip("-").replace("-", "_"): getattr(given, flag.strip("-").replace("-", "_"))
        for flag in TAKEN
    }
    options = parse(raw | {"resume": getattr(given, "resume", None)})
    known = {name: loader for name, loader in all_loaders().items() if not loader[1].ceiling}
    for name in options.loaders or ():
        if name not in known:
            raise unknown_name("loader of everything", name, known)
    checkpoints = flat(
        options.checkpoints if options.checkpoints is not None else CHECKPOINTS[options.profile]
    )
    storage, note = _cold_storage(options.storage if raw["storage"] is not None else None)
    largest = None if options.checkpoints is not None or storage == (AS_IS,) else SHAPED_AT_MOST
    plan = _plan(options, checkpoints, options.loaders or LOADERS, known, storage, largest)
    names = {name for loaders in plan.values() for name in loaders}
    peers = any(set(known[name][1].requires) - _ALWAYS_THERE for name in names)
    return PairedRequest(options, plan, peers, note)


def _cold_storage(named: tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
    """Return the storages of cold cells and a sentence on them: those that are named, else shaped
    storage where it can be had.
    """
    if named is not None:
        return named, f"cold cells lie on {', '.join(named)}, as requested"
    if reason := shape_mount.refused():
        return (AS_IS,), (
            "cold cells are on the disk as it is, which only shows large slow-downs; there is no"
            f" shaped storage here: {reason}"
        )
    return (SHAPE,), f"cold cells are on shaped storage: {shape_named(SHAPE).words}"


def injected(texts: Sequence[str]) -> dict[str, int]:
    """Return by how many per cent which loader of the candidate is to be slowed, of texts such as
    `torch-load=15`.
    """
    slowed = {}
    for text in texts:
        name, _, percent = text.partition("=")
        if name not in all_loaders():
            raise unknown_name("loader", name, all_loaders())
        if percent not in map(str, PERCENTS):
            raise WeighbridgeError(
                f"--inject {text}: slow-downs are of {', '.join(map(str, PERCENTS))} per cent;"
                f" write {name}=15"
            )
        slowed[name] = int(percent)
    return slowed


def history(text: str) -> tuple[str, ...]:
    """Return a requirement for each release of a text such as `safetensors==0.7.0,0.8.0`.

    At least two, each once.
    """
    first, _, rest = text.partition("==")
    releases = [release.strip() for release in rest.split(",") if release.strip()]
    if len(set(releases)) < 2:
        raise WeighbridgeError(
            f"--history {text}: names fewer than two releases; write safetensors==0.7.0,0.8.0"
        )
    return tuple(
        requirements_of(f"{first.strip()}=={release}")[0] for release in dict.fromkeys(releases)
    )


def _plan(
    options: Options,
    checkpoints: Sequence[str],
    loaders: Sequence[str],
    known: Mapping[str, tuple[str, Any]],
    storages: Sequence[str],
    largest: int | None,
) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of a regression run with their loaders: full loads of each checkpoint, on
    the CPU and on the GPU where there is one, cold ones from each storage, of built-in checkpoints
    up to `largest` bytes.
    """
    cells: dict[Cell, tuple[str, ...]] = {}
    for device in ("cpu", *(("cuda",) if gpus() else ())):
        for checkpoint in (*checkpoints, *options.model_names()):
            for state in options.cache_states:
                fit = tuple(
                    name
                    for name in loaders
                    if device in known[name][1].devices and state in known[name][1].cache_states
                )
                if not fit:
                    continue
                if state == "warm":
                    cells[Cell("full-load", checkpoint, state, device)] = fit
                elif largest is None or size_of(checkpoint, options) <= largest:
                    for storage in storages:
                        cells[Cell("full-load", checkpoint, state, device, storage=storage)] = fit
    if not cells:
        raise WeighbridgeError(
            "none of the requested loaders takes part in any requested cell; see `weighbridge"
            " doctor`"
        )
    return cells
