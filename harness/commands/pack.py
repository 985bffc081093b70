"""`weighbridge pack`: a person's run, copied so that it can be contributed."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from harness.analysis.run_rules import CONTRIBUTED, rules_named
from harness.commands.check import evidence_of
from harness.console import say
from harness.errors import WeighbridgeError
from harness.records.packing import packed_contents
from harness.records.run_directory import REFERENCE, RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pack`."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the directory of a finished run; it is only read"
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        default=REFERENCE,
        help=f"where contributed runs lie (default: {REFERENCE})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Copy the run, print where it lies and what to do next, and return 0.

    Raises `WeighbridgeError`.
    """
    if arguments.into == REFERENCE and not REFERENCE.is_dir():
        raise WeighbridgeError(
            f"no {REFERENCE} here; go to the project's folder, or name another with --into"
        )
    packed = pack(arguments.run, arguments.into)
    say(f"{packed}\nGo on with:\n    nox -s report\n    git add {packed} reports")
    return 0


def pack(source: Path, into: Path) -> Path:
    """Copy a run into a folder of contributed ones and return where it lies.

    Raises `WeighbridgeError`, and writes nothing, where it may not: where it lies there already, or
    breaks a rule in `CONTRIBUTED`.

    Nothing but what is evidence is copied: the manifest, the samples and trials, packed where the
    run would be too large, the checks, and beside them verdicts.
    """
    RunDirectory.at(source)
    run = RunDirectory(source.resolve())
    target = into / run.name
    if target.exists():
        raise WeighbridgeError(f"{source}: {target} exists already; contribute each run only once")
    contents = packed_contents(run)
    evidence = evidence_of(run, contents)
    for rule in rules_named(CONTRIBUTED):
        for issue in rule.check(evidence):
            raise WeighbridgeError(f"{source}: {issue.message}; {issue.to_do}")
    _write(contents, target)
    return target


def _write(contents: dict[str, bytes], target: Path) -> None:
    temporary = target.with_name(f".{target.name}.part")
    try:
        temporary.mkdir(parents=True)
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
        temporary.rename(target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise WeighbridgeError(
            f"--into {target.parent}: cannot be written to ({error.strerror}); name a folder you"
            " may write to"
        ) from None
