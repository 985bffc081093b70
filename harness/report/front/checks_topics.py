"""The topics that are not about times: hostile files, and the regression check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.hostile import ScannerResult, files_of, loaders_of, scanned
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.regression_verdicts import exit_code, judged_run
from harness.records.trials import Harm, Outcome
from harness.records.verdicts import MEANING
from harness.report.format import listed
from harness.report.front.names import Family, family, plain
from harness.report.front.panels import Bar, Panel
from harness.report.front.topic import Topic, capital
from harness.report.sections.hostile_files import outcomes_table
from harness.report.verdict_text import number, share_range
from harness.scenarios import HOSTILE_FILES


def safety(evidence: Sequence[RecordedRun]) -> Topic | None:
    """Return which loaders run code of a hostile file, of the run with most trials."""
    runs = [run for run in evidence if run.trials]
    if not runs:
        return None
    run = max(runs, key=lambda run: (len(run.trials), run.name))
    files = files_of(run.manifest)
    payloads = sum(file.harm == Harm.CODE for file in files.values())
    met = dict.fromkeys(trial.loader for trial in run.trials if trial.scenario == HOSTILE_FILES)
    ran = {
        loader: sum(trial.loader == loader and trial.outcome == Outcome.RAN for trial in run.trials)
        for loader in met
    }
    guilty = sorted((name for name in ran if ran[name]), key=lambda name: (-ran[name], name))
    innocent = [name for name in ran if not ran[name]]
    bars = tuple(
        Bar(plain(name), float(ran[name]), f"{ran[name]} of {payloads}", Family.PICKLE)
        for name in guilty
    )
    bars += (Bar(f"{len(innocent)} other loaders", 0.0, "0", Family.SAFETENSORS),)
    seen = scanned(run.trials, files)
    missed = {
        scanner: groups["code"][ScannerResult.MISSED] / max(1, sum(groups["code"].values()))
        for scanner, groups in seen.items()
    }
    sentences = [
        (
            f"{capital(listed([f'`{name}`' for name in guilty]))} ran code of a file."
            if guilty
            else "No loader ran code of a file."
        ),
        f"The other {len(innocent)} loaders ran none of {payloads} payloads.",
    ]
    if missed:
        words = listed([f"{name} {number(100 * share)} %" for name, share in missed.items()])
        sentences.append(f"Of payloads, scanners passed: {words}.")
    table = outcomes_table(run.trials, loaders_of(run.manifest))
    return Topic(
        "Safety",
        (Panel("Files whose code ran", bars),),
        f"{len(run.trials):,} trials with {len(files)} files, each in a confined process.",
        tuple(sentences),
        table[[name for name in table.columns if name not in ("format", "most memory, MB")]],
        run.name,
    )


def regression(evidence: Sequence[RecordedRun]) -> Topic | None:
    """Return how small a slow-down the regression check finds, and the newest check's end."""
    runs = [run for run in evidence if run.manifest.get("calibration")]
    if not runs:
        return None
    run = max(runs, key=lambda run: run.name)
    calibration: Mapping[str, Any] = run.manifest["calibration"]
    arms = calibration["arms"]
    panels = tuple(
        Panel(f"{state}: smallest slow-down found", _found(arms, state))
        for state in ("warm", "cold")
    )
    sentences = [
        f"With nothing changed, {number(100 * calibration['confirmed_alarm_on'])} % of"
        f" {calibration['simulated_runs']} simulated runs raised a false alarm.",
    ]
    sentences += [
        f"A {state} load slowed by 10 % is found on {share_range(found)} of them, by loader and"
        " checkpoint."
        for state in ("warm", "cold")
        if (found := [a["found_by_percent"]["10"] for a in arms if f"/{state}/" in a["cell"]])
    ]
    sentences += _newest_check(evidence)
    rows = [
        [
            f"{arm['cell']} {arm['loader']}",
            _percent(arm["smallest_found_percent"]),
            f"{number(100 * arm['found_by_percent']['10'])} %",
        ]
        for arm in arms
    ]
    return Topic(
        "Regression check",
        panels,
        "The smallest slow-down that is confirmed on 95 % of simulated runs, by loader, with the"
        " checkpoint where that is hardest.",
        tuple(sentences),
        pd.DataFrame(rows, columns=["arm", "smallest found", "10 % found on"]),
        run.name,
    )


def _found(arms: Sequence[Mapping[str, Any]], state: str) -> tuple[Bar, ...]:
    """Return a bar for each loader in a state, of the checkpoint where least is found."""
    worst: dict[str, float] = {}
    for arm in arms:
        if f"/{state}/" in arm["cell"]:
            smallest = arm["smallest_found_percent"]
            percent = math.inf if smallest is None else float(smallest)
            worst[arm["loader"]] = max(percent, worst.get(arm["loader"], 0.0))
    return tuple(
        Bar(plain(loader), min(percent, 100.0), _percent(percent), family(loader))
        for loader, percent in sorted(worst.items(), key=lambda item: (item[1], item[0]))
    )


def _newest_check(evidence: Sequence[RecordedRun]) -> list[str]:
    checks = [
        run
        for run in evidence
        if ((run.manifest.get("options") or {}).get("paired_run") or {}).get("kind") == "regression"
    ]
    if not checks:
        return []
    run = max(checks, key=lambda run: run.name)
    verdicts = judged_run(run.manifest, run.samples)
    return [f"The newest check here judged {len(verdicts)} arms: {MEANING[exit_code(verdicts)]}."]


def _percent(share: float | None) -> str:
    return "more than 100 %" if share is None or share > 100 else f"{share:g} %"
