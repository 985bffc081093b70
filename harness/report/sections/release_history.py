"""The part of a page about many releases side by side: since when the claim's ratio holds, and by
which clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.analysis.arms import by_cell, paired_ratios
from harness.analysis.documented_figures import CLAIMED_BYTES, CLAIMED_RATIO, PICKLE, SAFETENSORS
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.statistics import Estimate, estimate
from harness.records.sample import Sample
from harness.report.figures.style import BLUE, INK, SKY, VERMILLION, Drawn, heading, plain_log
from harness.report.format import significant, spread
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown

_CLAIM = (PICKLE, SAFETENSORS)
_CLOCKS = {"returned": SKY, "ready": BLUE}


def releases_without_a_figure(manifest: Mapping[str, Any], samples: Sequence[Sample]) -> list[str]:
    """Return which releases of a history have an arm without a valid sample, each with the arm."""
    valid = {
        (sample.environment, sample.loader, sample.cache_state)
        for sample in samples
        if sample.valid
    }
    planned = [(entry, loader) for entry in manifest["cells"] for loader in entry["arms"]]
    return [
        f"{release}: {entry['name']} {loader}"
        for release in manifest["options"]["paired_run"]["releases"]
        for entry, loader in planned
        if (release, loader, entry["cache_state"]) not in valid
    ]


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the section of a run of many releases, as blocks of Markdown."""
    manifest, samples = run.manifest, run.samples
    releases = manifest["options"]["paired_run"]["releases"]
    frame = history_frame(releases, samples)
    table = frame.assign(
        ratio=[
            spread(Estimate(*row), "none")
            for row in frame[["median", "low", "high", "pairs"]].itertuples(index=False)
        ]
    )
    shown = table.pivot_table(
        index=["checkpoint", "cache state", "release"],
        columns="clock",
        values="ratio",
        aggfunc="first",
        sort=False,
    ).reset_index()
    failed = manifest["options"]["paired_run"].get("not_installed") or {}
    without = releases_without_a_figure(manifest, samples)
    lost = [f"- {release} could not be installed: {why}" for release, why in failed.items()] + [
        f"- no valid sample: {name}" for name in without
    ]
    return [
        writer.heading("The answer"),
        (
            f"`{_CLAIM[0]}` over `{_CLAIM[1]}`, by release of the library. Every release was "
            f"measured in the same blocks of this run. {_answer(frame, manifest)}"
        ),
        *writer.figure(lambda: _draw(frame, releases, _claimed(manifest))),
        markdown(shown.rename_axis(None, axis=1)),
        f"As CSV: {writer.table('history', frame)}",
        "\n".join(lost) if lost else "Every requested release has a figure.",
    ]


def history_frame(releases: Sequence[str], samples: Sequence[Sample]) -> pd.DataFrame:
    """Return the claim's ratio by release, cell and clock, with its interval and number of
    pairs.
    """
    lines = []
    for cell, cell_samples in by_cell(samples).items():
        for release in releases:
            over, under = (
                [
                    sample
                    for sample in cell_samples
                    if sample.environment == release and sample.loader == loader
                ]
                for loader in _CLAIM
            )
            for clock in ("returned", "ready"):
                interval = estimate(paired_ratios(over, under, attrgetter(f"{clock}_s")))
                if interval:
                    lines.append(
                        (
                            cell.checkpoint,
                            cell.cache_state,
                            release,
                            clock,
                            interval.median,
                            interval.low,
                            interval.high,
                            interval.count,
                        )
                    )
    return pd.DataFrame(
        lines,
        columns=["checkpoint", "cache state", "release", "clock", "median", "low", "high", "pairs"],
    )


