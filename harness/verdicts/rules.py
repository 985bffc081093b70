"""The rules that turn what a run recorded into a finding: whether one test of a claim holds, with the figure that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from harness.measure.cell import Cell
from harness.measure.experiment import MINIMUM_BLOCKS
from harness.measure.outcome import REFUSED
from harness.measure.sample import Sample
from harness.records.checks import Check
from harness.records.meetings import HOSTILE_FILES, HOSTILE_SCAN, Meeting
from harness.verdicts.cells import by_cell, paired_ratios, wrong
from harness.verdicts.hostile import MISSED, SURPRISES, files_of, growth, guests_of, seen_by_scanner, surprise
from harness.verdicts.promises import BROKEN, KEPT
from harness.verdicts.statistics import Estimate, estimate

HOLDS, FAILS, NOT_TOLD, NOT_MEASURED = "holds", "does not", "not told", "not measured"


@dataclass(frozen=True)
class Limits:
    """Where the whole interval of a figure has to lie, and that in words."""

    at_least: float | None
    at_most: float | None
    words: str


@dataclass(frozen=True)
class Finding:
    """What one test found: whether it holds, its figure with the interval, on how many of what it rests, and in which run."""

    outcome: str
    figure: Estimate | None = None
    count: int = 0
    of_what: str = ""
    run: str | None = None
    unit: str = ""
    """Of the figure: times, s, or loads."""
    short: str = ""
    """What was found in a few words."""
    reason: str | None = None
    """Why nothing was measured."""


@dataclass(frozen=True)
class Recorded:
    """What a run holds that rules look at."""

    run: str
    manifest: Mapping[str, Any]
    cells: Mapping[str, Sequence[Sample]]
    """Its samples by the name of their cell."""
    checks: Sequence[Check] = ()
    meetings: Sequence[Meeting] = ()

    @classmethod
    def of(
        cls,
        run: str,
        manifest: Mapping[str, Any],
        samples: Iterable[Sample],
        checks: Sequence[Check] = (),
        meetings: Sequence[Meeting] = (),
    ) -> Recorded:
        """Return what a run recorded, its samples put to their cells."""
        return cls(run, manifest, {cell.name: taken for cell, taken in by_cell(samples).items()}, checks, meetings)


def criterion(asked: Mapping[str, Any], figure: float | None) -> Limits:
    """Return the limits that a test names; `gain` asks for at least half of the gain that the claim's figure is over 1."""
    at_least, at_most = asked.get("at_least"), asked.get("at_most")
    if asked.get("gain"):
        if figure is None:
            raise ValueError("a test that asks for the gain needs the claim's figure")
        at_least = 1 + (figure - 1) / 2
        return Limits(at_least, at_most, f"at least {at_least:.3g}, half the gain of {figure:.3g}")
    words = [f"at least {at_least:.3g}" if at_least is not None else "", f"at most {at_most:.3g}" if at_most is not None else ""]
    return Limits(at_least, at_most, " and ".join(filter(None, words)))


def within(found: Estimate, limits: Limits) -> str:
    """Return `holds` where the whole interval lies within the limits, `does not` where all of it lies outside, else `not told`."""
    if found.low is None or found.high is None:
        return NOT_MEASURED
    low_enough, high_enough = (
        limits.at_most is None or found.high <= limits.at_most,
        limits.at_least is None or found.low >= limits.at_least,
    )
    if low_enough and high_enough:
        return HOLDS
    beyond = (limits.at_most is not None and found.low > limits.at_most) or (limits.at_least is not None and found.high < limits.at_least)
    return FAILS if beyond else NOT_TOLD


def _ratio(run: Recorded, asked: Mapping[str, Any], limits: Limits) -> Finding:
    over, under = (_valid(run, asked["cell"], asked[which]) for which in ("over", "under"))
    if isinstance(over, Finding) or isinstance(under, Finding):
        return over if isinstance(over, Finding) else under  # type: ignore[return-value]
    top, bottom = asked["field"], asked.get("under_field", asked["field"])
    if top == bottom:
        ratios = paired_ratios(over, under, lambda sample: _value(sample, top))
    else:
        below = {sample.block: _value(sample, bottom) for sample in under}
        ratios = [value / base for sample in over if (base := below.get(sample.block)) and (value := _value(sample, top)) is not None]
    return _judged(run, estimate(ratios), limits, "pairs", "times")


