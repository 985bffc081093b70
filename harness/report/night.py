"""The part of a page about environments side by side: the verdict on every arm, what each release did, and how sure the machine is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.measure.sample import Sample
from harness.records.run_directory import RunDirectory
from harness.report.drawing import BLUE, GREY, INK, ORANGE, PURPLE, VERMILLION, Drawn, heading, rows
from harness.report.history import history_sections
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.words import spread
from harness.verdicts.regression import (
    AMBIGUOUS,
    FASTER,
    INSUFFICIENT,
    MEANING,
    MISSING,
    SAME,
    SLOWER,
    VERDICTS_FILE,
    Judged,
    exit_code,
    judged_run,
    stored_thresholds,
)

_COLOURS = {SLOWER: VERMILLION, FASTER: BLUE, SAME: GREY, AMBIGUOUS: ORANGE, INSUFFICIENT: PURPLE, MISSING: PURPLE}
_READING = """
Candidate over baseline until *ready*, taken block by block: above 1 is slower. An interval holds the true median ratio with 95 % confidence. `slower` needs
the whole interval of a clock beyond its threshold, or that of a counter (processor time, bytes from storage, page faults, memory), and then fresh
pairs, by servers started anew, that say the same by the same witness; without them it is `ambiguous`. `faster` and `same` need the whole interval
below or within. `insufficient` is fewer than six pairs, and `missing` no valid sample or wrong tensors: neither is ever a pass.
""".strip()


def write_verdicts(run: RunDirectory, found: Sequence[Judged], code: int) -> None:
    """Write `verdicts.json` into a run's directory: the exit code, and every verdict with its reason."""
    content = {"exit_code": code, "meaning": MEANING[code], "verdicts": [verdicts_row(one) for one in found]}
    (run.path / VERDICTS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def verdicts_row(one: Judged) -> dict[str, Any]:
    """Return a verdict as plain figures."""
    ratio = one.change.ratio
    return {
        "cell": one.cell,
        "loader": one.loader,
        "verdict": one.change.verdict,
        "reason": one.change.reason,
        "witness": one.change.witness,
        "ratio_ready": ratio.median if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "pairs": ratio.count if ratio else 0,
        "first_verdict": one.first.verdict,
        "fresh_verdict": one.fresh.verdict if one.fresh else None,
    }


def summary(manifest: Mapping[str, Any], found: Sequence[Judged], code: int) -> str:
    """Return the verdicts in Markdown, gravest first, for a terminal and for the page of a CI job."""
    night = manifest["options"]["night"]
    counts = {verdict: sum(one.change.verdict == verdict for one in found) for verdict in _COLOURS}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    grave = [one for one in found if one.change.verdict not in (SAME, FASTER)]
    lines = [f"**{MEANING[code].capitalize()}** (exit code {code}): {_sides(manifest)}. {told or 'no cell'}.", ""]
    if night.get("thresholds"):
        lines += [f"Thresholds: {night['thresholds']}.", ""]
    shown = sorted(grave, key=lambda one: list(_COLOURS).index(one.change.verdict))
    if shown:
        lines.append(markdown(_table(shown)))
    return "\n".join(lines)


def night_sections(place: Place, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> list[list[str]]:
    """Return the sections of a run of environments side by side, each as blocks of Markdown, the answer first."""
    kind = manifest["options"]["night"]["kind"]
    if kind == "history":
        return history_sections(place, manifest, samples)
    if kind == "calibration":
        from harness.report.calibration import calibration_sections

        return calibration_sections(place, manifest)
    found = judged_run(manifest, samples)
    frame = pd.DataFrame([verdicts_row(one) for one in found])
    return [
        [place.heading("The answer"), summary(manifest, found, exit_code(found))],
        [
            place.heading("Every verdict"),
            _READING,
            *place.figure(lambda: _draw(found, manifest)),
            markdown(_table(found)),
            f"In plain figures: {place.table('verdicts', frame)}",
        ],
    ]


def _sides(manifest: Mapping[str, Any]) -> str:
    night, environments = manifest["options"]["night"], manifest["environments"]

    def told(role: str) -> str:
        name = night[role]
        versions = (environments.get(name) or {}).get("versions") or {}
        held = ", ".join(f"{package} {versions[package]}" for package in ("torch", "safetensors") if versions.get(package))
        slowed = ", ".join(f"{loader} slowed by {percent} %" for loader, percent in (night.get("planted_percent") or {}).items())
        return f"{name} ({held}{f'; {slowed}' if slowed and role == 'candidate' else ''})" if held else name

    return f"{told('candidate')} against {told('baseline')}"


def _table(found: Sequence[Judged]) -> pd.DataFrame:
    lines = [
        (
            f"{one.cell} {one.loader}",
            one.change.verdict,
            spread(one.change.ratio, "none"),
            one.change.ratio.count if one.change.ratio else 0,
            one.change.reason,
        )
        for one in found
    ]
    return pd.DataFrame(lines, columns=["arm", "verdict", "ready, candidate over baseline", "pairs", "why"])


def _draw(found: Sequence[Judged], manifest: Mapping[str, Any]) -> tuple[Figure, Drawn] | None:
    shown = [one for one in found if one.change.ratio and one.change.ratio.low is not None]
    if not shown:
        return None
    held = stored_thresholds(manifest)
    figure = Figure(figsize=(8.4, 0.27 * len(shown) + 1.5), layout="constrained")
    axes = figure.subplots()
    rows(axes, [f"{one.cell.removeprefix('full-load/').removesuffix('/cpu')}  {one.loader}" for one in shown])
    axes.axvline(1.0, color=INK, linewidth=0.8)
    for row, one in enumerate(shown):
        limit = 1 + held(one.cell, one.loader).clocks["ready_s"]
        axes.barh(row, limit - 1 / limit, left=1 / limit, height=0.8, color="#EEEEEE", zorder=0)
        ratio = one.change.ratio
        assert ratio and ratio.low is not None and ratio.high is not None
        axes.plot([ratio.low, ratio.high], [row, row], color=_COLOURS[one.change.verdict], linewidth=1.6)
        axes.plot([ratio.median], [row], "o", color=_COLOURS[one.change.verdict], markersize=4.5)
    axes.set_xlabel("ready, candidate over baseline, within blocks (above 1 is slower)")
    heading(figure, f"Candidate over baseline, {sum(one.change.verdict == SLOWER for one in found)} of {len(found)} arms confirmed slower")
    reading = "a dot is the median ratio and a line its interval; the grey bar is what this machine does to a thing compared with itself; red is confirmed slower, blue faster, orange not told"
    return figure, Drawn("verdicts.svg", f"The ratio of candidate over baseline with its interval for {len(shown)} arms", reading)
