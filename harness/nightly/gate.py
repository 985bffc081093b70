"""`weighbridge gate`: the exit code of what was checked and published before; it needs the standard library alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from harness.console import say, told
from harness.errors import WeighbridgeError
from harness.verdicts.regression import INVALID, MEANING, NO_BASELINE, NOTHING, REGRESSION, VERDICTS_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `gate` may be asked."""
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="the folder whose runs are asked (default: results)"
    )


def run(given: argparse.Namespace) -> int:
    """Return the gravest exit code of every regression run directly in a folder, 4 where there is none: nothing is a pass by default."""
    found = {path.parent.name: read_code(path) for path in sorted(given.results.glob(f"*/{VERDICTS_FILE}"))}
    for name, code in found.items():
        say(f"{name}: {MEANING[code]}")
    if not found:
        return told(WeighbridgeError(f"no regression run in {given.results}: nothing was checked"), NO_BASELINE)
    return next(code for code in (REGRESSION, NO_BASELINE, INVALID, NOTHING) if code in found.values())


def read_code(path: Path) -> int:
    """Return the exit code that a run's verdicts hold; raises `WeighbridgeError` where they hold none."""
    try:
        code: int = json.loads(path.read_text(encoding="utf-8"))["exit_code"]
        if code not in MEANING:
            raise ValueError(f"exit code {code}")
        return code
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeighbridgeError(f"{path}: no verdicts ({error}); `weighbridge regression` writes them") from None
