"""The part of a page about environments side by side: the verdict on every arm, what each release did, and how sure the machine is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.measure.sample import Sample
from harness.records.run_directory import RunDirectory
from harness.report.drawing import BLUE, GREY, INK, ORANGE, PURPLE, SKY, VERMILLION, Drawn, heading, rows
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.words import significant, spread
from harness.verdicts.cells import by_cell, paired_ratios
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
from harness.verdicts.statistics import Estimate, estimate

_COLOURS = {SLOWER: VERMILLION, FASTER: BLUE, SAME: GREY, AMBIGUOUS: ORANGE, INSUFFICIENT: PURPLE, MISSING: PURPLE}
_READING = """
Candidate over baseline until *ready*, taken block by block: above 1 is slower. An interval holds the true median ratio with 95 % confidence. `slower` needs
the whole interval of a clock beyond its threshold, or that of a counter (processor time, bytes from storage, page faults, memory), and then fresh
pairs, by servers started anew, that say the same by the same witness; without them it is `ambiguous`. `faster` and `same` need the whole interval
below or within. `insufficient` is fewer than six pairs, and `missing` no valid sample or wrong tensors: neither is ever a pass.
""".strip()
_CLAIM = ("torch-load", "safetensors-load-file")


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
        return _history(place, manifest, samples)
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


def releases_without_a_figure(manifest: Mapping[str, Any], samples: Sequence[Sample]) -> list[str]:
    """Return which releases of a history have an arm without a valid sample, each with the arm."""
    valid = {(sample.environment, sample.loader, sample.cache_state) for sample in samples if sample.valid}
    asked = [(entry, loader) for entry in manifest["cells"] for loader in entry["arms"]]
    return [
        f"{release}: {entry['name']} {loader}"
        for release in manifest["options"]["night"]["releases"]
        for entry, loader in asked
        if (release, loader, entry["cache_state"]) not in valid
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


def _history(place: Place, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> list[list[str]]:
    releases = manifest["options"]["night"]["releases"]
    frame = history_frame(releases, samples)
    table = frame.assign(
        ratio=[spread(Estimate(*row), "none") for row in frame[["median", "low", "high", "pairs"]].itertuples(index=False)]
    )
    shown = table.pivot_table(
        index=["checkpoint", "cache state", "release"], columns="clock", values="ratio", aggfunc="first", sort=False
    ).reset_index()
    failed = manifest["options"]["night"].get("not_installed") or {}
    without = releases_without_a_figure(manifest, samples)
    lost = [f"- {release} could not be installed: {why}" for release, why in failed.items()] + [
        f"- no valid sample: {one}" for one in without
    ]
    return [
        [
            place.heading("The answer"),
            f"`{_CLAIM[0]}` over `{_CLAIM[1]}`, by release of the library, every release measured in the same blocks of this one run. The page under test says 49.5 times for 500 MB (172.75 ms over 3.49 ms).",
            *place.figure(lambda: _draw_history(frame, releases)),
            markdown(shown.rename_axis(None, axis=1)),
            f"In plain figures: {place.table('history', frame)}",
            "\n".join(lost) if lost else "Every release that was asked for has a figure.",
        ]
    ]


def history_frame(releases: Sequence[str], samples: Sequence[Sample]) -> pd.DataFrame:
    """Return the claim's ratio by release, cell and clock, with its interval and number of pairs."""
    lines = []
    for cell, taken in by_cell(samples).items():
        for release in releases:
            over, under = ([one for one in taken if one.environment == release and one.loader == loader] for loader in _CLAIM)
            for clock in ("returned", "ready"):
                found = estimate(paired_ratios(over, under, lambda sample, clock=clock: getattr(sample, f"{clock}_s")))  # type: ignore[misc]
                if found:
                    lines.append((cell.checkpoint, cell.cache_state, release, clock, found.median, found.low, found.high, found.count))
    return pd.DataFrame(lines, columns=["checkpoint", "cache state", "release", "clock", "median", "low", "high", "pairs"])


def _draw_history(frame: pd.DataFrame, releases: Sequence[str]) -> tuple[Figure, Drawn] | None:
    if frame.empty:
        return None
    checkpoints, states = list(dict.fromkeys(frame["checkpoint"])), list(dict.fromkeys(frame["cache state"]))
    figure = Figure(figsize=(1.2 + 3.6 * len(states), 1.0 + 2.5 * len(checkpoints)), layout="constrained")
    grid = figure.subplots(len(checkpoints), len(states), squeeze=False, sharex=True)
    for line, checkpoint in zip(grid, checkpoints, strict=True):
        for axes, state in zip(line, states, strict=True):
            axes.set_title(f"{checkpoint}, {state}")
            axes.set_yscale("log")
            axes.axhline(1.0, color=INK, linewidth=0.8)
            for clock, colour in (("returned", SKY), ("ready", BLUE)):
                part = frame[(frame["checkpoint"] == checkpoint) & (frame["cache state"] == state) & (frame["clock"] == clock)]
                x = [releases.index(release) for release in part["release"]]
                low, high = part["low"].fillna(part["median"]), part["high"].fillna(part["median"])
                axes.errorbar(
                    x,
                    part["median"],
                    yerr=[part["median"] - low, high - part["median"]],
                    marker="o",
                    markersize=4,
                    capsize=2,
                    color=colour,
                    label=clock,
                )
            axes.set_xticks(range(len(releases)), [release.partition("==")[2] for release in releases], rotation=30)
    for line in grid:
        line[0].set_ylabel("torch.load over load_file")
    grid[0][0].legend()
    heading(figure, f"How many times as long torch.load takes, by release of {releases[0].partition('==')[0]}")
    reading = "above the line at 1 safetensors is faster; every release was measured in the same blocks of one run, so that the points of a panel may be compared; pale is until the call returned, dark until every page was ready"
    return figure, Drawn(
        "history.svg",
        f"The ratio of torch.load over load_file by release: {significant(frame['median'].min())} to {significant(frame['median'].max())}",
        reading,
    )
