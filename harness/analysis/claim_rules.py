"""The rules that judge one test of a claim from what a run recorded.

Each rule is a record of its own keys in `claims.toml`. An unknown key, a missing one or a missing
limit is an error when the file is read: a limit that nobody reads would let any figure hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from string import Formatter
from typing import Any, Literal

import msgspec

from harness.analysis.arms import by_cell, paired_ratios, wrong
from harness.analysis.hostile import (
    SURPRISES,
    File,
    ScannerResult,
    files_of,
    growth,
    loaders_of,
    seen_by_scanner,
    surprise,
)
from harness.analysis.memory_limits import floor_of
from harness.analysis.payback import payback
from harness.analysis.promises import PromiseResult
from harness.analysis.statistics import Estimate, estimate
from harness.records.cell import MINIMUM_BLOCKS, Cell
from harness.records.checks import Check
from harness.records.late_storage import kept_late
from harness.records.sample import Sample
from harness.records.trials import Harm, Outcome, Trial
from harness.scenarios import HOSTILE_FILES, HOSTILE_SCAN


class RuleOutcome(StrEnum):
    """How one test of a claim ends."""

    HOLDS = "holds"
    FAILS = "does not"
    INCONCLUSIVE = "inconclusive"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Limits:
    """Where the whole interval of a figure has to lie, and that in words.

    One of the two is given.
    """

    at_least: float | None
    at_most: float | None
    words: str

    def __post_init__(self) -> None:
        """Refuse limits that any figure would meet."""
        if self.at_least is None and self.at_most is None:
            raise ValueError("no limit, so that any figure would hold")

    def judge(self, figure: Estimate) -> RuleOutcome:
        """Return whether the whole interval lies within the limits, all of it outside, or
        neither.
        """
        if figure.low is None or figure.high is None:
            return RuleOutcome.NOT_MEASURED
        least, most = self.at_least, self.at_most
        if (most is None or figure.high <= most) and (least is None or figure.low >= least):
            return RuleOutcome.HOLDS
        beyond = (most is not None and figure.low > most) or (
            least is not None and figure.high < least
        )
        return RuleOutcome.FAILS if beyond else RuleOutcome.INCONCLUSIVE


@dataclass(frozen=True)
class Finding:
    """What one test found: whether it holds, its figure with the interval, on how many of what it
    rests, and in which run.
    """

    outcome: RuleOutcome
    figure: Estimate | None = None
    count: int = 0
    of_what: str = ""
    run: str | None = None
    unit: str = ""
    """Of the figure: times, s, or loads."""
    short: str = ""
    """What was found in a few words."""
    hits: int | None = None
    """Of a count: how many of `count` ended as `counted` says."""
    counted: str = ""
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
    trials: Sequence[Trial] = ()

    @classmethod
    def of(
        cls,
        run: str,
        manifest: Mapping[str, Any],
        samples: Iterable[Sample],
        checks: Sequence[Check] = (),
        trials: Sequence[Trial] = (),
    ) -> Recorded:
        """Return what a run recorded, its samples put to their cells."""
        return cls(
            run,
            manifest,
            {cell.name: of_cell for cell, of_cell in by_cell(samples).items()},
            checks,
            trials,
        )


class ClaimTest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule"
):
    """One test of a claim. Its subclass is its rule, and holds what the rule is told."""

    says: str
    measure: str
    """What takes its samples: the name of a `measure` in `claims.toml`."""
    side: str | None = None
    """What it looks at, in a few words; tests with the same side share a phrase of the verdict."""
    reads: str | None = None
    """How that phrase gives the figure, None for the rule's own way: a text with names of
    `PLACES`.
    """
    condition: str | None = None
    """Under which condition it holds or not; None where the claim needs it always."""
    aside: bool = False
    """Whether it is shown beside the others and decides nothing."""
    headline: Literal["returned", "ready", "first load"] | None = None
    """Which figure of the index page's first sentences it gives, None where it gives none."""

    @property
    def phrase(self) -> str:
        """How a verdict's sentence gives its figure: `reads`, or its rule's own way."""
        return self.reads or "{hits} of {total} {of_what} {counted}"

    @property
    def name(self) -> str:
        """What a verdict's sentence calls it."""
        return self.side or self.condition or self.says

    def criterion(self, figure: float | None) -> str:
        """Return in words what is asked of the figure; `figure` is the claim's own."""
        return "all or none"

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return what a run says of this test."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        """Refuse a `reads` that names what there is not."""
        check_reads(self.reads)


PLACES = (
    "speed",
    "slowness",
    "times",
    "share",
    "time",
    "loads",
    "hits",
    "total",
    "of_what",
    "counted",
)
"""What a `reads` may name. `speed` is that of the second loader relative to the first, `slowness`
that of the first relative to the second.
"""


def check_reads(reads: str | None) -> None:
    """Raise `ValueError` where a `reads` names what there is not."""
    named = {name for _, name, _, _ in Formatter().parse(reads or "") if name is not None}
    if unknown := sorted(named - set(PLACES)):
        raise ValueError(f"reads names {', '.join(unknown)}; there are: {', '.join(PLACES)}")


class LimitedTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test whose figure has limits."""

    at_least: float | None = None
    at_most: float | None = None
    gain: bool = False
    """Asks for half of the gain that the claim's figure is over 1: machines differ."""

    def __post_init__(self) -> None:
        """Refuse a test without a limit."""
        check_reads(self.reads)
        if self.at_least is None and self.at_most is None and not self.gain:
            raise ValueError(
                "no limit, so any figure would hold; it needs at_least, at_most or gain"
            )

    def limits(self, figure: float | None) -> Limits:
        """Return the limits of the figure."""
        if self.gain:
            if figure is None:
                raise ValueError("a test that asks for the gain needs the claim's figure")
            least = 1 + (figure - 1) / 2
            return Limits(
                least, self.at_most, f"at least {least:.3g}, half the gain of {figure:.3g}"
            )
        words = [
            f"{name} {limit:.3g}"
            for name, limit in (("at least", self.at_least), ("at most", self.at_most))
            if limit is not None
        ]
        return Limits(self.at_least, self.at_most, " and ".join(words))

    def criterion(self, figure: float | None) -> str:
        """Return the limits in words."""
        return self.limits(figure).words


