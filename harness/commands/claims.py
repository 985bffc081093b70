"""`weighbridge claims`: the ledger judged from stored runs, what is missing measured first where
that is asked for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.analysis.claims import (
    Claim,
    JudgedClaim,
    Measure,
    changed,
    claims,
    judge_claims,
    judged_here,
    missing,
    recorded,
)
from harness.analysis.recorded_run import RecordedRun, gather
from harness.checkpoints.store_location import default_store
from harness.console import say
from harness.errors import WeighbridgeError, unknown_name
from harness.machine.description import gpus
from harness.records.manifest import same_machine
from harness.records.run_directory import REFERENCE, RunDirectory
from harness.report.sections.claims import ledger_lines
from harness.run.new_manifest import conditions_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `claims` may be asked."""
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="run directories (default: every one in results/reference)",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="first measure everything that no run of this machine has measured yet",
    )
    parser.add_argument(
        "--only", metavar="A,B", help=f"only these of {', '.join(claim.id for claim in claims())}"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where runs lie and are written (default: results)",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where checkpoints are kept (default: the store of all runs)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a verdict on every claim, and which are others than the committed runs give.

    Return 0. Raises `WeighbridgeError`.
    """
    claims = _wanted(arguments.only)
    if arguments.measure and arguments.runs:
        raise WeighbridgeError(
            "--measure finds the runs of this machine itself; do not name a RUN with it"
        )
    reference = RunDirectory.all_in(REFERENCE)
    if arguments.measure:
        evidence = _measured(arguments, claims)
    elif arguments.runs:
        evidence = gather([RunDirectory.at(path) for path in arguments.runs])
    else:
        if not reference:
            raise WeighbridgeError(
                f"no run in {REFERENCE} here; name the runs to judge, or go to the project's folder"
            )
        evidence = gather(reference)
    judged = _judged(evidence, claims)
    before = _judged(gather(reference), claims) if arguments.runs or arguments.measure else judged
    for line in ledger_lines(judged, changed(before, judged)):
        say(line)
    return 0


def _judged(evidence: Sequence[RecordedRun], claims: Sequence[Claim]) -> list[JudgedClaim]:
    """Return the verdicts that the index page shows: of the machine with most samples, and of
    claims it could not test another's.
    """
    ids = {claim.id for claim in claims}
    return [judged for judged in judged_here(evidence) if judged.claim.id in ids]


def _measured(arguments: argparse.Namespace, claims: Sequence[Claim]) -> list[RecordedRun]:
    """Return the evidence of this machine, once whatever is missing for these claims was
    measured.
    """
    evidence = _of_this_machine(arguments)
    for measure in missing(judge_claims(recorded(evidence), claims)):
        if measure.needs == "cuda" and not gpus():
            say(f"{measure.name}: not measured, because there is no GPU")
            continue
        say(f"{measure.name}: measuring, about {measure.minutes} minutes")
        _measure(measure, arguments)
    return _of_this_machine(arguments)


def _measure(measure: Measure, arguments: argparse.Namespace) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        *measure.arguments,
        "--results",
        str(arguments.results),
    ]
    if arguments.store:
        command += ["--store", str(arguments.store)]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):  # 1: some arm has no figure, and the run says why
        raise WeighbridgeError(
            f"{measure.name}: its measuring ended with exit code {code}; its output is above, and"
            " its samples are kept"
        )


def _of_this_machine(arguments: argparse.Namespace) -> list[RecordedRun]:
    here = conditions_here(arguments.store or default_store())
    runs = [*RunDirectory.all_in(REFERENCE), *RunDirectory.all_in(arguments.results)]
    return [run for run in gather(runs) if same_machine(run.manifest, here)]


def _wanted(only: str | None) -> list[Claim]:
    known = {claim.id: claim for claim in claims()}
    names = [name.strip() for name in only.split(",")] if only else list(known)
    for name in names:
        if name not in known:
            raise unknown_name("claim", name, tuple(known))
    return [known[name] for name in names]
