"""`weighbridge selftest`: the harness on trial. Nothing that is the same may be called slower, what is slower must be, and no lie may pass."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.place import default_store
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Store, known_digest
from harness.console import say
from harness.errors import WeighbridgeError
from harness.loaders import all_loaders
from harness.machine.lock import only_run
from harness.machine.page_cache import capability
from harness.measure.cell import Cell
from harness.nightly import lies_of_runs, lies_of_samples
from harness.nightly.court import court
from harness.nightly.environments import Environment
from harness.nightly.night import Night, Side
from harness.options import parse
from harness.records.manifest import new_manifest
from harness.verdicts.regression import SLOWER, Judged, judged_run

LIES = (*lies_of_samples.LIES, *lies_of_runs.LIES)
PLANTED = {"torch-load": 50}
ARMS, CHECKPOINT, BLOCKS = ("torch-load", "safetensors-load-file"), "lora-1000", "18"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `selftest` may be asked."""
    parser.add_argument("--store", type=Path, metavar="DIR", help="where checkpoints are kept (default: where runs keep theirs)")


def run(given: argparse.Namespace) -> int:
    """Tell every lie, weigh a thing against itself and against itself slowed, print how each was caught, and return 0, or 1 where one was not."""
    store = Store(given.store or default_store(), say)
    failed = _lies(store)
    for title, planted in (("a thing against itself", {}), (f"torch-load slowed by {PLANTED['torch-load']} %", PLANTED)):
        found = _night(store.folder, planted)
        slower = sorted({one.loader for one in found if one.change.verdict == SLOWER})
        right = slower == sorted(planted) and all(one.change.verdict == SLOWER for one in found if one.loader in planted)
        failed += not right
        told = "; ".join(f"{one.cell} {one.loader} {one.change.verdict}" for one in found)
        say(f"{'ok  ' if right else 'LOST'} {title}: confirmed slower: {', '.join(slower) or 'nothing'} ({told})")
    say(f"{len(LIES) + 2 - failed} of {len(LIES) + 2} trials came out as they must")
    return 1 if failed else 0


def _lies(store: Store) -> int:
    """Tell every lie and return how many were believed."""
    failed = 0
    checkpoint = store.checkpoint(layout_source(LAYOUTS[CHECKPOINT](), 0), ["safetensors"], known_digest(CHECKPOINT, 0))
    with tempfile.TemporaryDirectory(dir=store.folder, prefix=".trial-") as folder, only_run(Path(folder)):
        manifest = new_manifest("trial", {"seed": 0}, ["weighbridge", "selftest"], store.folder, capability(store.folder))
        with court(store, checkpoint, manifest, Path(folder) / "court") as held:
            for lie in LIES:
                title = (lie.__doc__ or "").splitlines()[0]
                try:
                    say(f"ok   {title} Caught: {lie(held)}")
                except WeighbridgeError as error:
                    failed += 1
                    say(f"LOST {title} {error}")
    return failed


def _night(store: Path, planted: dict[str, int]) -> list[Judged]:
    """Return the verdicts of a short night of this interpreter against itself, warm, `planted` per cent slower in the candidate."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-trial-") as results:
        options = parse({"profile": "smoke", "rounds": BLOCKS, "store": str(store), "results": results})
        cell = Cell("full-load", CHECKPOINT, "warm", "cpu")
        plan = {cell: tuple(name for name in ARMS if name in all_loaders())}
        sides = [
            Side(name, Environment(name, sys.executable), planted if name == "candidate" else {}) for name in ("baseline", "candidate")
        ]
        about = {"kind": "regression", "baseline": "baseline", "candidate": "candidate"}
        with Night(options, plan, sides, "trial", about, ["weighbridge", "selftest"], lambda _: None) as night:
            night.go_through(float("inf"), int(BLOCKS))
            night.take_fresh([(cell, one.loader) for one in judged_run(night.manifest, night.samples) if one.change.verdict == SLOWER])
        return judged_run(night.manifest, night.samples)
