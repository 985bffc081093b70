"""`weighbridge scan`: what unpickling files would run, without running it."""

from __future__ import annotations

import argparse

from harness.checkpoints.hub import CHECKPOINT_HELP, resolve
from harness.checkpoints.scan import exit_status, scan, table
from harness.console import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `scan`."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help=f"{CHECKPOINT_HELP}; every file of a folder is scanned",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the table of findings and return 0 for clean, 1 for a finding, 2 where a file could not
    be read.
    """
    findings = scan([resolve(path) for path in arguments.paths])
    say(table(findings))
    return exit_status(findings)
