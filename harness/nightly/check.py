"""`weighbridge regression`: baseline and candidate in one run, its verdicts, its page, and then the exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.checkpoints.place import default_store
from harness.errors import WeighbridgeError
from harness.nightly.environments import CannotInstallError, Environments, Wanted, requirements_of
from harness.nightly.night import Night, Side, time_for_pairs
from harness.nightly.options import BLOCKS, TOTAL_S, Asked, add_shared, asked_of, history, planted
from harness.records.manifest import fingerprint
from harness.records.run_directory import RunDirectory
from harness.records.thresholds import FILE, ThresholdsFile
from harness.report.night import releases_without_a_figure, summary, write_verdicts
from harness.report.page import write_run_report
from harness.verdicts.regression import (
    CLOCKS,
    INVALID,
    NO_BASELINE,
    NOTHING,
    SLOWER,
    Judged,
    Thresholds,
    exit_code,
    judged,
    judged_run,
    safe_thresholds,
)

BASELINE, CANDIDATE = "baseline", "candidate"
SUMMARY_FILES = ("GITHUB_STEP_SUMMARY",)
"""The variables by which CI systems name the file that a job's summary in Markdown goes to."""

ThresholdsOf = Callable[[str, str], Thresholds]


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
    environments = Environments(given.environments or store / "environments", _say, peers=asked.peers)
    if given.history:
        return _history(given, asked, environments)
    slowed = planted(given.plant)
    wanted, left = _candidate(given, environments, bool(slowed))
    try:
        baseline = environments.install(Wanted(BASELINE, requirements_of(given.baseline) if given.baseline else ()))
    except CannotInstallError as error:
        return _told(error, NO_BASELINE)
    try:
        candidate = environments.install(wanted)
    except CannotInstallError as error:
        return _told(error, INVALID)
    sides = (Side(BASELINE, baseline), Side(CANDIDATE, candidate, slowed))
    about = {"kind": "regression", "baseline": BASELINE, "candidate": CANDIDATE, "left_aside": left, "planted_percent": slowed}
    profile = asked.options.profile
    with Night(asked.options, asked.plan, sides, f"regression-{profile}", about, ["weighbridge", *sys.argv[1:]], _say) as night:
        thresholds, said = thresholds_of(given.thresholds, store, night.manifest)
        night.manifest["options"]["night"]["thresholds"] = said
        night.manifest["thresholds"] = {
            cell.name: {loader: {clock: thresholds(cell.name, loader).clocks[clock] for clock in CLOCKS} for loader in loaders}
            for cell, loaders in asked.plan.items()
        }
        _say(said)
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
    _say(f"page: {page}")
    return NOTHING if given.gate_later else code


def thresholds_of(path: Path | None, store: Path, manifest: Mapping[str, Any]) -> tuple[ThresholdsOf, str]:
    """Return what changes are held to on the machine of a manifest, and in words where that comes from.

    A file that was asked for by name must be one, and be of this machine; the machine's own is left aside where it is not.
    """
    if path is None and not (store / FILE).is_file():
        return (
            safe_thresholds,
            "no calibration of this machine: safe defaults, which miss small slow-downs; `nox -s calibrate` finds its own",
        )
    file = ThresholdsFile.read(path or store / FILE)
    if dict(file.machine) == fingerprint(dict(manifest)):
        return (lambda cell, loader: safe_thresholds(cell, loader, file.cells)), f"calibrated on this machine by run {file.run}"
    if path is not None:
        raise WeighbridgeError(f"--thresholds {path}: calibrated on another machine; calibrate on this one")
    return (
        safe_thresholds,
        f"the thresholds of run {file.run} are another machine's and left aside: safe defaults; `nox -s calibrate` finds this one's",
    )


