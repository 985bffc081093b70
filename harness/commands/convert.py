"""`weighbridge convert`: safetensors of a torch checkpoint, scanned first: a file, a sharded folder
or a whole pipeline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.checkpoints.convert import convert
from harness.checkpoints.hub import CHECKPOINT_HELP, open_pull_request, resolve
from harness.console import say
from harness.errors import WeighbridgeError, one_line_errors

KEY_HELP = "where in a training checkpoint the tensors lie, such as params_ema or model.ema"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.add_argument("source", metavar="SOURCE", help=f"{CHECKPOINT_HELP}; it is only read")
    parser.add_argument(
        "destination",
        nargs="?",
        type=Path,
        metavar="DESTINATION",
        help="the result (default: beside the source, by the hub's name)",
    )
    parser.add_argument(
        "--pull-request",
        action="store_true",
        help=(
            "put the result into the hub's cache on this machine, as the next refs/pr/N of its"
            " repository; nothing is uploaded"
        ),
    )
    parser.add_argument("--key", metavar="NAME", help=KEY_HELP)
    parser.add_argument(
        "--repo",
        metavar="ORG/NAME",
        help="with --pull-request and a local SOURCE: the repository it belongs to",
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert, print the path of the result and return 0; raises `WeighbridgeError`."""
    if arguments.repo and not arguments.pull_request:
        raise WeighbridgeError(
            f"--repo {arguments.repo}: names the repository of a pull request; add --pull-request"
        )
    if arguments.destination and arguments.pull_request:
        raise WeighbridgeError(
            f"{arguments.destination}: a pull request goes into the hub's cache; leave the"
            " destination or --pull-request out"
        )
    with one_line_errors(arguments.source):
        if arguments.pull_request:
            revision = open_pull_request(arguments.source, arguments.repo, say)
            repo = arguments.repo or arguments.source.partition("@")[0]
            say(f"{repo}@{revision}")
            return 0
        source = resolve(arguments.source)
        if not arguments.destination and str(source) != str(Path(arguments.source)):
            raise WeighbridgeError(
                f"{arguments.source}: a hub id needs a place for the result: name a DESTINATION,"
                " or add --pull-request"
            )
        say(str(convert(source, arguments.destination, say, arguments.key)))
    return 0
