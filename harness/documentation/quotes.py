"""Figures and tables that come from the reference runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from harness.analysis.claims import ClaimVerdict, by_machine, judged_here
from harness.analysis.hostile import ScannerResult, accounts, files_of, loaders_of, scanned
from harness.analysis.machines import Machine
from harness.analysis.quoted_figures import (
    AnyFigure,
    Quote,
    RatioFigure,
    RequestsFigure,
    TimeFigure,
    quote,
    read_figures,
)
from harness.analysis.recorded_run import RecordedRun, gather
from harness.analysis.statistics import Estimate
from harness.documentation.tables import run_link, table
from harness.errors import WeighbridgeError, unknown_name
from harness.machine.shapes import shape_named
from harness.records.run_directory import REFERENCE, RunDirectory
from harness.records.trials import Harm, Outcome
from harness.report.format import significant, spread, time_text
from harness.report.verdict_text import share_range
from harness.scenarios import AS_IS, STORAGE

FIGURES = Path(__file__).with_name("figures.toml")
_FORMS = ("short", "interval", "sooner", "plain")


class ReferenceRuns:
    """The committed runs, read once and only where a page quotes one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._figures = read_figures(FIGURES)

    @cached_property
    def runs(self) -> list[RecordedRun]:
        """Every reference run, oldest first."""
        return gather(RunDirectory.all_in(self._root / REFERENCE))

    @cached_property
    def machines(self) -> list[Machine]:
        """Their machines, the one with most samples first."""
        return by_machine(self.runs)

    @cache  # noqa: B019  # there is one object, and it lives as long as the program
    def quote(self, name: str) -> Quote:
        """Return the figure of a name; raises `WeighbridgeError` where there is none."""
        if name not in self._figures:
            raise unknown_name("figure", name, self._figures)
        return quote(self._figures[name], self.machines)

    def text(self, asked: str) -> str:
        """Return a figure as text: `NAME` or `NAME, FORM`, a form being one of `_FORMS`."""
        name, _, form = (part.strip() for part in asked.partition(","))
        return in_words(self.quote(name), form or "short")

    def figures_table(self) -> str:
        """Return a table of every quoted figure with the cell and run that it is of."""
        rows = []
        for name, figure in self._figures.items():
            value = self.quote(name)
            shown = in_words(value, "interval")
            rows.append((f"`{name}`", figure.says, shown, f"`{figure.cell}`", run_link(value.run)))
        return table(("figure", "what it is", "value", "cell", "run"), rows)

    def claims(self) -> str:
        """Return how many claims there are and how many have each verdict, in a few words."""
        counts = Counter(claim.verdict for claim in judged_here(self.runs))
        words = [f"{counts[v]} {_of_several(v)}" for v in ClaimVerdict if counts[v]]
        return f"of {sum(counts.values())} claims, {', '.join(words[:-1])} and {words[-1]}"

    def hostile_outcomes(self) -> str:
        """Return a table of how each loader met the hostile files."""
        run = self._hostile
        rows = [
            (f"`{of.loader}`", *(str(of.counts.get(outcome, 0)) for outcome in Outcome))
            for of in accounts(run.trials, loaders_of(run.manifest))
        ]
        return table(("loader", *Outcome), rows)

    def scanner_results(self) -> str:
        """Return a table of what each scanner made of the files with a payload and the rest."""
        run = self._hostile
        groups = scanned(run.trials, files_of(run.manifest))
        rows = [
            (
                f"`{name}`",
                *(str(of["code"][result]) for result in _OF_A_PAYLOAD),
                str(of["harmless"][ScannerResult.FALSE_ALARM]),
            )
            for name, of in groups.items()
        ]
        return table(("scanner", *_OF_A_PAYLOAD, "false alarms"), rows)

    def regression_rules(self) -> str:
        """Return a table of how the regression check and other tools' rules judge the simulated
        runs of the newest calibration.
        """
        calibration = self._calibrations[-1]
        if "rivals" not in calibration:
            raise WeighbridgeError(
                "the newest calibration was not judged by other tools' rules; run `python"
                " docs/studies/other_rules.py RUN` with its folder"
            )
        own = {
            state: mean(
                arm["found_by_percent"]["10"]
                for arm in calibration["arms"]
                if f"/{state}/" in arm["cell"]
            )
            for state in ("warm", "cold")
        }
        rows = [("this check", calibration["confirmed_alarm_on"], own["warm"], own["cold"])]
        rows += [
            (
                name,
                rule["alarm_on_runs"],
                rule["found_10_percent_warm"],
                rule["found_10_percent_cold"],
            )
            for name, rule in calibration["rivals"].items()
        ]
        rows.sort(key=lambda row: (row[1], -row[2]))
        heads = (
            "rule",
            f"false alarm, of {calibration['simulated_runs']} runs",
            "10 % found, warm",
            "10 % found, cold",
        )
        return table(
            heads, [(name, *(f"{100 * share:.0f} %" for share in shares)) for name, *shares in rows]
        )

    def tenth_found_first(self) -> str:
        """Return on how many simulated runs of the oldest calibration 10 % was found, warm."""
        arms = self._calibrations[0]["arms"]
        warm = [arm["found_by_percent"]["10"] for arm in arms if "/warm/" in arm["cell"]]
        return share_range(warm)

    @property
    def _calibrations(self) -> list[Mapping[str, Any]]:
        found = [found for run in self.runs if (found := run.manifest.get("calibration"))]
        if not found:
            raise WeighbridgeError(
                "no reference run is a calibration; `nox -s calibrate` makes one"
            )
        return found

    def two_boots(self) -> str:
        """Return a table of the cold loads of one shape, measured after each of two boots."""
        found = [run for run in self.runs if "-storage-boot-" in run.name]
        if len(found) != 2:
            raise WeighbridgeError(
                f"the table of two boots needs two reference runs storage-boot-*, not {len(found)}"
            )
        first, second = found
        (before,), (after,) = first.cells_of(STORAGE), second.cells_of(STORAGE)
        rows = []
        for arm in before.arms:
            again = after.arm(arm.loader)
            if arm.ready is None or again is None or again.ready is None:
                continue
            apart = again.ready.median / arm.ready.median - 1
            times = (spread(of.ready, "not measured") for of in (arm, again))
            rows.append((f"`{arm.loader}`", *times, f"{100 * apart:+.1f} %"))
        heads = ("loader", "first boot, s", "second boot, s", "apart")
        runs = f"Of runs {run_link(first.name)} and {run_link(second.name)}."
        return f"{table(heads, rows)}\n\n{runs}"

    def storage_grid(self) -> str:
        """Return a table of mapping against three other ways, by storage and readahead.

        It is of the run with most cells on storage, and of as many the newest.
        """
        run = max(self.runs, key=lambda run: (len(run.cells_of(STORAGE)), run.name))
        rows = [
            (
                "as it is" if cell.key.storage == AS_IS else shape_words(cell.key.storage),
                f"{cell.key.read_ahead_kb} KiB",
                *(_spread(figure.estimate(cell)) for figure in _OF_STORAGE.values()),
            )
            for cell in run.cells_of(STORAGE)
        ]
        return "\n\n".join(
            (table(("storage", "readahead", *_OF_STORAGE), rows), f"Of run {run_link(run.name)}.")
        )

    def payloads(self) -> str:
        """Return how many of the hostile files would run code."""
        return str(sum(f.harm == Harm.CODE for f in files_of(self._hostile.manifest).values()))

    def bytes_of(self, file: str) -> str:
        """Return the size of a hostile file in bytes."""
        return str(files_of(self._hostile.manifest)[file].bytes)

    def ran(self, loader: str) -> str:
        """Return of how many hostile files a loader ran the code."""
        for of in accounts(self._hostile.trials, loaders_of(self._hostile.manifest)):
            if of.loader == loader:
                return str(of.counts.get(Outcome.RAN, 0))
        raise WeighbridgeError(f"no reference run gave {loader} the hostile files")

    def hostile_run(self) -> str:
        """Return the name of the run with the hostile files, as a link to its manifest."""
        return run_link(self._hostile.name)

    @cached_property
    def _hostile(self) -> RecordedRun:
        """The newest run of those with most trials."""
        return max(self.runs, key=lambda run: (len(run.trials), run.name))


