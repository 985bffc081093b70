"""What a calibration's samples say: thresholds, how often the gate would cry wolf, and how small a
slow-down it finds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.analysis.arms import paired_ratios
from harness.analysis.regression import Thresholds, change
from harness.analysis.regression_verdicts import safe_thresholds
from harness.analysis.simulated_runs import (
    Drawn,
    Pairs,
    alarms,
    any_alarm,
    pairs_of,
    rate,
    simulated_runs,
    thresholds,
)
from harness.analysis.statistics import estimate
from harness.records.cell import Cell
from harness.records.manifest import fingerprint
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from harness.records.thresholds import FILE, ThresholdsFile
from harness.regression.options import BLOCKS, TOTAL_S
from harness.regression.paired_run import FRESH_BLOCKS, blocks_of_run

SIMULATED_RUNS, FEWER_RUNS, SEED = 400, 200, 0
SHARES = (0.02, 0.03, 0.05, 0.075, 0.10, 0.125, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.75, 1.0)
FOUND_AT = 0.95
"""The share of simulated runs on which a slow-down counts as found."""


def conclude(run: RunDirectory, into: Path, say: Callable[[str], None]) -> None:
    """Write what a calibration found into its manifest and the thresholds file: `into`, or in that
    folder.
    """
    manifest, samples = run.manifest(), run.samples()
    paired = manifest["options"]["paired_run"]
    pairs = pairs_of(samples, paired["baseline"], paired["candidate"])
    lengths = lengths_of(samples, paired, manifest["options"]["profile"])
    say("drawing simulated runs from what was recorded")
    manifest["thresholds"] = thresholds(pairs, lengths)
    manifest["calibration"] = findings(pairs, lengths, manifest["thresholds"]) | {
        "held_out": held_out(pairs, manifest["cells"], lengths),
        "injected": injected(samples, paired, manifest["thresholds"]),
    }
    run.write_manifest(manifest)
    file = ThresholdsFile(fingerprint(manifest), run.name, manifest["thresholds"])
    path = into if into.suffix == ".json" else into / FILE
    file.write(path)
    say(f"thresholds: {path}")


def lengths_of(
    samples: Sequence[Sample], paired: Mapping[str, Any], profile: str
) -> dict[str, int]:
    """Return how many first pairs a simulated run of a profile's time has of each cell, from what
    its samples took here.
    """
    costs: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        if sample.environment in (paired["baseline"], paired["candidate"]):
            costs.setdefault(Cell.of(sample).name, {}).setdefault(sample.loader, []).append(
                sample.prepare_s + sample.sample_s
            )
    block = {
        cell: sum(2 * statistics.mean(times) for times in loaders.values())
        for cell, loaders in costs.items()
    }
    return blocks_of_run(block, TOTAL_S[profile], BLOCKS[profile])


def findings(
    pairs: Pairs,
    lengths: Mapping[str, int],
    thresholds: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> dict[str, Any]:
    """Return the rates of false alarms and of finding over simulated runs."""
    drawn = simulated_runs(pairs, lengths, FRESH_BLOCKS, SIMULATED_RUNS, SEED)
    limits = {(cell, loader): safe_thresholds(cell, loader, thresholds) for cell, loader in pairs}
    arms = []
    for arm in pairs:
        rates = {
            f"{100 * share:g}": rate(drawn[:FEWER_RUNS], arm, limits[arm], share)
            for share in (0.0, *SHARES)
        }
        smallest = next(
            (
                share
                for share in SHARES
                if all(rates[f"{100 * value:g}"] >= FOUND_AT for value in SHARES if value >= share)
            ),
            None,
        )
        ratios = estimate(
            paired_ratios(
                [b for _, b in pairs[arm]],
                [a for a, _ in pairs[arm]],
                lambda sample: sample.ready_s,
            )
        )
        arms.append(
            {
                "cell": arm[0],
                "loader": arm[1],
                "pairs": len(pairs[arm]),
                "found_by_percent": rates,
                "smallest_found_percent": None if smallest is None else 100 * smallest,
                "ratio": ratios.median if ratios else None,
                "low": ratios.low if ratios else None,
                "high": ratios.high if ratios else None,
            }
        )
    return {
        "simulated_runs": SIMULATED_RUNS,
        "pairs_in_a_run": dict(lengths),
        "first_alarm_on": any_alarm(drawn, lambda arm, drawn: alarms(drawn, limits[arm])[0]),
        "confirmed_alarm_on": any_alarm(drawn, lambda arm, drawn: alarms(drawn, limits[arm])[1]),
        "arms": arms,
    }


def held_out(
    pairs: Pairs, cells: Sequence[Mapping[str, Any]], lengths: Mapping[str, int]
) -> dict[str, Any]:
    """Return the rate of confirmed alarms on simulated runs of one half of the passes under
    thresholds of the other half, both ways.
    """
    halves: list[dict[tuple[str, str], list[Any]]] = [{}, {}]
    passes = {cell["name"]: cell["passes"] for cell in cells}
    for (cell, loader), recorded in pairs.items():
        for pair in recorded:
            number = sum(first <= pair[0].block for first in passes[cell]) - 1
            halves[number % 2].setdefault((cell, loader), []).append(pair)
    rates, count = [], 0
    for fit, tried in (halves, halves[::-1]):
        limits_of_fit = thresholds(fit, lengths)
        drawn = simulated_runs(tried, lengths, FRESH_BLOCKS, FEWER_RUNS, SEED)
        limits = {
            (cell, loader): safe_thresholds(cell, loader, limits_of_fit) for cell, loader in tried
        }
        confirmed = partial(_confirmed_alarm, limits)
        rates.append(any_alarm(drawn, confirmed))
        count += len(drawn)
    return {"simulated_runs": count, "confirmed_alarm_on": statistics.mean(rates)}


def _confirmed_alarm(
    limits: Mapping[tuple[str, str], Thresholds], arm: tuple[str, str], drawn: Drawn
) -> bool:
    """Return whether one simulated arm is called slower and confirmed to be."""
    return alarms(drawn, limits[arm])[1]


def injected(
    samples: Sequence[Sample], paired: Mapping[str, Any], calibrated: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what the gate says of each arm that was really slowed while it was measured, from that
    arm's own pairs.
    """
    results = []
    for percent in paired["injected_percent"]:
        for arm, pairs in pairs_of(samples, paired["baseline"], f"slower-{percent}").items():
            outcome = change(
                [a for a, _ in pairs], [b for _, b in pairs], safe_thresholds(*arm, calibrated)
            )
            ratio = outcome.ratio
            results.append(
                {
                    "cell": arm[0],
                    "loader": arm[1],
                    "percent": percent,
                    "verdict": outcome.verdict,
                    "pairs": len(pairs),
                }
                | {"ratio": ratio.median if ratio else None}
            )
    return results
