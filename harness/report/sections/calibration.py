"""The part of a page about a machine compared with itself: how often its simulated runs would cry
wolf, and how small a slow-down they find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.recorded_run import RecordedRun
from harness.analysis.statistics import Estimate
from harness.report.figures.style import BLUE, GREY, VERMILLION, Drawn, heading, rows
from harness.report.format import significant, spread
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown
from harness.report.verdict_text import share_range

_READING = """
The reference was installed twice and compared with itself. Simulated runs are drawn from those
blocks. Each takes a stretch of blocks from a random start, as long as a run's time allows. A second
stretch gives the fresh pairs, and a coin toss decides which side is the candidate. The gate judges
each simulated run like a real one. A slow-down makes both clocks of the candidate longer by that
share and changes no counter. So only the clocks can find it. *Smallest found* is the smallest
slow-down that was confirmed on 95 % of simulated runs, as were all larger ones.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the sections about a calibration, the answer first.

    What it found stands in its manifest.
    """
    manifest = run.manifest
    calibration = manifest.get("calibration")
    if not calibration:
        return [
            writer.heading("The answer"),
            "This calibration was not finished, so no threshold uses it.",
        ]
    frame = calibration_frame(manifest)
    held_out = calibration["held_out"]
    warm = [arm for arm in calibration["arms"] if "/warm/" in arm["cell"]]
    ten = share_range([arm["found_by_percent"]["10"] for arm in warm] or [0.0])
    answer = (
        f"On {_percent(calibration['confirmed_alarm_on'])} of {calibration['simulated_runs']} "
        "simulated runs, a regression was confirmed somewhere in the matrix of "
        f"{len(calibration['arms'])} arms although nothing had changed. Before fresh pairs it was "
        f"{_percent(calibration['first_alarm_on'])}, and "
        f"{_percent(held_out['confirmed_alarm_on'])} of {held_out['simulated_runs']} simulated "
        "runs with thresholds from the other half of the blocks. A warm arm slowed by 10 % was "
        f"found on {ten} of them, by loader and checkpoint."
    )
    injected = pd.DataFrame(calibration["injected"])
    return [
        writer.heading("The answer"),
        answer,
        writer.heading("Each arm"),
        _READING,
        *writer.figure(lambda: _draw(calibration["arms"])),
        markdown(_table(frame)),
        f"As CSV: {writer.table('calibration', frame)}",
        writer.heading("Real slow-downs"),
        (
            "Each block also measured every loader once with a known slow-down. The slow-down is "
            "a sleep at the end of the call and of the page touch. The gate judged those pairs "
            "alone, although there are few for each share:"
        ),
        markdown(_injected_table(injected)),
        f"As CSV: {writer.table('injected', injected)}",
    ]


def calibration_frame(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each arm: its thresholds, its ratio to itself, and on which share of
    simulated runs each slow-down was confirmed.
    """
    lines = [
        {
            "cell": arm["cell"],
            "loader": arm["loader"],
            "pairs": arm["pairs"],
            "ratio": arm["ratio"],
            "low": arm["low"],
            "high": arm["high"],
            **{
                f"threshold {clock}": share
                for clock, share in manifest["thresholds"][arm["cell"]][arm["loader"]].items()
            },
            "smallest found, %": arm["smallest_found_percent"],
            **{f"found at {percent} %": rate for percent, rate in arm["found_by_percent"].items()},
        }
        for arm in manifest["calibration"]["arms"]
    ]
    return pd.DataFrame(lines)


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    lines = [
        (
            f"{row['cell']} {row['loader']}",
            spread(Estimate(row["ratio"], row["low"], row["high"], row["pairs"]), "none"),
            (
                f"{significant(100 * row['threshold ready_s'])},"
                f" {significant(100 * row['threshold returned_s'])}"
            ),
            _percent(row["found at 0 %"]),
            _percent(row["found at 10 %"]),
            (
                "more than 100 %"
                if pd.isna(row["smallest found, %"])
                else f"{row['smallest found, %']:g} %"
            ),
        )
        for row in frame.to_dict("records")
    ]
    heads = [
        "arm",
        "ready, itself over itself",
        "thresholds of ready and returned, %",
        "false alarm",
        "10 % found",
        "smallest found",
    ]
    return pd.DataFrame(lines, columns=heads)


def _injected_table(frame: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for percent, group in frame.groupby("percent"):
        for state in ("warm", "cold"):
            part = group[group["cell"].str.contains(f"/{state}/")]
            if len(part):
                ratios = sorted(part["ratio"].dropna())
                median = significant(ratios[len(ratios) // 2]) if ratios else "none"
                lines.append(
                    (
                        f"{percent} %",
                        state,
                        f"{(part['verdict'] == 'slower').sum()} of {len(part)}",
                        median,
                    )
                )
    return pd.DataFrame(
        lines, columns=["slowed by", "cache state", "arms called slower", "median ratio of ready"]
    )


def _draw(arms: Sequence[Mapping[str, Any]]) -> tuple[Figure, Drawn]:
    figure = Figure(figsize=(8.4, 0.27 * len(arms) + 1.5), layout="constrained")
    axes = figure.subplots()
    rows(
        axes,
        [
            f"{arm['cell'].removeprefix('full-load/').removesuffix('/cpu')}  {arm['loader']}"
            for arm in arms
        ],
    )
    for row, arm in enumerate(arms):
        shares = sorted(
            (float(percent), rate)
            for percent, rate in arm["found_by_percent"].items()
            if float(percent)
        )
        smallest = arm["smallest_found_percent"]
        for (percent, rate), (following, _) in zip(
            shares, [*shares[1:], (130.0, 0.0)], strict=True
        ):
            axes.barh(
                row,
                following - percent,
                left=percent,
                height=0.7,
                color=BLUE,
                alpha=max(rate, 0.03),
                linewidth=0,
            )
        if smallest:
            axes.plot([smallest], [row], "o", color=VERMILLION, markersize=5)
    axes.set_xscale("log")
    axes.axvline(10, color=GREY, linewidth=0.8)
    axes.set_xticks([2, 5, 10, 20, 50, 100], ["2 %", "5 %", "10 %", "20 %", "50 %", "100 %"])
    axes.minorticks_off()
    axes.set_xlim(2, 130)
    axes.set_xlabel("slow-down of the candidate (logarithmic)")
    heading(figure, "Share of simulated runs that find each slow-down")
    reading = (
        "a deeper blue means that more simulated runs confirm a slow-down of that size. The red "
        "dot is the smallest slow-down that is found on 95 % of simulated runs"
    )
    return figure, Drawn(
        "found.svg",
        f"Share of simulated runs that find slow-downs of 2 to 100 %, for {len(arms)} arms",
        reading,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
