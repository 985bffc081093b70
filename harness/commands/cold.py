"""`weighbridge cold`: files made cold, and the proof; `weighbridge warm` is the same the other way
round.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from harness.console import say
from harness.machine.set_state import FileState, Outcome, exit_code, set_state
from harness.scenarios import CacheState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cold`, and of `warm`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="any file")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON array with an entry for each file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the files cold, print a line on each and return 0 where that is proved, 1 where it was
    not reached, 2 where it cannot be proved here.
    """
    return set_and_print(arguments, "cold")


def set_and_print(arguments: argparse.Namespace, state: CacheState) -> int:
    """Set the state of the files, print what came of each and return the exit code."""
    states = [set_state(file, state) for file in arguments.files]
    if arguments.json:
        entries = [asdict(entry) | {"file": str(entry.file)} for entry in states]
        say(json.dumps(entries, indent=1))
    else:
        for entry in states:
            say(_line(entry))
    return exit_code(states)


def _line(entry: FileState) -> str:
    """Return what became of a file in one line."""
    before, after = ("unknown" if x is None else f"{x:.3f}" for x in (entry.before, entry.after))
    shares = f"resident {before} before, {after} now"
    if entry.outcome == Outcome.PROVED:
        depth = f"cold {entry.depth}" if entry.state == "cold" else "warm"
        return f"{entry.file}: {depth}, {shares}, by {entry.proof}"
    missed = entry.outcome == Outcome.NOT_REACHED
    verdict = f"not {entry.state}" if missed else f"{entry.state} cannot be proved here"
    holders = f"; mapped by {', '.join(entry.held_by)}" if entry.held_by else ""
    return f"{entry.file}: {verdict}: {entry.reason}{holders}; {shares}"
