"""`weighbridge selftest`: the harness on trial.

Nothing that is the same may be called slower, what is slower must be, and no fault may pass.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harness.analysis.regression import Verdict
from harness.analysis.regression_verdicts import ArmVerdict, judged_run
from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Store, known_digest
from harness.checkpoints.store_location import default_store
from harness.console import say
from harness.errors import WeighbridgeError
from harness.loaders import all_loaders
from harness.machine.lock import only_run
from harness.machine.proof import capability
from harness.records.cell import Cell
from harness.regression.environments import Environment
from harness.regression.paired_run import PairedRun, Side
from harness.run.new_manifest import new_manifest
from harness.run.options import parse
from harness.selftest import run_faults, sample_faults, storage_faults
from harness.selftest.fixture import CannotInjectError, fixture

FAULTS = (*sample_faults.FAULTS, *storage_faults.FAULTS, *run_faults.FAULTS)
INJECTED = {"torch-load": 50}
ARMS, CHECKPOINT, BLOCKS = ("torch-load", "safetensors-load-file"), "lora-1000", "18"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `selftest` may be asked."""
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where checkpoints are kept (default: the store of all runs)",
    )


def run(given: argparse.Namespace) -> int:
    """Tell every fault, measure the same release twice and against itself slowed, print how each
    was caught, and return 0, or 1 where one was not.
    """
    store = Store(given.store or default_store(), say)
    failed = _faults_missed(store)
    for title, injected in (
        ("the same release twice", {}),
        (f"torch-load slowed by {INJECTED['torch-load']} %", INJECTED),
    ):
        verdict = _paired_run(store.folder, injected)
        slower = sorted(
            {
                arm_verdict.loader
                for arm_verdict in verdict
                if arm_verdict.change.verdict == Verdict.SLOWER
            }
        )
        right = slower == sorted(injected) and all(
            arm_verdict.change.verdict == Verdict.SLOWER
            for arm_verdict in verdict
            if arm_verdict.loader in injected
        )
        failed += not right
        message = "; ".join(
            f"{arm_verdict.cell} {arm_verdict.loader} {arm_verdict.change.verdict}"
            for arm_verdict in verdict
        )
        say(
            f"{'ok  ' if right else 'MISS'} {title}: confirmed slower:"
            f" {', '.join(slower) or 'nothing'} ({message})"
        )
    say(f"{len(FAULTS) + 2 - failed} of {len(FAULTS) + 2} faults and verdicts are right")
    return 1 if failed else 0


def _faults_missed(store: Store) -> int:
    """Inject every fault and return how many were missed."""
    failed = 0
    checkpoint = store.checkpoint(
        layout_source(LAYOUTS[CHECKPOINT](), 0), ["safetensors"], known_digest(CHECKPOINT, 0)
    )
    with (
        tempfile.TemporaryDirectory(dir=store.folder, prefix=".trial-") as folder,
        only_run(Path(folder)),
    ):
        manifest = new_manifest(
            "trial",
            {"seed": 0},
            ["weighbridge", "selftest"],
            store.folder,
            capability(store.folder),
        )
        with fixture(store, checkpoint, manifest, Path(folder) / "fixture") as stage:
            for inject in FAULTS:
                title = (inject.__doc__ or "").splitlines()[0]
                try:
                    say(f"ok   {title} Caught: {inject(stage)}")
                except CannotInjectError as error:
                    say(f"--   {title} Not injected here: {error}")
                except WeighbridgeError as error:
                    failed += 1
                    say(f"MISS {title} {error}")
    return failed


def _paired_run(store: Path, injected: dict[str, int]) -> list[ArmVerdict]:
    """Return the verdicts of a short regression run of this interpreter against itself, warm,
    `injected` per cent slower in the candidate.
    """
    with tempfile.TemporaryDirectory(prefix="weighbridge-trial-") as results:
        options = parse(
            {"profile": "smoke", "rounds": BLOCKS, "store": str(store), "results": results}
        )
        cell = Cell("full-load", CHECKPOINT, "warm", "cpu")
        plan = {cell: tuple(name for name in ARMS if name in all_loaders())}
        sides = [
            Side(name, Environment(name, sys.executable), injected if name == "candidate" else {})
            for name in ("baseline", "candidate")
        ]
        about = {"kind": "regression", "baseline": "baseline", "candidate": "candidate"}
        with PairedRun(
            options, plan, sides, "trial", about, ["weighbridge", "selftest"], lambda _: None
        ) as paired_run:
            paired_run.go_through(float("inf"), int(BLOCKS))
            paired_run.take_fresh(
                [
                    (cell, verdict.loader)
                    for verdict in judged_run(paired_run.manifest, paired_run.samples)
                    if verdict.change.verdict == Verdict.SLOWER
                ]
            )
        return judged_run(paired_run.manifest, paired_run.samples)
