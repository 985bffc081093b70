"""What the samples of a cell say of each of its arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from harness.analysis.ceilings import bounding, is_ceiling
from harness.analysis.statistics import Estimate, estimate
from harness.records.cell import MINIMUM_BLOCKS, Cell
from harness.records.late_storage import kept_late
from harness.records.sample import WRONG, Sample
from harness.scenarios import FULL_LOAD, SCENARIOS

REFERENCE = SCENARIOS[FULL_LOAD].pair.reference
"""The loader that ratios of whole loads are taken to."""
PRECISION = 0.05
"""A cell is known well enough when every ratio's interval lies within this half width, relative to
its median.
"""


COUNTED = (
    "touch_s",
    "cpu_s",
    "anonymous_bytes",
    "mapped_bytes",
    "peak_rss_bytes",
    "peak_growth_bytes",
    "storage_read_bytes",
    "resident_after",
    "pss_bytes",
    "minor_faults",
    "major_faults",
    "peak_device_bytes",
)
"""Fields of a sample of which a summary holds the plain median."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm of one cell.

    Times in s, rates in bytes/s, sizes in bytes; None where nothing valid tells.
    """

    cell: Cell
    loader: str
    environment: str
    bytes: int
    tensors: int
    requested_bytes: int | None
    total: int
    valid: int
    invalid: Mapping[str, int]
    wrong: str | None
    """What was wrong with the tensors it handed back, even once; it then has no figure."""
    late: str | None
    """Why the server of shaped storage was too slow for it; it then has no figure."""
    returned: Estimate | None
    ready: Estimate | None
    module_ready: Estimate | None
    """Of a loader that makes a model: when each of its networks had run once."""
    ratio_returned: Estimate | None
    """This arm's `returned` over the reference's, within blocks."""
    ratio_ready: Estimate | None
    ratio_module_ready: Estimate | None
    ceiling: str | None
    """The ceiling of this cell that bounds it."""
    share_of_ceiling: Estimate | None
    """That ceiling's `ready` over this arm's, within blocks: 1 is as fast as the machine can bring
    up the same bytes.
    """

    amplification: Estimate | None
    """Bytes that storage gave over bytes asked for; None of a whole load."""
    phases: Mapping[str, Estimate]
    """Of whole processes: what each phase took, in s; empty of any other sample."""
    shares: Mapping[str, float]
    """The median of each phase's share of `ready`, 0 to 1, within samples."""
    touch_s: float | None
    cpu_s: float | None
    anonymous_bytes: float | None
    mapped_bytes: float | None
    peak_rss_bytes: float | None
    peak_growth_bytes: float | None
    storage_read_bytes: float | None
    resident_after: float | None
    pss_bytes: float | None
    minor_faults: float | None
    major_faults: float | None
    peak_device_bytes: float | None

    @property
    def status(self) -> str:
        """`wrong` (other tensors than the checkpoint's), `late` (the server of shaped storage set
        its time), `measured`, `insufficient` (fewer than 6 valid samples, so no interval) or
        `missing`.
        """
        if self.wrong:
            return "wrong"
        if self.late:
            return "late"
        if self.valid == 0:
            return "missing"
        return "measured" if self.valid >= MINIMUM_BLOCKS else "insufficient"

    @property
    def rate(self) -> float | None:
        """Bytes asked for per second to `ready`."""
        return (self.requested_bytes or self.bytes) / self.ready.median if self.ready else None


def by_cell(samples: Iterable[Sample]) -> dict[Cell, list[Sample]]:
    """Return the samples of each cell, cells and samples in the order taken."""
    cells: dict[tuple[Any, ...], list[Sample]] = {}
    for sample in samples:
        cells.setdefault(_key(sample), []).append(sample)
    return {Cell(*key): samples for key, samples in cells.items()}


_key = attrgetter(*(field.name for field in fields(Cell)))


def summarise(samples: Sequence[Sample]) -> list[ArmSummary]:
    """Return the summary of every arm of one cell, fastest to `ready` first, arms without a figure
    last.
    """
    arms: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        arms.setdefault((sample.loader, sample.environment), []).append(sample)
    late = kept_late(samples)
    counted = {
        arm: []
        if wrong(of_arm) or arm[0] in late
        else [sample for sample in of_arm if sample.valid]
        for arm, of_arm in arms.items()
    }
    ceilings = {
        environment: _bounding(environment, counted)
        for environment in dict.fromkeys(environment for _, environment in arms)
    }
    summaries = [
        _summary(arm, of_arm, counted, ceilings[arm[1]], late.get(arm[0]))
        for arm, of_arm in arms.items()
    ]
    return sorted(
        summaries, key=lambda arm: (arm.ready is None, arm.ready.median if arm.ready else 0.0)
    )


class Paired(Protocol):
    """What two arms are compared by, block by block: a sample of a load, or one run of a command.

    An invalid one has a reason.
    """

    @property
    def run(self) -> str:
        """The run it belongs to."""

    @property
    def block(self) -> int:
        """The block it was taken in."""

    @property
    def position(self) -> int:
        """Its place in the order of its block."""

    @property
    def valid(self) -> bool:
        """Whether it counts."""

    @property
    def reason(self) -> str | None:
        """Why it does not count."""

    @property
    def detail(self) -> str | None:
        """The figure or message behind the reason."""