class RatioTest(LimitedTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ratio"):
    """The `field` of one loader over that of another, within the blocks of a cell."""

    cell: str
    over: str
    under: str
    field: str
    under_field: str | None = None
    """The field of `under`, where it is another."""

    @property
    def phrase(self) -> str:
        """How a verdict's sentence gives its figure: `reads`, or as a speed."""
        return self.reads or "{speed}"

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return the median ratio, judged by the limits."""
        over, under = (_valid(run, self.cell, loader) for loader in (self.over, self.under))
        if isinstance(over, Finding):
            return over
        if isinstance(under, Finding):
            return under
        top, bottom = self.field, self.under_field or self.field
        if top == bottom:
            ratios = paired_ratios(over, under, lambda sample: _value(sample, top))
        else:
            below = {sample.block: _value(sample, bottom) for sample in under}
            ratios = [
                value / base
                for sample in over
                if (base := below.get(sample.block)) and (value := _value(sample, top)) is not None
            ]
        return _judged(run, estimate(ratios), self.limits(figure), "pairs", "times")


class FieldTest(LimitedTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="field"):
    """One loader's `field`, divided by its `per` of the same sample where there is one."""

    cell: str
    loader: str
    field: str
    per: str | None = None

    @property
    def phrase(self) -> str:
        """How a verdict's sentence gives its figure: `reads`, or as a multiple or a time."""
        return self.reads or ("{times}" if self.per else "{time}")

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return the median of the field, judged by the limits."""
        samples = _valid(run, self.cell, self.loader)
        if isinstance(samples, Finding):
            return samples
        values = [
            value / base
            for sample in samples
            if (base := _value(sample, self.per) if self.per else 1.0)
            and (value := _value(sample, self.field)) is not None
        ]
        return _judged(
            run, estimate(values), self.limits(figure), "samples", "times" if self.per else "s"
        )


class MemoryLimitTest(
    LimitedTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="memory-limit"
):
    """The smallest memory limit under which a loader still loads, as a multiple of the checkpoint.

    Its interval runs from the largest limit that failed to the smallest that did not.
    """

    cell: str
    loader: str

    @property
    def phrase(self) -> str:
        """How a verdict's sentence gives its figure: `reads`, or as a multiple."""
        return self.reads or "{times} the checkpoint"

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return the smallest limit over the checkpoint's size, judged by the limits."""
        samples = _of_loader(run, self.cell, self.loader)
        if isinstance(samples, Finding):
            return samples
        size = samples[0].bytes if samples else 0
        floor = floor_of(samples, size)
        if floor is None:
            few = f"its smallest limit is not known after {len(samples)} tries in {run.run}"
            return (
                Finding(RuleOutcome.NOT_MEASURED, reason=few)
                if samples
                else _nothing(run, self.cell, 0)
            )
        smallest = Estimate(
            floor.limit_bytes / size,
            (floor.failed_bytes or 0) / size,
            floor.limit_bytes / size,
            floor.tries,
        )
        return _judged(run, smallest, self.limits(figure), "tries", "times")


class PaybackTest(
    LimitedTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="payback"
):
    """After how many loads a conversion is paid back by what each of them saves."""

    cell: str
    loader: str
    load_cell: str
    over: str
    under: str
    field: str

    @property
    def phrase(self) -> str:
        """How a verdict's sentence gives its figure: `reads`, or as a number of loads."""
        return self.reads or "{loads}"

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return the number of loads, judged by the limits."""
        where = (
            (self.cell, self.loader),
            (self.load_cell, self.over),
            (self.load_cell, self.under),
        )
        parts = [_valid(run, cell, loader) for cell, loader in where]
        for part in parts:
            if isinstance(part, Finding):
                return part
        samples = [part for part in parts if not isinstance(part, Finding)]
        paid = payback(lambda sample: _value(sample, self.field), *samples)
        if not paid or paid.cost.low is None or paid.saving.low is None:
            return Finding(RuleOutcome.NOT_MEASURED, reason=f"too few samples of both in {run.run}")
        if paid.loads is None:
            outcome, count = (
                RuleOutcome.FAILS if paid.never else RuleOutcome.INCONCLUSIVE,
                paid.cost.count,
            )
            return Finding(
                outcome, None, count, "conversions", run.run, short="no load is known to save time"
            )
        return _judged(run, paid.loads, self.limits(figure), "conversions", "loads")


class ContentTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="content"):
    """What a conversion made was held against its source, and was the same."""

    cell: str
    loader: str

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return whether every conversion gave the source's tensors."""
        samples = run.cells.get(self.cell, ())
        checked = [
            sample
            for sample in samples
            if sample.loader == self.loader and sample.content_ok is not None
        ]
        if len(checked) < MINIMUM_BLOCKS:
            return _nothing(run, self.cell, len(checked))
        same = sum(bool(sample.content_ok) for sample in checked)
        return _counted(run, same == len(checked), same, len(checked), "conversions", "the same")


class ChecksTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="checks"):
    """Every check of `claim` whose name matches `like` and not `unlike` was kept."""

    claim: str
    like: str
    unlike: str = ""

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return whether every check that had an outcome was kept."""
        checks = [
            check
            for check in run.checks
            if check.claim == self.claim
            and fnmatchcase(check.check, self.like)
            and not fnmatchcase(check.check, self.unlike)
        ]
        tested = [
            check for check in checks if check.outcome in (PromiseResult.KEPT, PromiseResult.BROKEN)
        ]
        if not tested:
            return Finding(RuleOutcome.NOT_MEASURED, reason=checks[0].happened if checks else None)
        kept = sum(check.outcome == PromiseResult.KEPT for check in tested)
        return _counted(run, kept == len(tested), kept, len(tested), "checks", "kept")


class TrialsTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="trials"):
    """How loaders took hostile files: `none`, `some` or `all` trials ended as `outcome`.

    `well` asks that all ended without running code, crashing, starving or hanging, within
    `within_s` and `within_bytes`.
    """

    loaders: str | tuple[str, ...]
    ended: Literal["none", "some", "all", "well"]
    outcome: Outcome | None = None
    harm: Harm | None = None
    family: str | None = None
    files: tuple[str, ...] | None = None
    within_s: float = float("inf")
    within_bytes: float = float("inf")

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return how many of the trials ended as was asked."""
        files, loaders = files_of(run.manifest), loaders_of(run.manifest)
        trials = [
            trial
            for trial in run.trials
            if trial.scenario == HOSTILE_FILES
            and self._matches(trial.loader)
            and self._selects(files[trial.file])
        ]
        if not trials:
            return Finding(RuleOutcome.NOT_MEASURED)

        def cheap(trial: Trial) -> bool:
            grown = growth(trial, loaders[trial.loader])
            return trial.seconds <= self.within_s and (grown or 0) <= self.within_bytes

        def good(trial: Trial) -> bool:
            if self.ended == "well":
                return (
                    cheap(trial)
                    and surprise(trial, files[trial.file], loaders[trial.loader])
                    not in SURPRISES[:4]
                )
            return trial.outcome == self.outcome and (
                cheap(trial) or trial.outcome != Outcome.REFUSED
            )

        count = sum(map(good, trials))
        holds = {"none": count == 0, "some": count > 0}.get(self.ended, count == len(trials))
        return _counted(run, holds, count, len(trials), "trials", self.outcome or "within both")

    def _matches(self, loader: str) -> bool:
        patterns = [self.loaders] if isinstance(self.loaders, str) else self.loaders
        return any(fnmatchcase(loader, pattern) for pattern in patterns)

    def _selects(self, file: File) -> bool:
        return (
            (self.files is None or file.name in self.files)
            and (self.harm is None or file.harm == self.harm)
            and (self.family is None or file.family == self.family)
        )


class ScannerTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="scanner"):
    """A scanner passed no file with a payload."""

    loader: str

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return how many files with a payload the scanner passed."""
        files = files_of(run.manifest)
        seen = [
            seen_by_scanner(trial, files[trial.file])
            for trial in run.trials
            if trial.scenario == HOSTILE_SCAN
            and trial.loader == self.loader
            and files[trial.file].harm == Harm.CODE
        ]
        missed = seen.count(ScannerResult.MISSED)
        return (
            _counted(run, missed == 0, missed, len(seen), "files with a payload", "passed")
            if seen
            else Finding(RuleOutcome.NOT_MEASURED)
        )


AnyTest = (
    RatioTest
    | FieldTest
    | MemoryLimitTest
    | PaybackTest
    | ContentTest
    | ChecksTest
    | TrialsTest
    | ScannerTest
)
"""A test by any rule; `claims.toml` names the rule by its tag."""


def _judged(
    run: Recorded, figure: Estimate | None, limits: Limits, of_what: str, unit: str
) -> Finding:
    if figure is None or figure.low is None or figure.high is None:
        count = figure.count if figure else 0
        return Finding(
            RuleOutcome.NOT_MEASURED,
            reason=f"{count} {of_what} in {run.run}, and at least {MINIMUM_BLOCKS} are needed",
        )
    short = f"{figure.median:.3g} {unit} [{figure.low:.3g}\u2013{figure.high:.3g}]"
    return Finding(limits.judge(figure), figure, figure.count, of_what, run.run, unit, short)


def _counted(
    run: Recorded, holds: bool, count: int, total: int, of_what: str, what: str
) -> Finding:
    return Finding(
        RuleOutcome.HOLDS if holds else RuleOutcome.FAILS,
        None,
        total,
        of_what,
        run.run,
        short=f"{count} of {total} {of_what} {what}",
        hits=count,
        counted=what,
    )


def _valid(run: Recorded, cell: str, loader: str) -> list[Sample] | Finding:
    """Return a loader's valid samples of a cell, or the finding that there are none, with the
    reason that the run recorded.
    """
    samples = _of_loader(run, cell, loader)
    if isinstance(samples, Finding):
        return samples
    valid = [sample for sample in samples if sample.valid]
    return valid if valid else _nothing(run, cell, 0)


def _of_loader(run: Recorded, cell: str, loader: str) -> list[Sample] | Finding:
    """Return a loader's samples of a cell, or the finding that it handed back wrong tensors."""
    samples = [sample for sample in run.cells.get(cell, ()) if sample.loader == loader]
    if (fault := wrong(samples)) is not None:
        return Finding(
            RuleOutcome.NOT_MEASURED,
            reason=f"{loader} returned wrong tensors in {run.run}: {fault}",
        )
    if (late := kept_late(run.cells.get(cell, ())).get(loader)) is not None:
        return Finding(RuleOutcome.NOT_MEASURED, reason=f"{loader} in {run.run}: {late}")
    return samples


def _nothing(run: Recorded, cell: str, count: int) -> Finding:
    entries = [
        entry
        for entry in run.manifest.get("cells") or ()
        if (known := Cell.recorded(entry)) and known.name == cell
    ]
    reasons = [str(entry["reason"]) for entry in entries if entry.get("reason")]
    few = f"{count} of it in {run.run}, and at least {MINIMUM_BLOCKS} are needed" if count else None
    return Finding(RuleOutcome.NOT_MEASURED, reason=next(iter(reasons), few))


def _value(sample: Sample, name: str) -> float | None:
    """Return a field of a sample, `phases.NAME` of its phases."""
    whole, _, part = name.partition(".")
    measured = getattr(sample, whole)
    value: float | None = (measured or {}).get(part) if part else measured
    return value
