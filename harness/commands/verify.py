"""`weighbridge verify`: two checkpoints compared tensor by tensor, whatever their formats."""

from __future__ import annotations

import argparse

from harness.checkpoints.hub import CHECKPOINT_HELP, resolve
from harness.checkpoints.verify import differences
from harness.commands.convert import KEY_HELP
from harness.console import say
from harness.errors import one_line_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    parser.add_argument("a", metavar="A", help=CHECKPOINT_HELP)
    parser.add_argument("b", metavar="B", help="another, in any format")
    parser.add_argument("--key", metavar="NAME", help=KEY_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Print every difference and return 1, or 0 where there is none; raises `WeighbridgeError`."""
    with one_line_errors(f"{arguments.a} and {arguments.b}"):
        lines = differences(resolve(arguments.a), resolve(arguments.b), arguments.key)
    for line in lines:
        say(line)
    say(f"{len(lines)} differences" if lines else "the same: names, dtypes, shapes, bytes and ties")
    return 1 if lines else 0
