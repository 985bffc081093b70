"""The part of a page about environments side by side: the verdict on every arm, what each release
did, and how sure the machine is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.recorded_run import RecordedRun
from harness.analysis.regression import Verdict
from harness.analysis.regression_verdicts import (
    ArmVerdict,
    exit_code,
    judged_run,
    stored_thresholds,
    verdicts_row,
)
from harness.records.verdicts import MEANING
from harness.report.figures.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    VERMILLION,
    Drawn,
    heading,
    rows,
)
from harness.report.format import spread
from harness.report.section_writer import SectionWriter
from harness.report.sections import calibration, release_history
from harness.report.tables import markdown

_COLOURS = {
    Verdict.SLOWER: VERMILLION,
    Verdict.FASTER: BLUE,
    Verdict.SAME: GREY,
    Verdict.AMBIGUOUS: ORANGE,
    Verdict.INSUFFICIENT: PURPLE,
    Verdict.MISSING: PURPLE,
}
_READING = """
The time to *ready* of the candidate divided by that of the baseline, taken within blocks. Above 1,
the candidate is slower. An interval holds the true median ratio with 95 % confidence. `slower`
needs the whole interval of a clock or a counter beyond its threshold. Counters are processor time,
bytes from storage, page faults and memory. Fresh pairs from newly started servers must then confirm
it by the same metric, or the verdict is `ambiguous`. `faster` needs the whole interval below its
threshold, and `same` needs it between the thresholds. `insufficient` means fewer than six pairs.
`missing` means no valid sample or wrong tensors. Neither is ever a pass.
""".strip()


def summary(manifest: Mapping[str, Any], arm_verdict: Sequence[ArmVerdict], code: int) -> str:
    """Return the verdicts in Markdown, gravest first, for a terminal and for the page of a CI
    job.
    """
    paired_run = manifest["options"]["paired_run"]
    counts = {
        verdict: sum(arm.change.verdict == verdict for arm in arm_verdict) for verdict in _COLOURS
    }
    message = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    grave = [
        verdict
        for verdict in arm_verdict
        if verdict.change.verdict not in (Verdict.SAME, Verdict.FASTER)
    ]
    lines = [
        (
            f"**{MEANING[code].capitalize()}** (exit code {code}): {_sides(manifest)}."
            f" {message or 'no cell'}."
        ),
        "",
    ]
    if note := paired_run.get("cold_storage"):
        lines += [f"{note[0].upper()}{note[1:]}.", ""]
    if paired_run.get("thresholds"):
        lines += [f"Thresholds: {paired_run['thresholds']}.", ""]
    shown = sorted(grave, key=lambda entry: list(_COLOURS).index(entry.change.verdict))
    if shown:
        lines.append(markdown(_table(shown)))
    return "\n".join(lines)


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return what a run of environments side by side found, the answer first."""
    manifest, samples = run.manifest, run.samples
    kind = manifest["options"]["paired_run"]["kind"]
    if kind == "history":
        return release_history.section(writer, run)
    if kind == "calibration":
        return calibration.section(writer, run)
    verdicts = judged_run(manifest, samples)
    frame = pd.DataFrame([verdicts_row(verdict) for verdict in verdicts])
    return [
        writer.heading("The answer"),
        summary(manifest, verdicts, exit_code(verdicts)),
        writer.heading("Every verdict"),
        _READING,
        *writer.figure(lambda: _draw(verdicts, manifest)),
        markdown(_table(verdicts)),
        f"As CSV: {writer.table('verdicts', frame)}",
    ]


def _sides(manifest: Mapping[str, Any]) -> str:
    paired_run, environments = manifest["options"]["paired_run"], manifest["environments"]

    def described(role: str) -> str:
        name = paired_run[role]
        versions = (environments.get(name) or {}).get("versions") or {}
        text = ", ".join(
            f"{package} {versions[package]}"
            for package in ("torch", "safetensors")
            if versions.get(package)
        )
        slowed = ", ".join(
            f"{loader} slowed by {percent} %"
            for loader, percent in (paired_run.get("slowed_percent") or {}).items()
        )
        return (
            f"{name} ({text}{f'; {slowed}' if slowed and role == 'candidate' else ''})"
            if text
            else name
        )

    return f"{described('candidate')} against {described('baseline')}"


def _table(verdicts: Sequence[ArmVerdict]) -> pd.DataFrame:
    lines = [
        (
            f"{verdict.cell} {verdict.loader}",
            verdict.change.verdict,
            spread(verdict.change.ratio, "none"),
            verdict.change.ratio.count if verdict.change.ratio else 0,
            verdict.change.reason,
        )
        for verdict in verdicts
    ]
    return pd.DataFrame(
        lines, columns=["arm", "verdict", "ready, candidate over baseline", "pairs", "why"]
    )


def _draw(
    verdict: Sequence[ArmVerdict], manifest: Mapping[str, Any]
) -> tuple[Figure, Drawn] | None:
    shown = [arm for arm in verdict if arm.change.ratio and arm.change.ratio.low is not None]
    if not shown:
        return None
    arm_verdict = stored_thresholds(manifest)
    figure = Figure(figsize=(8.4, 0.27 * len(shown) + 1.5), layout="constrained")
    axes = figure.subplots()
    rows(
        axes,
        [
            f"{arm.cell.removeprefix('full-load/').removesuffix('/cpu')}  {arm.loader}"
            for arm in shown
        ],
    )
    axes.axvline(1.0, color=INK, linewidth=0.8)
    for row, arm in enumerate(shown):
        limit = 1 + arm_verdict(arm.cell, arm.loader).clocks["ready_s"]
        axes.barh(row, limit - 1 / limit, left=1 / limit, height=0.8, color="#EEEEEE", zorder=0)
        ratio = arm.change.ratio
        assert ratio and ratio.low is not None and ratio.high is not None
        axes.plot(
            [ratio.low, ratio.high], [row, row], color=_COLOURS[arm.change.verdict], linewidth=1.6
        )
        axes.plot([ratio.median], [row], "o", color=_COLOURS[arm.change.verdict], markersize=4.5)
    axes.set_xlabel("ready, candidate over baseline, within blocks (above 1 is slower)")
    slower = sum(arm.change.verdict == Verdict.SLOWER for arm in verdict)
    heading(
        figure,
        f"Candidate over baseline, {slower} of {len(verdict)} arms confirmed slower",
    )
    reading = (
        "a dot is the median ratio, and a line is its interval. The grey bar is how much this "
        "machine varies when a release is compared with itself. Red is confirmed slower, blue is "
        "faster, orange is undecided"
    )
    return figure, Drawn(
        "verdicts.svg",
        f"The ratio of candidate over baseline with its interval for {len(shown)} arms",
        reading,
    )
