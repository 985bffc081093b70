"""The command: `weighbridge`, or `python -m harness`."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__, commands
from harness.checkpoints.outliving import outlived
from harness.errors import USAGE_EXIT, WeighbridgeError, unknown_name

_REFERENCE = Path("results/reference")


@dataclass(frozen=True)
class _Command:
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def entry() -> int:
    """Run the command as a person does, and return its exit status; whatever goes wrong ends in one line.

    0, 1 and 2 are `main`'s; 130 is Ctrl-C, 141 a pipe that nobody reads any more. `--traceback` shows where an error came from.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--traceback"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold bytes that are no text
    try:
        if arguments[:1] in (["convert"], ["verify"]):
            return outlived(lambda: main(arguments))  # a mapped file that shrinks kills whoever reads it
        return main(arguments)
    except KeyboardInterrupt:
        print("weighbridge: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer goes nowhere, without another error
        return 141
    except Exception as error:
        if "--traceback" in sys.argv[1:]:
            raise
        words = " ".join(str(error).split()) or "no message"
        told = f"{type(error).__name__}: {words}"
        if isinstance(error, OSError) and error.filename and error.strerror:
            told = f"{os.fsdecode(error.filename)}: {error.strerror}" if isinstance(error.filename, str | bytes) else told
        print(f"weighbridge: {told} (--traceback shows where)", file=sys.stderr)
        return USAGE_EXIT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 where what was looked at is not as it should be, or 2 for what cannot be done as asked."""
    parser = argparse.ArgumentParser(prog="weighbridge", description="How model checkpoints load, measured and proved.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--traceback", action="store_true", help="show where an unexpected error came from (with any command)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        for name, command in _COMMANDS.items():
            added = commands.add_parser(name, help=command.help, description=command.help)
            if name in given[:1]:  # what a command may be asked can take long to import
                command.add_arguments(added)
        asked = parser.parse_args(given)
        return _COMMANDS[asked.command].run(asked)
    except WeighbridgeError as error:
        print(f"weighbridge: {error}", file=sys.stderr)
        return USAGE_EXIT
    except ModuleNotFoundError as error:
        print(f"weighbridge: {error.name} is not installed here; requirements.txt holds what {given[0]} needs", file=sys.stderr)
        return USAGE_EXIT


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="the folder whose storage is asked about (default: where checkpoints are kept)"
    )


def _doctor(asked: argparse.Namespace) -> int:
    from harness.doctor import examine

    print(examine(asked.store))
    return 0


def _make_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="names of layouts, as --checkpoints takes them")
    parser.add_argument("--ranks", type=int, metavar="N", help="note the shares of this many ranks as well")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the content (default: 0)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="where to keep them (default: where runs keep theirs)")


def _make(asked: argparse.Namespace) -> int:
    from harness.checkpoints.layouts import LAYOUTS
    from harness.checkpoints.place import default_store
    from harness.checkpoints.shares import shares_by_name
    from harness.checkpoints.sources import layout_source
    from harness.checkpoints.store import Store, known_digest
    from harness.loaders import all_formats

    for name in asked.checkpoints:
        if name not in LAYOUTS:
            raise unknown_name("checkpoint", name, LAYOUTS)
    layouts = [LAYOUTS[name]() for name in asked.checkpoints]
    wanted = [shares_by_name(layout, asked.ranks) if asked.ranks is not None else {} for layout in layouts]
    store = Store(asked.store or default_store(), print, all_formats())
    for layout, shared in zip(layouts, wanted, strict=True):
        source = layout_source(layout, asked.seed)
        made = store.checkpoint(source, all_formats(), known_digest(layout.name, asked.seed))
        store.selections(source, shared)
        print(f"{layout.name}: {made.bytes / 1e6:,.0f} MB in {', '.join(made.artifacts)}, digest {made.digest[:12]}")
    return 0


def _ceilings_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", default="gpt2", metavar="CHECKPOINT", help="whose file is read (default: gpt2)")
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="how often each reads it (default: 11)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="where checkpoints are kept (default: where runs keep theirs)")


def _ceilings(asked: argparse.Namespace) -> int:
    from harness.fio import check_ceilings

    return 0 if check_ceilings(asked.checkpoint, asked.rounds, asked.store, print) else 1


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directories (default: every one in results/reference)")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        default=None,
        help="folder of the page (default: reports; each run's own directory for runs named)",
    )


def _report(asked: argparse.Namespace) -> int:
    from harness.records.run_directory import RunDirectory
    from harness.report.page import write_reports, write_run_report

    named = [RunDirectory.at(path) for path in asked.runs]
    if named and asked.into is None:
        for run in named:
            print(write_run_report(run))
        return 0
    if not named and not _REFERENCE.is_dir():
        raise WeighbridgeError(f"no {_REFERENCE} here; name the runs to report on, or go to the project's folder")
    print(write_reports(named or RunDirectory.all_in(_REFERENCE), asked.into or Path("reports")))
    return 0


def _pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the directory of a finished run; it is only read")
    parser.add_argument("--into", type=Path, metavar="DIR", default=_REFERENCE, help=f"where contributed runs lie (default: {_REFERENCE})")


def _pack(asked: argparse.Namespace) -> int:
    from harness.packing import pack

    if asked.into == _REFERENCE and not _REFERENCE.is_dir():
        raise WeighbridgeError(f"no {_REFERENCE} here; go to the project's folder, or name another with --into")
    packed = pack(asked.run, asked.into)
    print(f"{packed}\nGo on with:\n    nox -s report\n    git add {packed} reports")
    return 0


def _later(help: str, module: str) -> _Command:  # noqa: A002  # as argparse calls it
    """Return a command whose module is imported only when it is asked for: most need pandas and matplotlib."""

    def found(name: str) -> Any:
        return getattr(importlib.import_module(f"harness.{module}"), name)

    return _Command(help, lambda parser: found("add_arguments")(parser), lambda asked: found("run")(asked))


_COMMANDS = {
    "make": _Command("make checkpoints in the store ahead of a run, on a machine that takes part in one", _make_arguments, _make),
    "doctor": _Command(
        "say what this machine can do: cold or not and why, storage, processor, GPU, memory, loaders", _doctor_arguments, _doctor
    ),
    "ceilings": _Command(
        "hold the cold ceilings against fio on the same file; exit 1 where they fall short", _ceilings_arguments, _ceilings
    ),
    "convert": _Command(
        "make safetensors of a torch checkpoint, scanned first: a file, a sharded folder or a whole pipeline",
        commands.convert_arguments,
        commands.convert,
    ),
    "verify": _Command(
        "hold two checkpoints against each other, tensor by tensor, whatever their formats; exit 1 where they differ",
        commands.verify_arguments,
        commands.verify,
    ),
    "scan": _Command(
        "say what unpickling files would run, without running it; exit 1 for something found, 2 where it could not be told",
        commands.scan_arguments,
        commands.scan,
    ),
    "regression": _later(
        "hold a candidate against a baseline, two environments in one run; exit 1 for a confirmed regression", "nightly.check"
    ),
    "gate": _later("give the exit code of the regression runs in a folder, once everything is published", "nightly.gate"),
    "compare": _later("give the same verdicts for two stored runs of one machine", "nightly.compare"),
    "calibrate": _later(
        "find how far this machine differs from itself, and write the thresholds that `regression` reads", "nightly.calibrate"
    ),
    "selftest": _later("put the harness on trial: lies that must be caught, and a slow-down that must be found", "nightly.trial"),
    "preflight": _later("load the tiny checkpoint once by every loader, and say which work here; exit 1 where one failed", "preflight"),
    "advise": _later(
        "probe a checkpoint of yours on this machine for a minute, and say which loader and format to use, and why", "advising"
    ),
    "claims": _later("give a verdict on every claim of the page under test, from stored runs or measured here first", "claims"),
    "report": _Command("make the page, tables and figures of runs from what they recorded", _report_arguments, _report),
    "pack": _Command("copy a run of yours so that it can be contributed, small and with nothing private in it", _pack_arguments, _pack),
}
