"""`weighbridge regression`: baseline and candidate in one run, its verdicts, its page, and then the
exit code.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.analysis.regression import CLOCKS, Verdict
from harness.analysis.regression_verdicts import exit_code, judged_run, verdicts_row
from harness.checkpoints.store_location import default_store
from harness.console import complain, publish, say
from harness.errors import WeighbridgeError
from harness.records.run_directory import RunDirectory
from harness.records.verdicts import INVALID, NO_BASELINE, NOTHING, write_verdicts
from harness.regression.environments import (
    CannotInstallError,
    EnvironmentRequest,
    Environments,
    requirements_of,
)
from harness.regression.options import (
    BLOCKS,
    TOTAL_S,
    PairedRequest,
    add_shared,
    history,
    injected,
    paired_request,
)
from harness.regression.paired_run import PairedRun, Side, time_for_pairs
from harness.regression.thresholds import thresholds_of
from harness.report.run_page import write_run_report
from harness.report.sections.regression import summary
from harness.report.sections.release_history import releases_without_a_figure
from harness.run.new_manifest import fingerprint_here

BASELINE, CANDIDATE = "baseline", "candidate"
_OF_THIS_MACHINE = (
    "store",
    "results",
    "environments",
    "thresholds",
    "candidate_path",
    "gate_later",
    "resume",
)
"""What a run that is resumed takes from the command line and not from its manifest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `regression` may be asked."""
    add_shared(parser)
    parser.add_argument(
        "--baseline",
        metavar="REQUIREMENTS",
        help="what to install as the baseline (default: the pinned reference)",
    )
    parser.add_argument(
        "--candidate",
        metavar="REQUIREMENTS",
        help="what to install as the candidate (default: the newest releases)",
    )
    parser.add_argument(
        "--candidate-path",
        type=Path,
        metavar="DIR",
        help="a source tree to install as the candidate",
    )
    parser.add_argument(
        "--history",
        metavar="NAME==A,B,C",
        help="measure these releases of one package side by side, in the same blocks",
    )
    parser.add_argument(
        "--inject",
        "--plant",
        dest="inject",
        action="append",
        default=[],
        metavar="LOADER=PERCENT",
        help="slow down this loader of the candidate by this percentage, to test the check",
    )
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="complete this run with its own options; no sample is taken twice",
    )
    parser.add_argument(
        "--gate-later",
        action="store_true",
        help="return 0 whatever the verdicts; `weighbridge gate` returns their exit code later",
    )


def run(given: argparse.Namespace) -> int:
    """Measure, write verdicts, tables and page, and return the exit code of
    `harness.analysis.regression_verdicts`; raises `WeighbridgeError`.
    """
    recorded: Mapping[str, Any] = {}
    if given.resume:
        given, recorded = _resumed(given)
    request = paired_request(given)
    store = Path(given.store) if given.store else default_store()
    environments = Environments(
        given.environments or store / "environments", say, peers=request.peers
    )
    if given.history:
        return _history(given, request, environments)
    slowed = injected(given.inject)
    target, left = _candidate(
        given, environments, bool(slowed), (recorded.get("environments") or {}).get(CANDIDATE)
    )
    try:
        baseline = environments.install(
            EnvironmentRequest(BASELINE, requirements_of(given.baseline) if given.baseline else ())
        )
    except CannotInstallError as error:
        return complain(error, NO_BASELINE)
    try:
        candidate = environments.install(target)
    except CannotInstallError as error:
        return complain(error, INVALID)
    sides = (Side(BASELINE, baseline), Side(CANDIDATE, candidate, slowed))
    profile = request.options.profile
    store.mkdir(parents=True, exist_ok=True)
    thresholds, text = thresholds_of(given.thresholds, store, fingerprint_here(store))
    about = {
        "kind": "regression",
        "baseline": BASELINE,
        "candidate": CANDIDATE,
        "left_aside": left,
        "slowed_percent": slowed,
        "thresholds": text,
        "cold_storage": request.note,
    }
    with PairedRun(
        request.options,
        request.plan,
        sides,
        f"regression-{profile}",
        about,
        ["weighbridge", *sys.argv[1:]],
        say,
    ) as paired_run:
        paired_run.manifest["thresholds"] = recorded.get("thresholds") or {
            cell.name: {
                loader: {clock: thresholds(cell.name, loader).clocks[clock] for clock in CLOCKS}
                for loader in loaders
            }
            for cell, loaders in request.plan.items()
        }
        say(text)
        say(request.note)
        paired_run.go_through(time_for_pairs(TOTAL_S[profile]), BLOCKS[profile])
        cells = {cell.name: cell for cell in request.plan}
        paired_run.take_fresh(
            [
                (cells[verdict.cell], verdict.loader)
                for verdict in judged_run(paired_run.manifest, paired_run.samples)
                if verdict.change.verdict == Verdict.SLOWER
            ]
        )
        verdicts = judged_run(paired_run.manifest, paired_run.samples)
    code = exit_code(verdicts)
    write_verdicts(paired_run.directory.path, [verdicts_row(verdict) for verdict in verdicts], code)
    page = write_run_report(paired_run.directory)
    publish(summary(paired_run.manifest, verdicts, code))
    say(f"page: {page}")
    return NOTHING if given.gate_later else code


def _resumed(given: argparse.Namespace) -> tuple[argparse.Namespace, Mapping[str, Any]]:
    """Return the arguments that the run to be completed was started with, and its manifest.

    Where things lie on this machine is taken from `given`: a manifest holds no path.
    """
    manifest = RunDirectory.existing(Path(given.results or "results"), given.resume).manifest()
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    also = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(parser.parse_args([])).items()
        if name not in _OF_THIS_MACHINE and getattr(given, name) != value
    ]
    if also:
        raise WeighbridgeError(
            f"--resume takes its options from the run it completes; leave out {', '.join(also)}"
        )
    words = shlex.split(str(manifest["command"]))[2:]
    again = parser.parse_args(words)
    for name in _OF_THIS_MACHINE:
        setattr(again, name, getattr(given, name))
    return again, manifest


def _candidate(
    given: argparse.Namespace,
    environments: Environments,
    injected: bool,
    recorded: Mapping[str, Any] | None,
) -> tuple[EnvironmentRequest, str | None]:
    """Return the candidate that is asked for, and why the newest release is not.

    Of a resumed run the one that it began with.
    """
    requirements = requirements_of(given.candidate) if given.candidate else ()
    if recorded and not given.candidate_path:
        return EnvironmentRequest(CANDIDATE, tuple(recorded["requirements"]), copy=1), None
    if given.candidate_path:
        if not given.candidate_path.is_dir():
            raise WeighbridgeError(
                f"--candidate-path {given.candidate_path}: is not a folder; name a source tree"
                " that pip can install"
            )
        return EnvironmentRequest(CANDIDATE, requirements, given.candidate_path), None
    if requirements:
        return EnvironmentRequest(CANDIDATE, requirements, copy=1), None
    if injected:
        return (
            EnvironmentRequest(
                CANDIDATE, requirements_of(given.baseline) if given.baseline else (), copy=1
            ),
            None,
        )
    newest, left = environments.newest()
    if left:
        say(left)
    return EnvironmentRequest(CANDIDATE, newest, copy=1), left


def _history(given: argparse.Namespace, request: PairedRequest, environments: Environments) -> int:
    """Measure releases side by side.

    Returns 0, or 3 where one of them could not be installed or has no figure.
    """
    installed, failed = [], {}
    for release in history(given.history):
        try:
            installed.append(environments.install(EnvironmentRequest(release, (release,))))
        except CannotInstallError as error:
            failed[release] = str(error).splitlines()[-1]
            complain(error, INVALID)
    if not installed:
        return INVALID
    profile = request.options.profile
    about = {
        "kind": "history",
        "releases": [environment.name for environment in installed],
        "not_installed": failed,
    }
    sides = [Side(environment.name, environment) for environment in installed]
    with PairedRun(
        request.options,
        request.plan,
        sides,
        f"history-{profile}",
        about,
        ["weighbridge", *sys.argv[1:]],
        say,
    ) as paired_run:
        paired_run.go_through(TOTAL_S[profile], BLOCKS[profile])
    missing = releases_without_a_figure(paired_run.manifest, paired_run.samples)
    page = write_run_report(paired_run.directory)
    if missing:
        say(f"no figure for: {', '.join(missing)}")
    say(f"page: {page}")
    return INVALID if failed or missing else NOTHING
