"""`weighbridge warm`: files read into the page cache, and the proof."""

from __future__ import annotations

import argparse

from harness.commands.cold import add_arguments as add_arguments
from harness.commands.cold import set_and_print


def run(arguments: argparse.Namespace) -> int:
    """Make the files warm, print a line on each and return 0 where that is proved, 1 where they did
    not stay, 2 where it cannot be told here.
    """
    return set_and_print(arguments, "warm")
