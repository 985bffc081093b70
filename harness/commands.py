"""The commands on checkpoints: `weighbridge convert`, `verify` and `scan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.checkpoints.hub import open_pull_request, resolve
from harness.console import say
from harness.errors import WeighbridgeError

_CHECKPOINT = "a weights file, a folder, or a hub id: ORG/NAME or ORG/NAME@REVISION"


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `convert` may be asked."""
    parser.add_argument("source", metavar="SOURCE", help=f"{_CHECKPOINT}; it is only read")
    parser.add_argument(
        "destination", nargs="?", type=Path, metavar="DESTINATION", help="what is made (default: beside the source, by the hub's name)"
    )
    parser.add_argument(
        "--pull-request",
        action="store_true",
        help="put it into the hub's cache on this machine instead, as the next refs/pr/N of its repository; nothing is sent",
    )
    parser.add_argument("--key", metavar="NAME", help="where in a training checkpoint the tensors lie, such as params_ema or model.ema")
    parser.add_argument("--repo", metavar="ORG/NAME", help="with --pull-request and a local SOURCE: whose pull request it is")


def convert(asked: argparse.Namespace) -> int:
    """Convert, print what was made and return 0; raises `WeighbridgeError`."""
    from harness.checkpoints import convert as conversion

    if asked.repo and not asked.pull_request:
        raise WeighbridgeError(f"--repo {asked.repo}: says whose pull request it is to be; ask for --pull-request as well")
    if asked.destination and asked.pull_request:
        raise WeighbridgeError(
            f"{asked.destination}: a pull request goes into the hub's cache; leave the destination or --pull-request out"
        )
    with _disk(asked.source):
        if asked.pull_request:
            revision = open_pull_request(asked.source, asked.repo, say)
            repo = asked.repo or asked.source.partition("@")[0]
            say(f"{repo}@{revision}")
            return 0
        source = resolve(asked.source)
        if not asked.destination and str(source) != str(Path(asked.source)):
            raise WeighbridgeError(f"{asked.source}: of a hub id say where the result goes: name a DESTINATION, or --pull-request")
        say(str(conversion.convert(source, asked.destination, say, asked.key)))
    return 0


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `verify` may be asked."""
    parser.add_argument("a", metavar="A", help=_CHECKPOINT)
    parser.add_argument("b", metavar="B", help="the same, in any format")
    parser.add_argument("--key", metavar="NAME", help="where in a training checkpoint the tensors lie, such as params_ema or model.ema")


def verify(asked: argparse.Namespace) -> int:
    """Print every difference and return 1, or 0 where there is none; raises `WeighbridgeError`."""
    from harness.checkpoints.verify import differences

    with _disk(f"{asked.a} and {asked.b}"):
        found = differences(resolve(asked.a), resolve(asked.b), asked.key)
    for line in found:
        say(line)
    say(f"{len(found)} differences" if found else "the same: names, dtypes, shapes, bytes and ties")
    return 1 if found else 0


def scan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `scan` may be asked."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help=f"{_CHECKPOINT}; folders are walked")


def scan(asked: argparse.Namespace) -> int:
    """Print the table of findings and return 0 for clean, 1 for something found, 2 where it could not be told."""
    from harness.checkpoints.scan import exit_status, table
    from harness.checkpoints.scan import scan as look

    findings = look([resolve(path) for path in asked.paths])
    say(table(findings))
    return exit_status(findings)


@contextmanager
def _disk(asked: str) -> Iterator[None]:
    """Turn a full disk, a missing permission and their like into an error of one line."""
    try:
        yield
    except OSError as error:
        raise WeighbridgeError(
            f"{asked}: {error.strerror or error} ({error.filename or 'while writing'}); nothing that looks finished is left"
        ) from None
