"""`weighbridge compare`: the gate's verdicts for two stored runs of one machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.analysis.regression_verdicts import exit_code
from harness.analysis.stored_runs import judge_stored, not_comparable
from harness.checkpoints.store_location import default_store
from harness.console import complain, publish
from harness.errors import WeighbridgeError
from harness.records.manifest import fingerprint
from harness.records.run_directory import MANIFEST, RunDirectory
from harness.records.verdicts import NO_BASELINE
from harness.regression.thresholds import thresholds_of
from harness.report.sections.regression import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` may be asked."""
    parser.add_argument(
        "a", type=Path, metavar="RUN_A", help="the directory of the run that is the baseline"
    )
    parser.add_argument(
        "b",
        type=Path,
        metavar="RUN_B",
        help="the directory of the run that is the candidate, of the same machine",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="the thresholds of the machine (default: those in the store)",
    )


def run(given: argparse.Namespace) -> int:
    """Print the verdicts on two stored runs and return their exit code, 4 where the two cannot be
    compared; raises `WeighbridgeError`.
    """
    runs = [RunDirectory(path) for path in (given.a, given.b)]
    for run in runs:
        if not (run.path / MANIFEST).is_file():
            raise WeighbridgeError(
                f"{run.path}: not a run directory; name both runs, because there is no default"
            )
    try:
        a, b = (recorded.manifest() for recorded in runs)
    except WeighbridgeError as error:
        return complain(error, NO_BASELINE)
    if reason := not_comparable(a, b):
        return complain(WeighbridgeError(reason), NO_BASELINE)
    thresholds, text = thresholds_of(given.thresholds, default_store(), fingerprint(b))
    verdicts = judge_stored(a, runs[0].samples(), b, runs[1].samples(), thresholds)
    code = exit_code(verdicts)
    sides = {"baseline": f"run {a['run']}", "candidate": f"run {b['run']}", "thresholds": text}
    publish(summary({"options": {"paired_run": sides}, "environments": {}}, verdicts, code))
    return code
