"""`weighbridge gate`: the exit code of what was checked and published before.

It needs the standard library alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.console import complain, say
from harness.errors import WeighbridgeError
from harness.records.verdicts import (
    INVALID,
    MEANING,
    NO_BASELINE,
    NOTHING,
    REGRESSION,
    VERDICTS_FILE,
    read_code,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `gate` may be asked."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="the folder of the runs (default: results)",
    )


def run(given: argparse.Namespace) -> int:
    """Return the gravest exit code of every regression run directly in a folder, 4 where there is
    none: nothing is a pass by default.
    """
    codes = {
        path.parent.name: read_code(path)
        for path in sorted(given.results.glob(f"*/{VERDICTS_FILE}"))
    }
    for name, code in codes.items():
        say(f"{name}: {MEANING[code]}")
    if not codes:
        return complain(
            WeighbridgeError(
                f"there is no regression run in {given.results}, so nothing was checked"
            ),
            NO_BASELINE,
        )
    return next(
        code for code in (REGRESSION, NO_BASELINE, INVALID, NOTHING) if code in codes.values()
    )
