"""The part of a page about a machine compared with itself: how often its nights would cry wolf, and how small a slow-down they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.report.drawing import BLUE, GREY, VERMILLION, Drawn, heading, rows
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.words import significant, spread
from harness.verdicts.statistics import Estimate

_READING = """
The reference was installed twice and compared with itself. From those blocks nights are drawn as they might have been: a stretch of blocks from a
random place on, as long as a night's time allows, and another for the fresh pairs; which side is the candidate is tossed. The gate judges each as it
would a real one. A slow-down is put in by making both of the candidate's clocks longer by that share and no counter, so what is found is found by
the clocks. *Smallest found* is the least slow-down that was confirmed on 95 % of nights, and so was every larger one.
""".strip()
_RIVALS = """
What other tools' rules say of the same nights, both sides from the same blocks, which is kinder than comparing with last night's figures. None asks for fresh
pairs. *Alarm* is on a night on which nothing had changed, anywhere in the matrix; *found* is a warm arm slowed by 10 %.
""".strip()


def calibration_sections(place: Place, manifest: Mapping[str, Any]) -> list[list[str]]:
    """Return the sections about a calibration, the answer first; what it found stands in its manifest."""
    found = manifest.get("calibration")
    if not found:
        return [[place.heading("The answer"), "This calibration was not finished: no threshold rests on it."]]
    frame = calibration_frame(manifest)
    held = found["held_out"]
    warm = [arm for arm in found["arms"] if "/warm/" in arm["cell"]]
    ten = min((arm["found_by_percent"]["10"] for arm in warm), default=0.0)
    answer = (
        f"On {_percent(found['confirmed_alarm_on'])} of {found['nights']} simulated nights a regression was confirmed anywhere in the matrix of {len(found['arms'])} "
        f"arms, though nothing had changed ({_percent(found['first_alarm_on'])} before fresh pairs were asked; {_percent(held['confirmed_alarm_on'])} of {held['nights']} "
        f"nights under thresholds from the other half of the blocks). A warm arm slowed by 10 % was found on at least {_percent(ten)} of them."
    )
    injected = pd.DataFrame(found["injected"])
    return [
        [place.heading("The answer"), answer],
        [
            place.heading("Each arm"),
            _READING,
            *place.figure(lambda: _draw(found["arms"])),
            markdown(_table(frame)),
            f"In plain figures: {place.table('calibration', frame)}",
        ],
        [
            place.heading("Slow-downs that were really there"),
            "Each block also held every loader once slowed by a known share, slept at the end of its call and of its walk. What the gate says of those pairs alone, "
            "few as they are for each share:",
            markdown(_injected_table(injected)),
            f"In plain figures: {place.table('injected', injected)}",
        ],
        [place.heading("Other rules"), _RIVALS, markdown(_rivals_table(found))],
    ]


def calibration_frame(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each arm: its thresholds, its ratio to itself, and on which share of nights each slow-down was confirmed."""
    lines = [
        {
            "cell": arm["cell"],
            "loader": arm["loader"],
            "pairs": arm["pairs"],
            "ratio": arm["ratio"],
            "low": arm["low"],
            "high": arm["high"],
            **{f"threshold {clock}": share for clock, share in manifest["thresholds"][arm["cell"]][arm["loader"]].items()},
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
            f"{significant(100 * row['threshold ready_s'])}, {significant(100 * row['threshold returned_s'])}",
            _percent(row["found at 0 %"]),
            _percent(row["found at 10 %"]),
            "more than 100 %" if pd.isna(row["smallest found, %"]) else f"{row['smallest found, %']:g} %",
        )
        for row in frame.to_dict("records")
    ]
    heads = ["arm", "ready, itself over itself", "thresholds of ready and returned, %", "false alarm", "10 % found", "smallest found"]
    return pd.DataFrame(lines, columns=heads)


def _injected_table(frame: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for percent, group in frame.groupby("percent"):
        for state in ("warm", "cold"):
            part = group[group["cell"].str.contains(f"/{state}/")]
            if len(part):
                ratios = sorted(part["ratio"].dropna())
                median = significant(ratios[len(ratios) // 2]) if ratios else "none"
                lines.append((f"{percent} %", state, f"{(part['verdict'] == 'slower').sum()} of {len(part)}", median))
    return pd.DataFrame(lines, columns=["slowed by", "cache state", "arms called slower", "median ratio of ready"])


def _rivals_table(found: Mapping[str, Any]) -> pd.DataFrame:
    warm = [arm["found_by_percent"]["10"] for arm in found["arms"] if "/warm/" in arm["cell"]]
    each = sum(arm["found_by_percent"]["0"] for arm in found["arms"]) / len(found["arms"])
    own = ("**this gate**", _percent(found["confirmed_alarm_on"]), _percent(each), _percent(sum(warm) / len(warm) if warm else 0.0))
    lines = [
        own,
        *(
            (name, _percent(one["alarm_on_nights"]), _percent(one["alarm_on_arms"]), _percent(one["found_10_percent_warm"]))
            for name, one in found["rivals"].items()
        ),
    ]
    return pd.DataFrame(lines, columns=["rule", "nights with an alarm", "arms with an alarm", "10 % found, warm"])


def _draw(arms: Sequence[Mapping[str, Any]]) -> tuple[Figure, Drawn]:
    figure = Figure(figsize=(8.4, 0.27 * len(arms) + 1.5), layout="constrained")
    axes = figure.subplots()
    rows(axes, [f"{arm['cell'].removeprefix('full-load/').removesuffix('/cpu')}  {arm['loader']}" for arm in arms])
    for row, arm in enumerate(arms):
        shares = sorted((float(percent), rate) for percent, rate in arm["found_by_percent"].items() if float(percent))
        smallest = arm["smallest_found_percent"]
        for (percent, rate), (following, _) in zip(shares, [*shares[1:], (130.0, 0.0)], strict=True):
            axes.barh(row, following - percent, left=percent, height=0.7, color=BLUE, alpha=max(rate, 0.03), linewidth=0)
        if smallest:
            axes.plot([smallest], [row], "o", color=VERMILLION, markersize=5)
    axes.set_xscale("log")
    axes.axvline(10, color=GREY, linewidth=0.8)
    axes.set_xticks([2, 5, 10, 20, 50, 100], ["2 %", "5 %", "10 %", "20 %", "50 %", "100 %"])
    axes.minorticks_off()
    axes.set_xlim(2, 130)
    axes.set_xlabel("slow-down of the candidate (logarithmic)")
    heading(figure, "On how many nights each slow-down is found")
    reading = (
        "the deeper the blue, the more nights confirm a slow-down of that size; the red dot is the smallest that is found on 95 % of nights"
    )
    return figure, Drawn("found.svg", f"On how many nights slow-downs of 2 to 100 % are found, for {len(arms)} arms", reading)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
