"""The part of a page that lays two runs of one machine over each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path

from harness.report.drawing import BLUE, INK, VERMILLION, Drawn, heading, plain_log, room_on_log
from harness.report.evidence import Evidence
from harness.report.machines import machines_of
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.words import spread
from harness.verdicts.agreement import Shared, shared_ratios
from harness.verdicts.cells import ArmSummary
from harness.verdicts.statistics import Estimate

_NONE = "No two runs here share a ratio on one machine; a second run of the same cells on one of these machines would show how far a run repeats."


@dataclass(frozen=True)
class _Pair:
    machine: str
    a: Evidence
    b: Evidence
    shared: list[Shared]

    @property
    def disagreeing(self) -> list[Shared]:
        return [one for one in self.shared if not one.agree]


def agreement_section(place: Place, evidence: Sequence[Evidence]) -> list[str]:
    """Return how two runs of each machine agree, as blocks of Markdown, their figures and tables written; nights are left aside.

    Of a machine's pairs under one kernel, and then of those under two, one of different days is preferred, and then the one that shares the
    most ratios.
    """
    blocks = [place.heading("Two runs of one machine")]
    pairs = _pairs([one for one in evidence if not one.night])
    if not pairs:
        return [*blocks, _NONE]
    for name, pair in pairs.items():
        agreeing = len(pair.shared) - len(pair.disagreeing)
        blocks.append(
            f"Runs [{pair.a.name}]({pair.a.name}.md) and [{pair.b.name}]({pair.b.name}.md) were taken on the same machine ({pair.machine}){_when(pair)}. Of {len(pair.shared)} ratios that both know with "
            f"an interval **{agreeing} agree** ({100 * agreeing / len(pair.shared):.1f} %): their intervals overlap."
        )
        blocks += place.figure(lambda pair=pair, name=name: _draw(pair, f"{name}.svg"))  # type: ignore[misc]
        if pair.disagreeing:
            blocks += ["Those that do not:", markdown(_table(pair))]
        blocks.append(f"In plain figures, all of them: {place.table(name, _frame(pair))}")
    return blocks


def _pairs(evidence: Sequence[Evidence]) -> dict[str, _Pair]:
    """Return of each machine a pair taken under one kernel and one taken under two, as far as there are such, by the name of their figure."""
    named: dict[str, _Pair] = {}
    for machine in machines_of(evidence):
        pairs = [
            _Pair(machine.name, a, b, shared_ratios(_arms(a), _arms(b))) for a, b in itertools.combinations(machine.runs, 2) if _alike(a, b)
        ]
        for name, one_kernel in (("agreement", True), ("agreement-other-kernel", False)):
            of_kind = [pair for pair in pairs if pair.shared and _one_kernel(pair) == one_kernel]
            if of_kind:
                number = next(number for number in itertools.count(1) if _numbered(name, number) not in named)
                named[_numbered(name, number)] = max(of_kind, key=_preferred)
    return named


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _preferred(pair: _Pair) -> tuple[bool, int, str, str]:
    return _day(pair.a) != _day(pair.b), len(pair.shared), pair.a.name, pair.b.name


def _one_kernel(pair: _Pair) -> bool:
    return len({one.manifest["machine"].get("kernel") for one in (pair.a, pair.b)}) == 1


def _alike(a: Evidence, b: Evidence) -> bool:
    """Return whether no checkpoint has other content in one run than in the other."""
    theirs = b.manifest.get("checkpoints") or {}
    return all(
        found.get("digest") == theirs[name].get("digest") for name, found in (a.manifest.get("checkpoints") or {}).items() if name in theirs
    )


def _arms(one: Evidence) -> list[ArmSummary]:
    return [arm for cell in one.cells for arm in cell.arms]


def _day(one: Evidence) -> str:
    return str(one.manifest.get("created_at") or "")[:10]


def _when(pair: _Pair) -> str:
    times = [str(one.manifest.get("created_at") or "")[:16].replace("T", " ") for one in (pair.a, pair.b)]
    when = f", on {times[0]} and on {times[1]} (UTC)" if all(times) else ""
    kernels = [str((one.manifest.get("machine") or {}).get("kernel")) for one in (pair.a, pair.b)]
    if _one_kernel(pair):
        return when
    commits = [str((one.manifest.get("git") or {}).get("commit"))[:12] for one in (pair.a, pair.b)]
    return f"{when}, but under kernel {kernels[0]} and {kernels[1]}, by commits {commits[0]} and {commits[1]} of this suite"


def _table(pair: _Pair) -> pd.DataFrame:
    rows = [
        (str(number), one.cell, one.loader, one.clock, spread(one.a, ""), spread(one.b, ""))
        for number, one in enumerate(pair.disagreeing, 1)
    ]
    return pd.DataFrame(rows, columns=["number", "cell", "loader", "clock", f"ratio in {pair.a.name}", f"ratio in {pair.b.name}"])


def _frame(pair: _Pair) -> pd.DataFrame:
    rows = [(one.cell, one.loader, one.clock, *_figures(one.a), *_figures(one.b), one.agree) for one in pair.shared]
    ratios = [f"{name}_{which}" for which in ("a", "b") for name in ("ratio", "ratio_low", "ratio_high", "pairs")]
    return pd.DataFrame(rows, columns=["cell", "loader", "clock", *ratios, "agree"]).assign(run_a=pair.a.name, run_b=pair.b.name)


def _figures(found: Estimate) -> tuple[float, float | None, float | None, int]:
    return found.median, found.low, found.high, found.count


def _draw(pair: _Pair, file: str) -> tuple[Figure, Drawn]:
    figure = Figure(figsize=(7.2, 7.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = [end for one in pair.shared for found in (one.a, one.b) for end in (found.low, found.high) if end]
    room_on_log(axes, ends)
    axes.set_ylim(axes.get_xlim())
    axes.set_aspect("equal")
    axes.plot(axes.get_xlim(), axes.get_xlim(), color=INK, linewidth=0.9, zorder=1)
    for agree, colour, marker, size in ((True, BLUE, "o", 3.5), (False, VERMILLION, "D", 4.5)):
        of_kind = [one for one in pair.shared if one.agree == agree]
        across, up = ([getattr(one, run).median for one in of_kind] for run in ("a", "b"))
        axes.errorbar(
            across, up, xerr=_bars([one.a for one in of_kind]), yerr=_bars([one.b for one in of_kind]), linestyle="", color=colour,
            marker=marker, markersize=size, elinewidth=0.5 if agree else 1.0, alpha=0.55 if agree else 1.0, mew=0, zorder=2 if agree else 3,
        )  # fmt: skip
    _label(axes, pair.disagreeing)
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.set_xlabel(f"ratio in run {pair.a.name} (logarithmic)")
    axes.set_ylabel(f"ratio in run {pair.b.name} (logarithmic)")
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=4, linewidth=0.8, label="the intervals overlap"),
        *([Line2D([], [], color=VERMILLION, marker="D", markersize=5, linewidth=1.0, label="they do not")] if pair.disagreeing else []),
        Line2D([], [], color=INK, linewidth=0.9, label="the same in both"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    heading(figure, "Every ratio that two runs of one machine share")
    reading = (
        "each mark is a loader's time over that of its cell's reference loader, in one run across and in the other up, with both intervals; on the "
        "line the two runs say the same. "
        + (
            "Diamonds stand where the intervals do not overlap; the table names them by number."
            if pair.disagreeing
            else "All intervals overlap."
        )
    )
    alt = f"{len(pair.shared)} ratios of run {pair.a.name} against those of run {pair.b.name}, {len(pair.disagreeing)} without overlap"
    return figure, Drawn(file, alt, reading)


def _bars(found: Sequence[Estimate]) -> list[list[float]]:
    return [[one.median - (one.low or one.median) for one in found], [(one.high or one.median) - one.median for one in found]]


def _label(axes: Axes, disagreeing: Sequence[Shared]) -> None:
    """Write beside each mark that stands off the number of its row in the table, further from the line where another is in the way."""
    low, high = axes.get_xlim()
    points = 430 / math.log10(high / low)  # of a decade, about
    taken: list[tuple[float, float]] = []
    for number, one in enumerate(disagreeing, 1):
        side = 1 if one.b.median < one.a.median else -1
        at = math.log10(one.a.median) * points, math.log10(one.b.median) * points
        away = ((8.0 * side * steps, -8.0 * side * steps) for steps in itertools.count(1))
        offset = next(by for by in away if all(math.dist((at[0] + by[0], at[1] + by[1]), other) > 11 for other in taken))
        taken.append((at[0] + offset[0], at[1] + offset[1]))
        # A mark of its own joins the two: an arrow is cut to fit by trying, and ends elsewhere by the last digit of a place.
        reach = max(map(abs, offset))
        joint = Path([(offset[0] * by / reach, offset[1] * by / reach) for by in (2, reach - 4)])
        axes.plot([one.a.median], [one.b.median], marker=joint, markersize=2 * (reach - 4), mew=0.4, color=VERMILLION)
        axes.annotate(
            str(number), (one.a.median, one.b.median), xytext=offset, textcoords="offset points", fontsize=8, ha="center", va="center",
            color="#9A4300", fontweight="bold",
        )  # fmt: skip
