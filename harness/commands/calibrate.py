"""`weighbridge calibrate`: this machine comparing the reference with itself, and with slow-downs
that are known, so that thresholds are its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.checkpoints.store_location import default_store
from harness.console import say
from harness.measure.slowed_loaders import PERCENTS
from harness.regression.environments import EnvironmentRequest, Environments
from harness.regression.options import CALIBRATION_S, add_shared, paired_request
from harness.regression.paired_run import PairedRun, Side

BASELINE, AGAIN = "reference", "reference-again"
INJECTED = (2, 5, 10, 25, 50)
PASSES, MOST_BLOCKS = 12, 600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `calibrate` may be asked."""
    add_shared(parser)


def run(given: argparse.Namespace) -> int:
    """Measure, write the thresholds file and the page, and return 0; raises `WeighbridgeError`.

    Every block holds the reference twice, from two installations of its own, and once slowed by one
    of five known shares, in turn.
    """
    request = paired_request(given)
    store = Path(given.store) if given.store else default_store()
    environments = Environments(
        given.environments or store / "environments", say, peers=request.peers
    )
    reference, again = (
        environments.install(EnvironmentRequest(BASELINE)),
        environments.install(EnvironmentRequest(AGAIN, copy=1)),
    )
    sides = [Side(BASELINE, reference), Side(AGAIN, again)]
    loaders = {name for names in request.plan.values() for name in names}
    assert set(INJECTED) <= set(PERCENTS)
    slowed = [
        Side(f"slower-{percent}", again, dict.fromkeys(loaders, percent)) for percent in INJECTED
    ]
    about = {
        "kind": "calibration",
        "baseline": BASELINE,
        "candidate": AGAIN,
        "injected_percent": list(INJECTED),
    }
    profile = request.options.profile
    with PairedRun(
        request.options,
        request.plan,
        [*sides, *slowed],
        f"calibration-{profile}",
        about,
        ["weighbridge", *sys.argv[1:]],
        say,
        lambda block: [*sides, slowed[block % len(slowed)]],
    ) as paired_run:
        say(request.note)
        paired_run.go_through(CALIBRATION_S[profile], MOST_BLOCKS, PASSES)
    from harness.regression.calibration import conclude
    from harness.report.run_page import write_run_report

    conclude(paired_run.directory, given.thresholds or store, say)
    say(f"page: {write_run_report(paired_run.directory)}")
    return 0
