"""The rules that judge a test of a claim from loads and conversions."""

from __future__ import annotations

from harness.analysis.arms import paired_ratios, wrong
from harness.analysis.claim_findings import (
    ClaimTest,
    Finding,
    LimitedTest,
    Recorded,
    RuleOutcome,
    counted,
    nothing_measured,
    within_limits,
)
from harness.analysis.memory_limits import floor_of
from harness.analysis.payback import payback
from harness.analysis.statistics import Estimate, estimate
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.late_storage import kept_late
from harness.records.sample import Sample


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
        return within_limits(run, estimate(ratios), self.limits(figure), "pairs", "times")


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
        return within_limits(
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
                else nothing_measured(run, self.cell, 0)
            )
        smallest = Estimate(
            floor.limit_bytes / size,
            (floor.failed_bytes or 0) / size,
            floor.limit_bytes / size,
            floor.tries,
        )
        return within_limits(run, smallest, self.limits(figure), "tries", "times")


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
        return within_limits(run, paid.loads, self.limits(figure), "conversions", "loads")


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
            return nothing_measured(run, self.cell, len(checked))
        same = sum(bool(sample.content_ok) for sample in checked)
        return counted(run, same == len(checked), same, len(checked), "conversions", "the same")


def _valid(run: Recorded, cell: str, loader: str) -> list[Sample] | Finding:
    """Return a loader's valid samples of a cell, or the finding that there are none, with the
    reason that the run recorded.
    """
    samples = _of_loader(run, cell, loader)
    if isinstance(samples, Finding):
        return samples
    valid = [sample for sample in samples if sample.valid]
    return valid if valid else nothing_measured(run, cell, 0)


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


def _value(sample: Sample, name: str) -> float | None:
    """Return a field of a sample, `phases.NAME` of its phases."""
    whole, _, part = name.partition(".")
    measured = getattr(sample, whole)
    value: float | None = (measured or {}).get(part) if part else measured
    return value
