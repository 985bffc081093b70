"""The command: `weighbridge`, or `python -m harness`.

Each command is a file in `harness/commands`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from harness import __version__
from harness.checkpoints.outliving import outlived
from harness.errors import USAGE_EXIT, WeighbridgeError
from harness.machine.left_over import clear_left_over

COMMANDS = {
    "make": "make checkpoints in the store, ahead of a run",
    "doctor": (
        "show what this machine can do: whether files can be made cold, storage, processor,"
        " memory, GPU, loaders"
    ),
    "ceilings": "compare the cold ceilings with fio on the same file; exit 1 where they fall short",
    "convert": (
        "convert a torch checkpoint to safetensors after scanning it: a file, a sharded folder or"
        " a whole pipeline"
    ),
    "verify": (
        "compare two checkpoints tensor by tensor, whatever their formats; exit 1 where they differ"
    ),
    "scan": (
        "say what code unpickling these files would run, without running it; exit 1 for a"
        " finding, 2 where a file could not be read"
    ),
    "bench": "measure the loaders by the benchmarks of this installation (see --help for options)",
    "regression": (
        "compare a candidate with a baseline, two environments in one run; exit 1 for a confirmed"
        " regression"
    ),
    "gate": "return the exit code of the regression runs in a folder, after publishing them",
    "compare": "compare two stored runs of one machine by the rules of `regression`",
    "calibrate": (
        "measure how much this machine differs from itself, and write the thresholds that"
        " `regression` uses"
    ),
    "selftest": (
        "test the harness itself: it must detect every injected fault and find an injected"
        " slow-down"
    ),
    "preflight": (
        "load a tiny checkpoint once with every loader, and say which ones work here; exit 1 if"
        " one failed"
    ),
    "advise": (
        "probe a checkpoint of yours on this machine for a minute, and say which loader and format"
        " to use, and why"
    ),
    "cold": (
        "remove files from the page cache and prove it; exit 1 if pages stay, 2 if this cannot be"
        " proved here"
    ),
    "warm": (
        "read files into the page cache and prove it; exit 1 if they do not stay, 2 if this"
        " cannot be proved here"
    ),
    "weigh": (
        "measure any command with files cold and warm: time, bytes, faults, memory and"
        " bottleneck; exit 1 for a regression against another command"
    ),
    "claims": (
        "judge every claim of the documentation under test, from stored runs or from new"
        " measurements"
    ),
    "check": (
        "check a run, or this machine before a run, against the rules for evidence; exit 1 for an"
        " issue, 2 if the run does not exist"
    ),
    "report": "write the page, tables and figures of runs from their records",
    "pack": ("make a small copy of a finished run for contribution, without private words"),
}
"""Every command and its help; the module of the same name in `harness.commands` is imported only
when it is asked for.
"""


class Command(Protocol):
    """What a module of `harness.commands` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and return the exit status; raises `WeighbridgeError`."""


def entry() -> int:
    """Run the command as a person does, and return its exit status; every error ends in one line.

    0, 1 and 2 are `main`'s; 130 is Ctrl-C, 141 a pipe that nobody reads any more. `--traceback`
    shows where an error came from.
    """
    words, load = _before_load(sys.argv[1:])
    arguments = [word for word in words if word != "--traceback"] + load
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold bytes that are no text
    if left := clear_left_over():
        print(f"weighbridge: {left}", file=sys.stderr)
    try:
        if arguments[:1] in (["convert"], ["verify"]):
            return outlived(
                lambda: main(arguments)
            )  # a mapped file that shrinks kills whoever reads it
        return main(arguments)
    except KeyboardInterrupt:
        print("weighbridge: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # what is left in the buffer goes nowhere, without another error
        return 141
    except Exception as error:
        if "--traceback" in words:
            raise
        print(f"weighbridge: {_one_line(error)} (--traceback shows where)", file=sys.stderr)
        return USAGE_EXIT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 for success, 1 where a check failed, 2 for a
    usage error.
    """
    parser = argparse.ArgumentParser(
        prog="weighbridge", description="How model checkpoints load, measured and proved."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show where an unexpected error came from (with any command)",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    argv, load = _before_load(sys.argv[1:] if arguments is None else arguments)
    try:
        for name, text in COMMANDS.items():
            subparser = subparsers.add_parser(name, help=text, description=text)
            if (
                name in argv[:1]
            ):  # most commands need pandas and matplotlib, which take long to import
                _command(name).add_arguments(subparser)
        namespace = parser.parse_args(argv, argparse.Namespace(load=load[1:]))
        return _command(namespace.command).run(namespace)
    except WeighbridgeError as error:
        print(f"weighbridge: {error}", file=sys.stderr)
        return USAGE_EXIT
    except ModuleNotFoundError as error:
        print(
            f"weighbridge: {error.name} is not installed here; requirements/reference.txt holds"
            f" what {argv[0]} needs",
            file=sys.stderr,
        )
        return USAGE_EXIT


def _before_load(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the command that is to be weighed, and it with its `--`: argparse
    would take its options for ours.
    """
    if arguments[:1] == ["weigh"] and "--" in arguments:
        at = list(arguments).index("--")
        return list(arguments[:at]), list(arguments[at:])
    return list(arguments), []


def _command(name: str) -> Command:
    return cast("Command", importlib.import_module(f"harness.commands.{name}"))


def _one_line(error: Exception) -> str:
    if (
        isinstance(error, OSError)
        and isinstance(error.filename, str | bytes)
        and error.filename
        and error.strerror
    ):
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
