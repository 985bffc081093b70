"""`weighbridge compare`: the gate's verdicts for two stored runs of one machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.checkpoints.place import default_store
from harness.console import publish, told
from harness.errors import WeighbridgeError
from harness.nightly.held import thresholds_of
from harness.records.manifest import fingerprint
from harness.records.run_directory import MANIFEST, RunDirectory
from harness.report.night import summary
from harness.verdicts.regression import NO_BASELINE, exit_code
from harness.verdicts.stored import judge_stored, not_comparable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` may be asked."""
    parser.add_argument("a", type=Path, metavar="RUN_A", help="the directory of the run that is the baseline")
    parser.add_argument("b", type=Path, metavar="RUN_B", help="that of the candidate, of the same machine and schema")
    parser.add_argument("--thresholds", type=Path, metavar="FILE", help="the thresholds of the machine (default: those in the store)")


def run(given: argparse.Namespace) -> int:
    """Print the verdicts on two stored runs and return their exit code, 4 where the two cannot be compared; raises `WeighbridgeError`."""
    runs = [RunDirectory(path) for path in (given.a, given.b)]
    for one in runs:
        if not (one.path / MANIFEST).is_file():
            raise WeighbridgeError(f"{one.path}: no run directory; name both runs, none is taken by default")
    try:
        a, b = (one.manifest() for one in runs)
    except WeighbridgeError as error:
        return told(error, NO_BASELINE)
    if reason := not_comparable(a, b):
        return told(WeighbridgeError(reason), NO_BASELINE)
    thresholds, said = thresholds_of(given.thresholds, default_store(), fingerprint(b))
    found = judge_stored(a, runs[0].samples(), b, runs[1].samples(), thresholds)
    code = exit_code(found)
    sides = {"baseline": f"run {a['run']}", "candidate": f"run {b['run']}", "thresholds": said}
    publish(summary({"options": {"night": sides}, "environments": {}}, found, code))
    return code