def publish(text: str) -> None:
    """Print a summary, and append it to the file that the CI system names for it, where there is one."""
    _say(text)
    for variable in SUMMARY_FILES:
        if path := os.environ.get(variable):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `compare` may be asked."""
    parser.add_argument("a", type=Path, metavar="RUN_A", help="the directory of the run that is the baseline")
    parser.add_argument(
        "b", type=Path, metavar="RUN_B", help="the directory of the run that is the candidate; of the same machine and schema"
    )
    parser.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="the thresholds of the machine (default: beside the store's checkpoints)"
    )


def compare(given: argparse.Namespace) -> int:
    """Hold two stored runs against each other, print the verdicts and return their exit code, 4 where they cannot be compared."""
    runs = [RunDirectory(path) for path in (given.a, given.b)]
    for run_directory in runs:
        if not (run_directory.path / "manifest.json").is_file():
            raise WeighbridgeError(f"{run_directory.path}: no run directory; name both runs, none is taken by default")
    try:
        a, b = (run_directory.manifest() for run_directory in runs)
    except WeighbridgeError as error:
        return _told(error, NO_BASELINE)
    if reason := not_comparable(a, b):
        return _told(WeighbridgeError(reason), NO_BASELINE)
    thresholds, said = thresholds_of(given.thresholds, default_store(), b)
    found = judge_stored(a, runs[0].samples(), b, runs[1].samples(), thresholds)
    code = exit_code(found)
    note = {"options": {"night": {"baseline": f"run {a['run']}", "candidate": f"run {b['run']}", "thresholds": said}}, "environments": {}}
    publish(summary(note, found, code))
    return code


def judge_stored(
    a: Mapping[str, Any], before: Sequence[Any], b: Mapping[str, Any], after: Sequence[Any], thresholds: ThresholdsOf
) -> list[Judged]:
    """Return the verdicts on a run held against an earlier one, block by block, for every arm that the earlier one has samples of.

    Nothing can be measured again, so what is slower stands unconfirmed only where either half of the blocks says so too.
    """
    from dataclasses import replace

    from harness.measure.cell import Cell
    from harness.verdicts.ceilings import is_ceiling

    of_a, of_b = ((m["options"].get("night") or {}).get(role) for m, role in ((a, BASELINE), (b, CANDIDATE)))
    base = [replace(one, environment=BASELINE) for one in before if of_a is None or one.environment == of_a]
    new = [replace(one, environment=CANDIDATE) for one in after if of_b is None or one.environment == of_b]
    arms: dict[str, dict[str, None]] = {}
    for one in base:
        if not is_ceiling(one.loader):
            arms.setdefault(Cell.of(one).name, {})[one.loader] = None
    reasons = {entry["name"]: entry.get("reason") for entry in b["cells"]}
    blocks = sorted({sample.block for sample in new})
    half = {loader: blocks[1::2] for named in arms.values() for loader in named} if len(blocks) >= _ENOUGH_FOR_HALVES else {}
    entries = [{"name": cell, "arms": list(named), "reason": reasons.get(cell), "fresh": half} for cell, named in arms.items()]
    return judged(entries, [*base, *new], BASELINE, CANDIDATE, thresholds)


_ENOUGH_FOR_HALVES = 16


def not_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Return why two runs cannot be compared, by name, or None."""
    mine, theirs = fingerprint(dict(a)), fingerprint(dict(b))
    for name, value in mine.items():
        if value != theirs[name]:
            return f"{b['run']} cannot be compared with {a['run']}: {name} is {theirs[name]} there and {value} here; times belong to one machine"
    for name, checkpoint in a["checkpoints"].items():
        other = b["checkpoints"].get(name)
        if other and other["digest"] != checkpoint["digest"]:
            return f"{b['run']} cannot be compared with {a['run']}: {name} has other content there (--seed)"
    return None


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
        _say(left)
    return Wanted(CANDIDATE, newest, copy=1), left


def _history(given: argparse.Namespace, asked: Asked, environments: Environments) -> int:
    """Weigh releases side by side; returns 0, or 3 where one of them could not be installed or has no figure."""
    installed, failed = [], {}
    for release in history(given.history):
        try:
            installed.append(environments.install(Wanted(release, (release,))))
        except CannotInstallError as error:
            failed[release] = str(error).splitlines()[-1]
            _told(error, INVALID)
    if not installed:
        return INVALID
    profile = asked.options.profile
    about = {"kind": "history", "releases": [one.name for one in installed], "not_installed": failed}
    sides = [Side(one.name, one) for one in installed]
    with Night(asked.options, asked.plan, sides, f"history-{profile}", about, ["weighbridge", *sys.argv[1:]], _say) as night:
        night.go_through(TOTAL_S[profile], BLOCKS[profile])
    missing = releases_without_a_figure(night.manifest, night.samples)
    page = write_run_report(night.directory)
    if missing:
        _say(f"no figure of: {', '.join(missing)}")
    _say(f"page: {page}")
    return INVALID if failed or missing else NOTHING


def _told(error: WeighbridgeError, code: int) -> int:
    sys.stderr.write(f"weighbridge: {error}\n")
    return code


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
