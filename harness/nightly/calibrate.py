"""`weighbridge calibrate`: this machine comparing the reference with itself, and with slow-downs that are known, so that thresholds are its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.checkpoints.place import default_store
from harness.console import say
from harness.measure.slowed import PERCENTS
from harness.nightly.environments import Environments, Wanted
from harness.nightly.night import Night, Side
from harness.nightly.options import CALIBRATION_S, add_shared, asked_of

BASELINE, AGAIN = "reference", "reference-again"
INJECTED = (2, 5, 10, 25, 50)
PASSES, MOST_BLOCKS = 12, 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `calibrate` may be asked."""
    add_shared(parser)


def run(given: argparse.Namespace) -> int:
    """Measure, write the thresholds file and the page, and return 0; raises `WeighbridgeError`.

    Every block holds the reference twice, from two installations of its own, and once slowed by one of five known shares, in turn.
    """
    asked = asked_of(given)
    store = Path(given.store) if given.store else default_store()
    environments = Environments(given.environments or store / "environments", say, peers=asked.peers)
    reference, again = environments.install(Wanted(BASELINE)), environments.install(Wanted(AGAIN, copy=1))
    sides = [Side(BASELINE, reference), Side(AGAIN, again)]
    loaders = {name for names in asked.plan.values() for name in names}
    assert set(INJECTED) <= set(PERCENTS)
    slowed = [Side(f"slower-{percent}", again, dict.fromkeys(loaders, percent)) for percent in INJECTED]
    about = {"kind": "calibration", "baseline": BASELINE, "candidate": AGAIN, "injected_percent": list(INJECTED)}
    profile = asked.options.profile
    with Night(
        asked.options,
        asked.plan,
        [*sides, *slowed],
        f"calibration-{profile}",
        about,
        ["weighbridge", *sys.argv[1:]],
        say,
        lambda block: [*sides, slowed[block % len(slowed)]],
    ) as night:
        night.go_through(CALIBRATION_S[profile], MOST_BLOCKS, PASSES)
    from harness.nightly.conclude import conclude

    conclude(night.directory, given.thresholds or store, say)
    return 0
