"""`weighbridge report`: the page, tables and figures of runs, made from their records."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.console import say
from harness.errors import WeighbridgeError
from harness.records.run_directory import REFERENCE, RunDirectory
from harness.report.run_page import write_reports, write_run_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `report`."""
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help=f"run directories (default: every one in {REFERENCE})",
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        default=None,
        help="folder of the page (default: reports; each run's own directory for runs named)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page of each named run, or the index page of all reference runs.

    Print its path and return 0.
    """
    runs = [RunDirectory.at(path) for path in arguments.runs]
    if runs and arguments.into is None:
        for directory in runs:
            say(str(write_run_report(directory)))
        return 0
    if not runs and not REFERENCE.is_dir():
        raise WeighbridgeError(
            f"no {REFERENCE} here; name the runs to report on, or go to the project's folder"
        )
    say(
        str(
            write_reports(runs or RunDirectory.all_in(REFERENCE), arguments.into or Path("reports"))
        )
    )
    return 0