def _answer(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Return since when the claim's ratio holds, by either clock, of the checkpoint whose size is
    closest to the claim's.
    """
    name = _claimed(manifest)
    phrases = [
        f"The page under test says {CLAIMED_RATIO:.3g} times for 500 MB (172.75 ms over 3.49 ms)."
    ]
    for clock in ("returned", "ready"):
        part = frame[
            (frame["checkpoint"] == name)
            & (frame["cache state"] == "warm")
            & (frame["clock"] == clock)
        ]
        if part.empty:
            continue
        lowest, highest = part.loc[part["median"].idxmin()], part.loc[part["median"].idxmax()]
        blocks = [row["release"] for row in part.to_dict("records") if row["high"] >= CLAIMED_RATIO]
        holds = (
            f"it holds with {', '.join(blocks)}"
            if blocks
            else "it holds with none of these releases"
        )
        phrases.append(
            f"Of {name}, warm, until *{clock}*, {holds}: from {significant(lowest['median'])}"
            f" ({lowest['release']}) to {significant(highest['median'])} ({highest['release']})."
        )
    return " ".join(phrases)


def _claimed(manifest: Mapping[str, Any]) -> str | None:
    sizes = {
        name: abs(checkpoint["bytes"] - CLAIMED_BYTES)
        for name, checkpoint in manifest["checkpoints"].items()
    }
    return min(sizes, key=lambda name: sizes[name], default=None)


def _draw(
    frame: pd.DataFrame, releases: Sequence[str], claimed: str | None
) -> tuple[Figure, Drawn] | None:
    if frame.empty:
        return None
    checkpoints, states = (
        list(dict.fromkeys(frame["checkpoint"])),
        list(dict.fromkeys(frame["cache state"])),
    )
    figure = Figure(
        figsize=(1.2 + 3.6 * len(states), 1.2 + 2.4 * len(checkpoints)), layout="constrained"
    )
    grid = figure.subplots(len(checkpoints), len(states), squeeze=False, sharex=True)
    for line, checkpoint in zip(grid, checkpoints, strict=True):
        for axes, state in zip(line, states, strict=True):
            panel = frame[(frame["checkpoint"] == checkpoint) & (frame["cache state"] == state)]
            axes.set_title(f"{checkpoint}, {state}")
            axes.set_yscale("log")
            axes.axhline(1.0, color=INK, linewidth=0.8)
            if checkpoint == claimed and state == "warm":
                axes.axhline(
                    CLAIMED_RATIO,
                    color=VERMILLION,
                    linewidth=1.0,
                    linestyle="--",
                    label="the claim",
                )
            for clock, colour in _CLOCKS.items():
                part = panel[panel["clock"] == clock]
                x = [releases.index(release) for release in part["release"]]
                low, high = part["low"].fillna(part["median"]), part["high"].fillna(part["median"])
                bars = [part["median"] - low, high - part["median"]]
                axes.errorbar(
                    x, part["median"], yerr=bars, marker="o", markersize=4, capsize=2, color=colour
                )
            top = CLAIMED_RATIO if checkpoint == claimed and state == "warm" else 1.0
            axes.set_ylim(
                min(panel["low"].fillna(panel["median"]).min(), 1.0) / 1.15,
                max(panel["high"].fillna(panel["median"]).max(), top) * 1.15,
            )
            plain_log(axes.yaxis)
            axes.set_xticks(
                range(len(releases)),
                [release.partition("==")[2] for release in releases],
                rotation=30,
            )
    for line in grid:
        line[0].set_ylabel("torch.load over load_file (log)")
    shown = [Line2D([], [], color=colour, marker="o", markersize=4) for colour in _CLOCKS.values()]
    figure.legend(
        [*shown, Line2D([], [], color=VERMILLION, linestyle="--")],
        [*_CLOCKS, "the claim"],
        loc="outside lower center",
        ncols=3,
    )
    heading(
        figure,
        f"How many times as long torch.load takes, by release of {releases[0].partition('==')[0]}",
    )
    reading = (
        "above the line at 1, safetensors is faster. Every release was measured in the same "
        "blocks of one run, so the points of a panel can be compared. A bar is the interval. The "
        "dashed line is the documented figure for 500 MB"
    )
    low, high = significant(frame["median"].min()), significant(frame["median"].max())
    return figure, Drawn(
        "history.svg",
        f"The ratio of torch.load over load_file by release: {low} to {high}",
        reading,
    )
