"""`weighbridge regression`: baseline and candidate in one run, its verdicts, its page, and then the exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.checkpoints.place import default_store
from harness.console import publish, say, told
from harness.errors import WeighbridgeError
from harness.nightly.environments import CannotInstallError, Environments, Wanted, requirements_of
from harness.nightly.held import thresholds_of
from harness.nightly.night import Night, Side, time_for_pairs
from harness.nightly.options import BLOCKS, TOTAL_S, Asked, add_shared, asked_of, history, planted
from harness.records.manifest import fingerprint_here
from harness.report.history import releases_without_a_figure
from harness.report.night import summary, write_verdicts
from harness.report.page import write_run_report
from harness.verdicts.regression import CLOCKS, INVALID, NO_BASELINE, NOTHING, SLOWER, exit_code, judged_run

BASELINE, CANDIDATE = "baseline", "candidate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `regression` may be asked."""
    add_shared(parser)
    parser.add_argument("--baseline", metavar="REQUIREMENTS", help="in place of the reference's pins, such as safetensors==0.7.0")
    parser.add_argument(
        "--candidate", metavar="REQUIREMENTS", help="the same for the candidate (default: the newest releases, pre-releases too)"
    )
    parser.add_argument("--candidate-path", type=Path, metavar="DIR", help="a source tree that pip installs as the candidate")
    parser.add_argument("--history", metavar="NAME==A,B,C", help="weigh these releases side by side instead, all in the same blocks")
    parser.add_argument(
        "--plant", action="append", default=[], metavar="LOADER=PERCENT", help="slow this loader of the candidate, to see that it is found"
    )
    parser.add_argument(
        "--gate-later", action="store_true", help="return 0 whatever the verdicts; `weighbridge gate` gives their exit code afterwards"
    )


def run(given: argparse.Namespace) -> int:
    """Measure, write verdicts, tables and page, and return the exit code of `harness.verdicts.regression`; raises `WeighbridgeError`."""
    asked = asked_of(given)
    store = Path(given.store) if given.store else default_store()
    environments = Environments(given.environments or store / "environments", say, peers=asked.peers)
    if given.history:
        return _history(given, asked, environments)
    slowed = planted(given.plant)
    wanted, left = _candidate(given, environments, bool(slowed))
    try:
        baseline = environments.install(Wanted(BASELINE, requirements_of(given.baseline) if given.baseline else ()))
    except CannotInstallError as error:
        return told(error, NO_BASELINE)
    try:
        candidate = environments.install(wanted)
    except CannotInstallError as error:
        return told(error, INVALID)
    sides = (Side(BASELINE, baseline), Side(CANDIDATE, candidate, slowed))
    profile = asked.options.profile
    store.mkdir(parents=True, exist_ok=True)
    thresholds, said = thresholds_of(given.thresholds, store, fingerprint_here(store))
    about = {
        "kind": "regression",
        "baseline": BASELINE,
        "candidate": CANDIDATE,
        "left_aside": left,
        "planted_percent": slowed,
        "thresholds": said,
    }
    with Night(asked.options, asked.plan, sides, f"regression-{profile}", about, ["weighbridge", *sys.argv[1:]], say) as night:
        night.manifest["thresholds"] = {
            cell.name: {loader: {clock: thresholds(cell.name, loader).clocks[clock] for clock in CLOCKS} for loader in loaders}
            for cell, loaders in asked.plan.items()
        }
        say(said)
        night.go_through(time_for_pairs(TOTAL_S[profile]), BLOCKS[profile])
        cells = {cell.name: cell for cell in asked.plan}
        night.take_fresh(
            [(cells[one.cell], one.loader) for one in judged_run(night.manifest, night.samples) if one.change.verdict == SLOWER]
        )
        found = judged_run(night.manifest, night.samples)
    code = exit_code(found)
    write_verdicts(night.directory, found, code)
    page = write_run_report(night.directory)
    publish(summary(night.manifest, found, code))
    say(f"page: {page}")
    return NOTHING if given.gate_later else code


def _candidate(given: argparse.Namespace, environments: Environments, planted: bool) -> tuple[Wanted, str | None]:
    requirements = requirements_of(given.candidate) if given.candidate else ()
    if given.candidate_path:
        if not given.candidate_path.is_dir():
            raise WeighbridgeError(f"--candidate-path {given.candidate_path}: no folder; name a source tree that pip can install")
        return Wanted(CANDIDATE, requirements, given.candidate_path), None
    if requirements:
        return Wanted(CANDIDATE, requirements, copy=1), None
    if planted:
        return Wanted(CANDIDATE, requirements_of(given.baseline) if given.baseline else (), copy=1), None
    newest, left = environments.newest()
    if left:
        say(left)
    return Wanted(CANDIDATE, newest, copy=1), left


def _history(given: argparse.Namespace, asked: Asked, environments: Environments) -> int:
    """Weigh releases side by side; returns 0, or 3 where one of them could not be installed or has no figure."""
    installed, failed = [], {}
    for release in history(given.history):
        try:
            installed.append(environments.install(Wanted(release, (release,))))
        except CannotInstallError as error:
            failed[release] = str(error).splitlines()[-1]
            told(error, INVALID)
    if not installed:
        return INVALID
    profile = asked.options.profile
    about = {"kind": "history", "releases": [one.name for one in installed], "not_installed": failed}
    sides = [Side(one.name, one) for one in installed]
    with Night(asked.options, asked.plan, sides, f"history-{profile}", about, ["weighbridge", *sys.argv[1:]], say) as night:
        night.go_through(TOTAL_S[profile], BLOCKS[profile])
    missing = releases_without_a_figure(night.manifest, night.samples)
    page = write_run_report(night.directory)
    if missing:
        say(f"no figure of: {', '.join(missing)}")
    say(f"page: {page}")
    return INVALID if failed or missing else NOTHING
