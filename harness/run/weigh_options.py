"""What `weighbridge weigh` may be asked, and what is to be weighed by it."""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import WeighbridgeError, unknown_name
from harness.measure.blocks import Limits
from harness.measure.weigh import Load, blocks_within
from harness.records.limits import BUSY_AT_MOST, BUSY_VARIABLE
from harness.records.manifest import now
from harness.records.weighing import WeighedArm
from harness.scenarios import CACHE_STATES, CacheState
from harness.workers.weighed_client import CommandOptions

ROUNDS, BUDGET_S = 10, 60.0
PAIRED_ROUNDS, PAIRED_BUDGET_S = 12, 120.0
"""Most rounds of a state, and the seconds after which none is begun once there are enough for an
interval.
"""


@dataclass(frozen=True)
class WeighRequest:
    """What is to be weighed, in which cache states, how often, and what it is held to."""

    load: Load
    states: tuple[CacheState, ...]
    limits: Limits
    fail_over: float | None
    facts_only: bool

    @property
    def paired(self) -> bool:
        """Whether the command is compared with another."""
        return "against" in self.load.commands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `weigh`; the command comes after `--`."""
    parser.usage = "weighbridge weigh FILE... [options] -- COMMAND..."
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="whose cache state is set before a run"
    )
    parser.add_argument(
        "--cache-states",
        default=",".join(CACHE_STATES),
        metavar="A,B",
        help="cold, warm or both (default: cold,warm)",
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        help=f"runs in each state (default: {ROUNDS} within about {BUDGET_S:.0f} s, at least 6)",
    )
    parser.add_argument(
        "--since",
        metavar="PATTERN",
        help="measure from the first output line that matches, to leave out the start-up",
    )
    parser.add_argument(
        "--until",
        metavar="PATTERN",
        help="measure up to the first line of output that matches, then end the command",
    )
    parser.add_argument(
        "--timeout", default="600", metavar="S", help="longest time of a run (default: 600)"
    )
    parser.add_argument(
        "--against",
        metavar="'COMMAND'",
        help="compare with this command in interleaved blocks; exit 1 for a confirmed regression",
    )
    parser.add_argument(
        "--fail-over",
        metavar="SHARE",
        help="how much longer than the other the command may take, such as 10%%",
    )
    parser.add_argument(
        "--facts-only",
        action="store_true",
        help="judge only bytes, faults, CPU time and peak memory, not time",
    )
    parser.add_argument(
        "--busy-at-most",
        metavar="SHARE",
        help=(
            "largest share of the cores' time that other programs may use (default:"
            f" {BUSY_AT_MOST:g})"
        ),
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the order of blocks")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-v", action="store_true", dest="show", help="show the command's output")


def weigh_request(arguments: argparse.Namespace) -> WeighRequest:
    """Return what is asked for; raises `WeighbridgeError` that names what is missing or wrong."""
    commands = _commands(arguments)
    for flag, pattern in (("--since", arguments.since), ("--until", arguments.until)):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise WeighbridgeError(f"{flag} {pattern}: no pattern ({error})") from None
    busy = _share("--busy-at-most", arguments.busy_at_most or os.environ.get(BUSY_VARIABLE))
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed  # noqa: S311  # an order, no secret
    load = Load(
        now(),
        _files(arguments.files),
        commands,
        CommandOptions(
            arguments.since,
            arguments.until,
            _at_least_one("--timeout", arguments.timeout),
            arguments.show,
        ),
        BUSY_AT_MOST if busy is None else busy,
        seed,
    )
    rounds = _at_least_one("--rounds", arguments.rounds) if arguments.rounds else None
    budget = (PAIRED_ROUNDS, PAIRED_BUDGET_S) if arguments.against else (ROUNDS, BUDGET_S)
    return WeighRequest(
        load,
        _states(arguments.cache_states),
        blocks_within(rounds, *budget),
        _share("--fail-over", arguments.fail_over),
        arguments.facts_only,
    )


def _files(files: list[Path]) -> tuple[Path, ...]:
    if not files:
        raise WeighbridgeError("weigh: no FILE; name the files whose cache state is to be set")
    for file in files:
        if not file.is_file():
            found = "is a folder; name its files" if file.is_dir() else "there is no such file"
            raise WeighbridgeError(f"{file}: {found}")
    return tuple(dict.fromkeys(file.resolve() for file in files))


def _commands(arguments: argparse.Namespace) -> Mapping[WeighedArm, tuple[str, ...]]:
    """Return the command after `--` and the one that it is compared with, where there is one."""
    if not arguments.load:
        raise WeighbridgeError("weigh: no command; put it last, after `--`")
    commands: dict[WeighedArm, tuple[str, ...]] = {"command": tuple(arguments.load)}
    if arguments.against is not None:
        try:
            commands["against"] = tuple(shlex.split(arguments.against))
        except ValueError as error:
            raise WeighbridgeError(f"--against {arguments.against}: {error}") from None
    elif arguments.fail_over or arguments.facts_only:
        raise WeighbridgeError("--fail-over and --facts-only judge a comparison; add --against")
    for words in commands.values():
        if not words or shutil.which(words[0]) is None:
            raise WeighbridgeError(
                f"{words[0] if words else '--against'}: no such executable here; name a program,"
                " or for a shell line: sh -c 'LINE'"
            )
    return commands


def _states(text: str) -> tuple[CacheState, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CACHE_STATES:
            raise unknown_name("cache state", name, CACHE_STATES)
    if not names:
        raise WeighbridgeError("--cache-states: none; name cold, warm or both")
    return tuple(state for state in CACHE_STATES if state in names)


def _at_least_one(flag: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise WeighbridgeError(f"{flag} {text}: a whole number of 1 or more is needed")
    return number


def _share(flag: str, text: str | None) -> float | None:
    """Return a share that is written as `10%` or `0.1`, None of nothing."""
    if not text:
        return None
    number, sign, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if sign else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 <= share <= 1:
        raise WeighbridgeError(f"{flag} {text}: a share is needed, such as 10% or 0.1")
    return share
