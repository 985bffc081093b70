"""`weighbridge make`: checkpoints in the store ahead of a run, on a machine that takes part in
one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Store, known_digest
from harness.checkpoints.store_location import default_store
from harness.checkpoints.tensor_parallel import shares_by_name
from harness.console import say
from harness.errors import unknown_name
from harness.loaders import all_formats


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `make`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="a built-in checkpoint, such as gpt2",
    )
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="also note which share each of N ranks loads"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the content (default: 0)"
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where to keep them (default: the store of all runs)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make every checkpoint, print its size and digest, and return 0.

    Raises `WeighbridgeError` for an unknown name.
    """
    for name in arguments.checkpoints:
        if name not in LAYOUTS:
            raise unknown_name("checkpoint", name, LAYOUTS)
    layouts = [LAYOUTS[name]() for name in arguments.checkpoints]
    shares = [
        shares_by_name(layout, arguments.ranks) if arguments.ranks is not None else {}
        for layout in layouts
    ]
    store = Store(arguments.store or default_store(), say, all_formats())
    for layout, of_ranks in zip(layouts, shares, strict=True):
        source = layout_source(layout, arguments.seed)
        checkpoint = store.checkpoint(
            source, all_formats(), known_digest(layout.name, arguments.seed)
        )
        store.selections(source, of_ranks)
        say(
            f"{layout.name}: {checkpoint.bytes / 1e6:,.0f} MB in {', '.join(checkpoint.artifacts)},"
            f" digest {checkpoint.digest[:12]}"
        )
    return 0