_Paired = TypeVar("_Paired", bound=Paired)


def wrong(samples: Iterable[Paired]) -> str | None:
    """Return what was wrong with the tensors that one arm handed back, the first time it was, or
    None.
    """
    return next(
        (sample.detail or sample.reason for sample in samples if sample.reason in WRONG), None
    )


def paired_ratios(
    over: Sequence[_Paired], under: Sequence[_Paired], value: Callable[[_Paired], float | None]
) -> list[float]:
    """Return value(over) / value(under) for every block in which both arms have a valid sample."""
    base = {sample.block: bottom for sample in under if sample.valid and (bottom := value(sample))}
    if not base:
        return []
    return [
        top / bottom
        for sample in over
        if sample.valid
        and (bottom := base.get(sample.block))
        and (top := value(sample)) is not None
    ]


def precise(samples: Sequence[Sample]) -> bool:
    """Return whether every arm's ratio to the reference, by either clock, is known within
    `PRECISION`.

    Where there is nothing to take a ratio to, or nothing but the reference, each arm's own `ready`
    has to be. An arm without a valid sample has no figure to wait for.
    """
    arms = [arm for arm in summarise(samples) if arm.ready and not is_ceiling(arm.loader)]
    compared = [arm for arm in arms if arm.loader != arm.cell.pair.reference and arm.ratio_ready]
    figures = [figure for arm in compared for figure in (arm.ratio_ready, arm.ratio_returned)] or [
        arm.ready for arm in arms
    ]
    return bool(figures) and all(
        figure is not None and figure.half_width <= PRECISION for figure in figures
    )


def _bounding(environment: str, counted: Mapping[tuple[str, str], Sequence[Sample]]) -> str | None:
    """Return the ceiling that bounds a cell's arms in one environment, of the samples of each arm
    that count.
    """
    of_ceilings = {
        name: samples
        for (name, where), samples in counted.items()
        if where == environment and is_ceiling(name)
    }
    sample = next((sample for samples in of_ceilings.values() for sample in samples), None)
    return bounding(sample.device, sample.cache_state, of_ceilings) if sample else None


def _summary(
    arm: tuple[str, str],
    samples: Sequence[Sample],
    counted: Mapping[tuple[str, str], Sequence[Sample]],
    ceiling: str | None,
    late: str | None,
) -> ArmSummary:
    """Return the summary of one arm.

    `counted` are the samples of every arm that its figures rest on, `ceiling` what bounds it,
    `late` why shaped storage leaves it without a figure.
    """
    loader, environment = arm
    valid, cell = counted[arm], Cell.of(samples[0])
    reference, bound = (
        counted.get((cell.pair.reference, environment), ()),
        counted.get((ceiling or "", environment), ()),
    )

    def median(field: str) -> float | None:
        interval = estimate([value for value in map(attrgetter(field), valid) if value is not None])
        return interval.median if interval else None

    return ArmSummary(
        cell=cell,
        loader=loader,
        environment=environment,
        bytes=samples[0].bytes,
        tensors=samples[0].tensors,
        requested_bytes=samples[0].requested_bytes,
        total=len(samples),
        valid=sum(sample.valid for sample in samples),
        invalid=Counter(sample.reason or "unknown" for sample in samples if not sample.valid),
        wrong=wrong(samples),
        late=late,
        returned=estimate([sample.returned_s for sample in valid if sample.returned_s is not None]),
        ready=estimate([sample.ready_s for sample in valid if sample.ready_s is not None]),
        module_ready=estimate(
            [sample.module_ready_s for sample in valid if sample.module_ready_s is not None]
        ),
        ratio_returned=estimate(paired_ratios(valid, reference, attrgetter("returned_s"))),
        ratio_ready=estimate(paired_ratios(valid, reference, attrgetter("ready_s"))),
        ratio_module_ready=estimate(paired_ratios(valid, reference, attrgetter("module_ready_s"))),
        ceiling=ceiling,
        share_of_ceiling=estimate(paired_ratios(bound, valid, attrgetter("ready_s"))),
        amplification=estimate(
            [
                read / requested
                for sample in valid
                if (requested := sample.requested_bytes)
                and (read := sample.storage_read_bytes) is not None
            ]
        ),
        phases=_of_phases(valid, lambda phase, _: phase),
        shares={
            name: estimate.median
            for name, estimate in _of_phases(valid, lambda phase, whole: phase / whole).items()
        },
        **{field: median(field) for field in COUNTED},
    )


def _of_phases(
    valid: Sequence[Sample], value: Callable[[float, float], float]
) -> dict[str, Estimate]:
    """Return the estimate of value(a phase's s, `ready` in s) for each phase that the samples tell
    of, in their order.
    """
    timed = [
        (sample.phases, sample.ready_s) for sample in valid if sample.phases and sample.ready_s
    ]
    interval = {
        name: estimate([value(phases[name], ready) for phases, ready in timed])
        for name in (timed[0][0] if timed else ())
    }
    return {name: estimate for name, estimate in interval.items() if estimate}