_OF_A_PAYLOAD = (
    ScannerResult.FOUND,
    ScannerResult.MISSED,
    ScannerResult.SILENT,
    ScannerResult.BROKE,
)
"""What a scanner can make of a file that runs code."""


_MAPPED = "safetensors-load-file"
_OF_STORAGE: dict[str, AnyFigure] = {
    "mapped over read": RatioFigure(cell="", says="", over=_MAPPED, under="safetensors-pread"),
    "a read's request over a mapping's": RequestsFigure(
        cell="", says="", over="safetensors-pread", under=_MAPPED
    ),
    "mapped over prefetched": RatioFigure(
        cell="", says="", over=_MAPPED, under="safetensors-prefetch-cache"
    ),
    "mapped over the whole file read first": RatioFigure(
        cell="", says="", over=_MAPPED, under="safetensors-load-bytes"
    ),
}
"""The columns of the table by storage."""


def shape_words(storage: str) -> str:
    """Return the storage of a cell in words, without how many requests it answers at once."""
    parts = shape_named(storage).words.split(", ")
    return ", ".join(part for part in parts if "at once" not in part)


def _spread(value: Estimate | None) -> str:
    if value is None:
        return "not measured"
    return "too few loads" if value.low is None else spread(value, "")


def in_words(quoted: Quote, form: str) -> str:
    """Return a figure as text.

    `short` is the median with two significant digits, `plain` the same with three, `interval` adds
    the interval and the number of pairs, and `sooner` says by how many per cent the first loader
    is sooner or later.
    """
    value = quoted.estimate
    assert value.low is not None and value.high is not None
    if form not in _FORMS:
        raise unknown_name("form of a figure", form, _FORMS)
    if form == "sooner":
        return _sooner(value)
    short = form == "short"
    if isinstance(quoted.figure, TimeFigure):
        text = time_text(_two_digits(value.median) if short else value.median)
        text = _plain_time(text) if short else text
        counted = f"{value.count} samples"
        ends = [time_text(end) for end in (value.low, value.high)]
    else:
        text = significant(_two_digits(value.median) if short else value.median)
        text = f"{_plain(text) if short else text} times"
        counted = f"{value.count} pairs"
        ends = [significant(end) for end in (value.low, value.high)]
    return f"{text} ({ends[0]} to {ends[1]}, {counted})" if form == "interval" else text


def _of_several(verdict: str) -> str:
    """Return a verdict as it is said of several claims."""
    return verdict.replace("holds", "hold").replace("does not", "do not")


def _sooner(value: Estimate) -> str:
    """Return a ratio as per cent sooner or later, with its interval.

    An interval that holds 1 is called inconclusive.
    """
    assert value.low is not None and value.high is not None
    median = _against_one(value.median)
    if value.low <= 1 <= value.high:
        ends = f"{_against_one(value.high)} to {_against_one(value.low)}"
        return f"{median} (inconclusive: {ends}, {value.count} pairs)"
    near, far = sorted(abs(100 * (end - 1)) for end in (value.low, value.high))
    return f"{median} ({near:.0f} to {far:.0f} %, {value.count} pairs)"


def _against_one(ratio: float) -> str:
    return f"{abs(100 * (ratio - 1)):.0f} % {'sooner' if ratio < 1 else 'later'}"


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")


def _plain_time(text: str) -> str:
    number, _, unit = text.partition(" ")
    return f"{_plain(number)} {unit}"


def _plain(text: str) -> str:
    """Return a number without the zeros behind its point."""
    return text.rstrip("0").rstrip(".") if "." in text else text
