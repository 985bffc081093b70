"""The part of a page about many releases side by side: since when the claim's ratio holds, and by which clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.measure.sample import Sample
from harness.report.cells import CLAIMED_BYTES
from harness.report.drawing import BLUE, INK, SKY, VERMILLION, Drawn, heading, plain_log
from harness.report.figures import CLAIMED_S
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.words import significant, spread
from harness.verdicts.cells import by_cell, paired_ratios
from harness.verdicts.statistics import Estimate, estimate

_CLAIM = tuple(CLAIMED_S)
CLAIMED = CLAIMED_S[_CLAIM[0]] / CLAIMED_S[_CLAIM[1]]
"""How many times as long the page under test says that the first of these loaders takes."""
_CLOCKS = {"returned": SKY, "ready": BLUE}


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


def history_sections(place: Place, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> list[list[str]]:
    """Return the section of a run of many releases, as blocks of Markdown."""
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
            f"`{_CLAIM[0]}` over `{_CLAIM[1]}`, by release of the library, every release measured in the same blocks of this one run. {_answer(frame, manifest)}",
            *place.figure(lambda: _draw(frame, releases, _claimed(manifest))),
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


def _answer(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Return since when the claim's ratio holds, by either clock, of the checkpoint whose size is closest to the claim's."""
    name = _claimed(manifest)
    said = [f"The page under test says {CLAIMED:.3g} times for 500 MB (172.75 ms over 3.49 ms)."]
    for clock in ("returned", "ready"):
        part = frame[(frame["checkpoint"] == name) & (frame["cache state"] == "warm") & (frame["clock"] == clock)]
        if part.empty:
            continue
        lowest, highest = part.loc[part["median"].idxmin()], part.loc[part["median"].idxmax()]
        held = [row["release"] for row in part.to_dict("records") if row["high"] >= CLAIMED]
        holds = f"it holds with {', '.join(held)}" if held else "it holds with none of these releases"
        said.append(
            f"Of {name}, warm, until *{clock}*, {holds}: from {significant(lowest['median'])} ({lowest['release']}) to {significant(highest['median'])} ({highest['release']})."
        )
    return " ".join(said)


def _claimed(manifest: Mapping[str, Any]) -> str | None:
    sizes = {name: abs(found["bytes"] - CLAIMED_BYTES) for name, found in manifest["checkpoints"].items()}
    return min(sizes, key=lambda name: sizes[name], default=None)


def _draw(frame: pd.DataFrame, releases: Sequence[str], claimed: str | None) -> tuple[Figure, Drawn] | None:
    if frame.empty:
        return None
    checkpoints, states = list(dict.fromkeys(frame["checkpoint"])), list(dict.fromkeys(frame["cache state"]))
    figure = Figure(figsize=(1.2 + 3.6 * len(states), 1.2 + 2.4 * len(checkpoints)), layout="constrained")
    grid = figure.subplots(len(checkpoints), len(states), squeeze=False, sharex=True)
    for line, checkpoint in zip(grid, checkpoints, strict=True):
        for axes, state in zip(line, states, strict=True):
            panel = frame[(frame["checkpoint"] == checkpoint) & (frame["cache state"] == state)]
            axes.set_title(f"{checkpoint}, {state}")
            axes.set_yscale("log")
            axes.axhline(1.0, color=INK, linewidth=0.8)
            if checkpoint == claimed and state == "warm":
                axes.axhline(CLAIMED, color=VERMILLION, linewidth=1.0, linestyle="--", label="the claim")
            for clock, colour in _CLOCKS.items():
                part = panel[panel["clock"] == clock]
                x = [releases.index(release) for release in part["release"]]
                low, high = part["low"].fillna(part["median"]), part["high"].fillna(part["median"])
                bars = [part["median"] - low, high - part["median"]]
                axes.errorbar(x, part["median"], yerr=bars, marker="o", markersize=4, capsize=2, color=colour)
            top = CLAIMED if checkpoint == claimed and state == "warm" else 1.0
            axes.set_ylim(
                min(panel["low"].fillna(panel["median"]).min(), 1.0) / 1.15, max(panel["high"].fillna(panel["median"]).max(), top) * 1.15
            )
            plain_log(axes.yaxis)
            axes.set_xticks(range(len(releases)), [release.partition("==")[2] for release in releases], rotation=30)
    for line in grid:
        line[0].set_ylabel("torch.load over load_file (log)")
    shown = [Line2D([], [], color=colour, marker="o", markersize=4) for colour in _CLOCKS.values()]
    figure.legend([*shown, Line2D([], [], color=VERMILLION, linestyle="--")], [*_CLOCKS, "the claim"], loc="outside lower center", ncols=3)
    heading(figure, f"How many times as long torch.load takes, by release of {releases[0].partition('==')[0]}")
    reading = (
        "above the line at 1 safetensors is faster; every release was measured in the same blocks of one run, so that the points of a panel may be compared; "
        "a bar is the interval; the dashed line is what the page under test says of 500 MB"
    )
    low, high = significant(frame["median"].min()), significant(frame["median"].max())
    return figure, Drawn("history.svg", f"The ratio of torch.load over load_file by release: {low} to {high}", reading)