def _field(run: Recorded, asked: Mapping[str, Any], limits: Limits) -> Finding:
    taken = _valid(run, asked["cell"], asked["loader"])
    if isinstance(taken, Finding):
        return taken
    per = asked.get("per")
    values = [
        value / (base if per else 1)
        for sample in taken
        if (base := _value(sample, per) if per else 1) and (value := _value(sample, asked["field"])) is not None
    ]
    return _judged(run, estimate(values), limits, "samples", "times" if per else "s")


def _judged(run: Recorded, found: Estimate | None, limits: Limits, of_what: str, unit: str) -> Finding:
    if found is None or found.low is None or found.high is None:
        count = found.count if found else 0
        return Finding(NOT_MEASURED, reason=f"{count} {of_what} in {run.run}, and it takes {MINIMUM_BLOCKS}")
    short = f"{found.median:.3g} {unit} [{found.low:.3g}\u2013{found.high:.3g}]"
    return Finding(within(found, limits), found, found.count, of_what, run.run, unit, short)


def _payback(run: Recorded, asked: Mapping[str, Any], limits: Limits) -> Finding:
    """Return after how many loads a conversion is paid back; the interval is of the ends that are worst and best for it."""
    parts = [
        _valid(run, *where)
        for where in ((asked["cell"], asked["loader"]), (asked["load_cell"], asked["over"]), (asked["load_cell"], asked["under"]))
    ]
    if nothing := [part for part in parts if isinstance(part, Finding)]:
        return nothing[0]
    made, slow, fast = (part for part in parts if not isinstance(part, Finding))
    base = {sample.block: _value(sample, asked["field"]) for sample in fast}
    pairs = [(top, bottom) for sample in slow if (bottom := base.get(sample.block)) and (top := _value(sample, asked["field"]))]
    costs = estimate([value for sample in made if (value := _value(sample, asked["field"])) is not None])
    savings = estimate([top - bottom for top, bottom in pairs])
    if not costs or costs.low is None or costs.high is None or not savings or savings.low is None or savings.high is None:
        return Finding(NOT_MEASURED, reason=f"too few samples of both in {run.run}")
    if savings.low <= 0:
        return Finding(
            FAILS if savings.high <= 0 else NOT_TOLD, None, costs.count, "conversions", run.run, short="a load saves nothing that is told"
        )
    return _judged(
        run,
        Estimate(costs.median / savings.median, costs.low / savings.high, costs.high / savings.low, costs.count),
        limits,
        "conversions",
        "loads",
    )


def _content(run: Recorded, asked: Mapping[str, Any], _: Limits) -> Finding:
    taken = run.cells.get(asked["cell"], ())
    of_loader = [sample for sample in taken if sample.loader == asked["loader"] and sample.content_ok is not None]
    if len(of_loader) < MINIMUM_BLOCKS:
        return _nothing(run, asked["cell"], len(of_loader))
    same = sum(bool(sample.content_ok) for sample in of_loader)
    return _counted(run, same == len(of_loader), same, len(of_loader), "conversions", "the same")


def _checks(run: Recorded, asked: Mapping[str, Any], _: Limits) -> Finding:
    found = [
        check
        for check in run.checks
        if check.claim == asked["claim"]
        and fnmatchcase(check.check, asked["like"])
        and not fnmatchcase(check.check, asked.get("unlike", ""))
    ]
    told = [check for check in found if check.outcome in (KEPT, BROKEN)]
    if not told:
        return Finding(NOT_MEASURED, reason=found[0].happened if found else None)
    kept = sum(check.outcome == KEPT for check in told)
    return _counted(run, kept == len(told), kept, len(told), "checks", "kept")


def _meetings(run: Recorded, asked: Mapping[str, Any], _: Limits) -> Finding:
    files, guests = files_of(run.manifest), guests_of(run.manifest)
    of_loaders = [
        meeting
        for meeting in run.meetings
        if meeting.scenario == HOSTILE_FILES and _matches(meeting.loader, asked["loaders"]) and _wanted(files[meeting.file], asked)
    ]
    if not of_loaders:
        return Finding(NOT_MEASURED)

    def cheap(meeting: Meeting) -> bool:
        grown = growth(meeting, guests[meeting.loader])
        return meeting.seconds <= float(asked.get("within_s", "inf")) and (grown or 0) <= float(asked.get("within_bytes", "inf"))

    def good(meeting: Meeting) -> bool:
        if asked["wanted"] == "well":
            grave = surprise(meeting, files[meeting.file], guests[meeting.loader])
            return cheap(meeting) and grave not in SURPRISES[:4]
        return bool(meeting.outcome == asked["outcome"]) and (cheap(meeting) or meeting.outcome != REFUSED)

    count = sum(map(good, of_loaders))
    holds = {"none": count == 0, "some": count > 0}.get(asked["wanted"], count == len(of_loaders))
    return _counted(run, holds, count, len(of_loaders), "meetings", asked.get("outcome", "within both"))


