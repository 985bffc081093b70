"""What a calibration's samples say: thresholds, how often the gate would cry wolf, and how small a slow-down it finds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.measure.cell import Cell
from harness.measure.sample import Sample
from harness.nightly.night import FRESH_BLOCKS, blocks_of_night
from harness.nightly.options import BLOCKS, TOTAL_S
from harness.records.manifest import fingerprint
from harness.records.run_directory import RunDirectory
from harness.records.thresholds import FILE, ThresholdsFile
from harness.report.page import write_run_report
from harness.verdicts.cells import paired_ratios
from harness.verdicts.nights import Drawn, Pairs, alarms, any_alarm, nights, pairs_of, rate, thresholds
from harness.verdicts.regression import change, safe_thresholds
from harness.verdicts.rivals import RIVALS
from harness.verdicts.statistics import estimate

NIGHTS, FEWER_NIGHTS, SEED = 400, 200, 0
SHARES = (0.02, 0.03, 0.05, 0.075, 0.10, 0.125, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.75, 1.0)
FOUND_AT = 0.95
"""The share of nights on which a slow-down counts as found."""


def conclude(run: RunDirectory, into: Path, say: Callable[[str], None]) -> None:
    """Write what a calibration found into its manifest, its page, and the thresholds file: `into`, or in that folder."""
    manifest, samples = run.manifest(), run.samples()
    night = manifest["options"]["night"]
    found = pairs_of(samples, night["baseline"], night["candidate"])
    lengths = lengths_of(samples, night, manifest["options"]["profile"])
    say("drawing nights from what was recorded")
    manifest["thresholds"] = thresholds(found, lengths)
    manifest["calibration"] = findings(found, lengths, manifest["thresholds"]) | {
        "held_out": held_out(found, manifest["cells"], lengths),
        "injected": injected(samples, night, manifest["thresholds"]),
    }
    run.write_manifest(manifest)
    file = ThresholdsFile(fingerprint(manifest), run.name, manifest["thresholds"])
    path = into if into.suffix == ".json" else into / FILE
    file.write(path)
    say(f"thresholds: {path}")
    say(f"page: {write_run_report(run)}")


def lengths_of(samples: Sequence[Sample], night: Mapping[str, Any], profile: str) -> dict[str, int]:
    """Return how many first pairs a night of a profile's time has of each cell, from what its samples took here."""
    costs: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        if sample.environment in (night["baseline"], night["candidate"]):
            costs.setdefault(Cell.of(sample).name, {}).setdefault(sample.loader, []).append(sample.prepare_s + sample.sample_s)
    block = {cell: sum(2 * statistics.mean(times) for times in loaders.values()) for cell, loaders in costs.items()}
    return blocks_of_night(block, TOTAL_S[profile], BLOCKS[profile])


def findings(pairs: Pairs, lengths: Mapping[str, int], held: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return the rates of false alarms and of finding over simulated nights, the gate's and other tools' rules'."""
    drawn = nights(pairs, lengths, FRESH_BLOCKS, NIGHTS, SEED)
    limits = {(cell, loader): safe_thresholds(cell, loader, held) for cell, loader in pairs}
    arms = []
    for arm in pairs:
        rates = {f"{100 * share:g}": rate(drawn[:FEWER_NIGHTS], arm, limits[arm], share) for share in (0.0, *SHARES)}
        smallest = next((share for share in SHARES if all(rates[f"{100 * one:g}"] >= FOUND_AT for one in SHARES if one >= share)), None)
        ratios = estimate(paired_ratios([b for _, b in pairs[arm]], [a for a, _ in pairs[arm]], lambda sample: sample.ready_s))
        arms.append({
            "cell": arm[0], "loader": arm[1], "pairs": len(pairs[arm]), "found_by_percent": rates,
            "smallest_found_percent": None if smallest is None else 100 * smallest,
            "ratio": ratios.median if ratios else None, "low": ratios.low if ratios else None, "high": ratios.high if ratios else None,
        })  # fmt: skip
    return {
        "nights": NIGHTS,
        "pairs_in_a_night": dict(lengths),
        "first_alarm_on": any_alarm(drawn, lambda arm, one: alarms(one, limits[arm])[0]),
        "confirmed_alarm_on": any_alarm(drawn, lambda arm, one: alarms(one, limits[arm])[1]),
        "arms": arms,
        "rivals": {name: _rival(drawn, rule) for name, rule in RIVALS.items()},
    }


def _rival(drawn: Sequence[Mapping[tuple[str, str], Drawn]], rule: Callable[[Sequence[float], Sequence[float]], bool]) -> dict[str, float]:
    """Return how often a rule alarms on a night of no change, anywhere and in one arm, and how often it finds 10 % in a warm arm."""

    def says(one: Drawn, share: float = 0.0) -> bool:
        return rule([a.ready_s or 0.0 for a, _ in one.first], [(b.ready_s or 0.0) * (1 + share) for _, b in one.first])

    each = [says(one) for night in drawn for one in night.values()]
    warm = [says(one, 0.10) for night in drawn for (cell, _), one in night.items() if "/warm/" in cell]
    return {
        "alarm_on_nights": any_alarm(drawn, lambda _, one: says(one)),
        "alarm_on_arms": statistics.mean(each),
        "found_10_percent_warm": statistics.mean(warm) if warm else 0.0,
    }


def held_out(pairs: Pairs, cells: Sequence[Mapping[str, Any]], lengths: Mapping[str, int]) -> dict[str, Any]:
    """Return the rate of confirmed alarms on nights of one half of the passes under thresholds of the other half, both ways."""
    halves: list[dict[tuple[str, str], list[Any]]] = [{}, {}]
    passes = {cell["name"]: cell["passes"] for cell in cells}
    for (cell, loader), taken in pairs.items():
        for pair in taken:
            number = sum(first <= pair[0].block for first in passes[cell]) - 1
            halves[number % 2].setdefault((cell, loader), []).append(pair)
    rates, count = [], 0
    for fit, tried in (halves, halves[::-1]):
        held = thresholds(fit, lengths)
        drawn = nights(tried, lengths, FRESH_BLOCKS, FEWER_NIGHTS, SEED)
        limits = {(cell, loader): safe_thresholds(cell, loader, held) for cell, loader in tried}
        rates.append(any_alarm(drawn, lambda arm, one, limits=limits: alarms(one, limits[arm])[1]))  # type: ignore[misc]
        count += len(drawn)
    return {"nights": count, "confirmed_alarm_on": statistics.mean(rates)}


def injected(samples: Sequence[Sample], night: Mapping[str, Any], held: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the gate says of each arm that was really slowed while it was measured, from that arm's own pairs."""
    found = []
    for percent in night["injected_percent"]:
        for arm, pairs in pairs_of(samples, night["baseline"], f"slower-{percent}").items():
            said = change([a for a, _ in pairs], [b for _, b in pairs], safe_thresholds(*arm, held))
            ratio = said.ratio
            found.append({"cell": arm[0], "loader": arm[1], "percent": percent, "verdict": said.verdict, "pairs": len(pairs)}
                         | {"ratio": ratio.median if ratio else None})  # fmt: skip
    return found
