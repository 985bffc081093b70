"""`weighbridge bench`: the benchmarks of this installation, as `nox -s bench-cpu` runs them in a
checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.run.options import FLAGS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
"""The installed package of benchmarks, or that of the checkout."""
_SETTINGS = "installed.ini"
"""Its own settings for pytest, so that those of the folder it is run in do not count."""
_SELECTIONS = {"gpu": "on an NVIDIA GPU, not on the CPU", "safety": "hostile files, not loads"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmarks, and those of pytest that a person needs."""
    only = parser.add_mutually_exclusive_group()
    for name, text in _SELECTIONS.items():
        only.add_argument(f"--{name}", action="store_true", help=f"measure {text}")
    for flag, keywords in FLAGS.items():
        parser.add_argument(flag, **keywords)
    parser.add_argument(
        "-k", metavar="EXPRESSION", dest="expression", help="only the arms whose names match"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show every cell's table and all details"
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="show less of pytest's own lines"
    )
    parser.add_argument(
        "--collect-only", action="store_true", help="list what would be measured, and stop"
    )
    parser.add_argument(
        "pytest_arguments",
        nargs="*",
        metavar="-- ARGUMENT",
        help="after --, given to pytest as they are",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmarks by pytest in this process, and return its exit status: 0 where every arm
    has a figure, 1 where one has none, 2 for a usage error or a run that measured nothing.
    """
    import pytest  # only here, for `--help` needs none of it

    return int(pytest.main(pytest_arguments(arguments)))


def pytest_arguments(arguments: argparse.Namespace) -> list[str]:
    """Return the arguments of pytest that do what was asked."""
    selection = next((name for name in _SELECTIONS if getattr(arguments, name)), "cpu")
    command = [str(BENCHMARKS), "-c", str(BENCHMARKS / _SETTINGS), "-p", "no:cacheprovider"]
    command += ["-m", selection]
    for flag, keywords in FLAGS.items():
        command += _given(flag, keywords, getattr(arguments, flag.strip("-").replace("-", "_")))
    if arguments.expression:
        command += ["-k", arguments.expression]
    for name, option in (("verbose", "-v"), ("quiet", "-q"), ("collect_only", "--collect-only")):
        if getattr(arguments, name):
            command.append(option)
    return [*command, *arguments.pytest_arguments]


def _given(flag: str, keywords: dict[str, Any], value: Any) -> list[str]:
    """Return an option as it was given, nothing where it was not."""
    if value is None:
        return []
    if keywords.get("action") == "store_const":
        return [flag]
    values = value if isinstance(value, list) else [value]
    return [f"{flag}={part}" for part in values]
