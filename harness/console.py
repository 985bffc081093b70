"""What a command says to the person who runs it, and to the CI system that does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.errors import WeighbridgeError

SUMMARY_FILES = ("GITHUB_STEP_SUMMARY",)
"""The variables by which CI systems name the file that a job's summary in Markdown goes to."""


def say(line: str) -> None:
    """Print a line at once, whoever reads along."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(error: WeighbridgeError, code: int) -> int:
    """Print an error and return the exit code that goes with it."""
    sys.stderr.write(f"weighbridge: {error}\n")
    return code


def publish(text: str) -> None:
    """Print a summary, and append it to the file that the CI system names for it, where there is
    one.
    """
    say(text)
    for variable in SUMMARY_FILES:
        if path := os.environ.get(variable):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