def _scanner(run: Recorded, asked: Mapping[str, Any], _: Limits) -> Finding:
    files = files_of(run.manifest)
    seen = [
        seen_by_scanner(meeting, files[meeting.file])
        for meeting in run.meetings
        if meeting.scenario == HOSTILE_SCAN and meeting.loader == asked["loader"] and files[meeting.file].harm == "runs code"
    ]
    missed = seen.count(MISSED)
    return _counted(run, missed == 0, missed, len(seen), "files with a payload", "passed") if seen else Finding(NOT_MEASURED)


def _counted(run: Recorded, holds: bool, count: int, total: int, of_what: str, what: str) -> Finding:
    return Finding(HOLDS if holds else FAILS, None, total, of_what, run.run, short=f"{count} of {total} {of_what} {what}")


def _valid(run: Recorded, cell: str, loader: str) -> list[Sample] | Finding:
    """Return a loader's valid samples of a cell, or the finding that there are none, with the reason that the run recorded."""
    taken = [sample for sample in run.cells.get(cell, ()) if sample.loader == loader]
    if (fault := wrong(taken)) is not None:
        return Finding(NOT_MEASURED, reason=f"{loader} handed back wrong tensors in {run.run}: {fault}")
    valid = [sample for sample in taken if sample.valid]
    return valid if valid else _nothing(run, cell, 0)


def _nothing(run: Recorded, cell: str, count: int) -> Finding:
    entries = [entry for entry in run.manifest.get("cells") or () if (known := Cell.recorded(entry)) and known.name == cell]
    reasons = [str(entry["reason"]) for entry in entries if entry.get("reason")]
    few = f"{count} of it in {run.run}, and it takes {MINIMUM_BLOCKS}" if count else None
    return Finding(NOT_MEASURED, reason=next(iter(reasons), few))


def _value(sample: Sample, name: str) -> float | None:
    """Return a field of a sample, `phases.NAME` of its phases."""
    whole, _, part = name.partition(".")
    found = getattr(sample, whole)
    value: float | None = (found or {}).get(part) if part else found
    return value


def _matches(name: str, patterns: str | Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


def _wanted(file: Any, asked: Mapping[str, Any]) -> bool:
    named = [file.name in asked["files"]] if "files" in asked else []
    return all([*named, *(getattr(file, what) == asked[what] for what in ("harm", "family") if what in asked)])


Rule = Callable[[Recorded, Mapping[str, Any], Limits], Finding]
RULES: dict[str, Rule] = {
    "ratio": _ratio,
    "field": _field,
    "checks": _checks,
    "meetings": _meetings,
    "scanner": _scanner,
    "content": _content,
    "payback": _payback,
}
"""Every rule by the name that `claims.toml` gives it."""

LIMITS = ("at_least", "at_most", "gain")


@dataclass(frozen=True)
class Keys:
    """The keys of a test by one rule: those it must have, those it may have, and whether it must have a limit (one of `LIMITS`)."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    limited: bool = False

    def problem(self, asked: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the keys of a test, or None."""
        known = (*self.required, *self.optional, *(LIMITS if self.limited else ()))
        if unknown := [name for name in asked if name not in known]:
            return f"unknown key {unknown[0]!r}; there are: {', '.join(known)}"
        if lacking := [name for name in self.required if name not in asked]:
            return f"no {lacking[0]!r}, which its rule needs"
        limits = [name for name in LIMITS if name in asked]
        if self.limited and not limits:
            return f"no limit, so that any figure would hold; it needs one of {', '.join(LIMITS)}"
        if wrong_kind := [name for name in ("at_least", "at_most") if not isinstance(asked.get(name, 0.0), int | float)]:
            return f"{wrong_kind[0]!r} is {asked[wrong_kind[0]]!r} and no number"
        return None


KEYS = {
    "ratio": Keys(("cell", "over", "under", "field"), ("under_field",), limited=True),
    "field": Keys(("cell", "loader", "field"), ("per",), limited=True),
    "checks": Keys(("claim", "like"), ("unlike",)),
    "meetings": Keys(("loaders", "wanted"), ("outcome", "harm", "family", "files", "within_s", "within_bytes")),
    "scanner": Keys(("loader",)),
    "content": Keys(("cell", "loader")),
    "payback": Keys(("cell", "loader", "load_cell", "over", "under", "field"), limited=True),
}
"""What a test by each rule is told: a misspelt limit would otherwise be no limit, and the claim would hold."""
