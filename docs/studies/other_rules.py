"""How other tools' rules would judge the same simulated runs:
`python docs/studies/other_rules.py RUN`.

RUN is a calibration: one machine compared with itself. What each rule said is printed, and kept in
the run's manifest, from which the documentation quotes it. Each rule is given the two sides of the
same blocks, which is kinder than comparing with last night's figures.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from harness.analysis.simulated_runs import Drawn, any_alarm, pairs_of, simulated_runs
from harness.records.run_directory import RunDirectory
from harness.regression.calibration import SEED, SIMULATED_RUNS, lengths_of
from harness.regression.paired_run import FRESH_BLOCKS

Rule = Callable[[Sequence[float], Sequence[float]], bool]


def pytest_benchmark(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether `--benchmark-compare-fail=median:10%` fails: one figure against another."""
    return statistics.median(new) / statistics.median(base) - 1 > 0.10


def pyperf(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether `pyperf compare_to` calls it slower: Student's t test, two tails, 95 %."""
    count = len(base) + len(new) - 2
    pooled = (
        (len(base) - 1) * statistics.variance(base) + (len(new) - 1) * statistics.variance(new)
    ) / count
    if pooled == 0:
        return statistics.mean(new) > statistics.mean(base)
    score = (statistics.mean(new) - statistics.mean(base)) / math.sqrt(
        pooled * (1 / len(base) + 1 / len(new))
    )
    z = statistics.NormalDist().inv_cdf(0.975)
    return score > z + (z**3 + z) / (4 * count)  # the t quantile to first order


def asv(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether `asv continuous` reports it: medians apart by 1.1, Mann-Whitney's p below
    0.002.
    """
    return statistics.median(new) / statistics.median(base) > 1.1 and _p(base, new) < 0.002


def mann_whitney(base: Sequence[float], new: Sequence[float]) -> bool:
    """Return whether a plain Mann-Whitney test calls it slower, two tails, p below 0.05."""
    return _p(base, new) < 0.05 and statistics.median(new) > statistics.median(base)


RULES: dict[str, Rule] = {
    "pytest-benchmark, compare-fail=median:10%": pytest_benchmark,
    "pyperf compare_to": pyperf,
    "asv continuous": asv,
    "Mann-Whitney, p < 0.05": mann_whitney,
}


def _p(base: Sequence[float], new: Sequence[float]) -> float:
    """Return Mann-Whitney's p of two tails, normal approximation with ties and continuity."""
    n, m = len(base), len(new)
    ordered = sorted([(value, 0) for value in base] + [(value, 1) for value in new])
    ranks, place, ties = 0.0, 1, 0
    for _, same in groupby(ordered, key=lambda item: item[0]):
        group = list(same)
        ranks += (place + (len(group) - 1) / 2) * sum(side for _, side in group)
        ties += len(group) ** 3 - len(group)
        place += len(group)
    u = ranks - m * (m + 1) / 2
    spread = math.sqrt(n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1))))
    if spread == 0:
        return 1.0
    return 2 * (1 - statistics.NormalDist().cdf(max(abs(u - n * m / 2) - 0.5, 0.0) / spread))


def main(path: Path) -> None:
    """Print and keep how often each rule alarms though nothing changed, and how often it finds 10 %
    in a warm arm and in a cold one.
    """
    run = RunDirectory.at(path)
    manifest, samples = run.manifest(), run.samples()
    paired = manifest["options"]["paired_run"]
    lengths = lengths_of(samples, paired, manifest["options"]["profile"])
    pairs = pairs_of(samples, paired["baseline"], paired["candidate"])
    drawn = simulated_runs(pairs, lengths, FRESH_BLOCKS, SIMULATED_RUNS, SEED)
    rivals = {}
    for name, rule in RULES.items():

        def says(arm: Drawn, share: float = 0.0, rule: Rule = rule) -> bool:
            base = [sample.ready_s or 0.0 for sample, _ in arm.first]
            return rule(base, [(sample.ready_s or 0.0) * (1 + share) for _, sample in arm.first])

        alarms = any_alarm(drawn, lambda _, arm: says(arm))
        warm, cold = (
            statistics.mean(
                says(arm, 0.10)
                for one_run in drawn
                for (cell, _), arm in one_run.items()
                if f"/{state}/" in cell
            )
            for state in ("warm", "cold")
        )
        rivals[name] = {
            "alarm_on_runs": alarms,
            "found_10_percent_warm": warm,
            "found_10_percent_cold": cold,
        }
        print(
            f"{name}: alarm on {alarms:.0%} of runs, 10 % found in {warm:.0%} of warm arms and"
            f" {cold:.0%} of cold ones"
        )
    manifest["calibration"]["rivals"] = rivals
    run.write_manifest(manifest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
