"""The cells of a run as a report sees them: what was measured, what was not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from harness.analysis.arms import ArmSummary, by_cell, paired_ratios, summarise
from harness.analysis.ceilings import is_ceiling
from harness.analysis.documented_figures import CLAIMED_BYTES
from harness.analysis.memory_limits import floor_of
from harness.analysis.statistics import Estimate, estimate
from harness.records.cell import Cell
from harness.records.loader_keys import label_of
from harness.records.sample import Sample
from harness.scenarios import AS_IS, FULL_LOAD, Pair


@dataclass(frozen=True)
class MeasuredCell:
    """One cell of a run; `record` is what the manifest says of it, empty where it says nothing."""

    key: Cell
    samples: tuple[Sample, ...]
    arms: tuple[ArmSummary, ...]
    record: Mapping[str, Any]
    bytes: int | None

    @property
    def name(self) -> str:
        """The cell as the manifest names it, such as `full-load/gpt2/cold/cpu`."""
        return self.key.name

    @property
    def scenario(self) -> str:
        """What was asked of the loaders."""
        return self.key.scenario

    @property
    def checkpoint(self) -> str:
        """What was loaded."""
        return self.key.checkpoint

    @property
    def cache_state(self) -> str:
        """`cold` or `warm`."""
        return self.key.cache_state

    @property
    def device(self) -> str:
        """Where the tensors went."""
        return self.key.device

    @property
    def where(self) -> str:
        """The storage and the readahead that the cell was put on, empty where it was on neither."""
        ahead = self.key.read_ahead_kb
        parts = [] if self.key.storage == AS_IS else [self.key.storage]
        return ", ".join([*parts, *([] if ahead is None else [f"readahead {ahead} KiB"])])

    @property
    def pair(self) -> Pair:
        """The two loaders that stand for the cell where only one ratio is shown."""
        return self.key.pair

    @property
    def reason(self) -> str | None:
        """Why the cell was refused, cut short or not finished; None where it was done."""
        status = self.record.get("status") or ("done" if self.samples else "missing")
        return (
            None
            if status == "done"
            else f"{status}: {self.record.get('reason') or 'no reason recorded'}"
        )

    @property
    def left_out(self) -> dict[str, str]:
        """Why each loader that was left out of the cell was."""
        return dict(sorted((self.record.get("left_out") or {}).items()))

    @property
    def never_begun(self) -> list[str]:
        """Loaders that were left out of the cell before a sample was taken."""
        seen = {arm.loader for arm in self.arms}
        return [loader for loader in self.left_out if loader not in seen]

    @property
    def not_sampled(self) -> list[str]:
        """Loaders that the cell was to hold, were not left out, and have no sample."""
        seen = {arm.loader for arm in self.arms} | set(self.left_out)
        return [loader for loader in self.record.get("arms") or () if loader not in seen]

    def measured(self) -> list[ArmSummary]:
        """Return the arms with a figure, the ceilings aside, fastest to `ready` first."""
        return [arm for arm in self.arms if arm.ready and not is_ceiling(arm.loader)]

    @property
    def ceiling(self) -> ArmSummary | None:
        """The ceiling that bounds the cell's loads."""
        return next(
            (summary for arm in self.arms if arm.ceiling and (summary := self.arm(arm.ceiling))),
            None,
        )

    def arm(self, loader: str) -> ArmSummary | None:
        """Return a loader's arm, the first by name of its environment where there are several, or
        None without a figure.
        """
        arms = [arm for arm in self.arms if arm.loader == loader and arm.ready]
        return min(arms, key=lambda arm: arm.environment, default=None)

    def valid(self, arm: ArmSummary) -> list[Sample]:
        """Return the samples that an arm's figures rest on: the valid ones, of an arm that has
        figures.
        """
        return [] if arm.wrong or arm.late else self._valid.get(_arm_of(arm), [])

    @cached_property
    def _valid(self) -> dict[tuple[str, str], list[Sample]]:
        arms: dict[tuple[str, str], list[Sample]] = {}
        for sample in self.samples:
            if sample.valid:
                arms.setdefault((sample.loader, sample.environment), []).append(sample)
        return arms

    def label(self, arm: ArmSummary) -> str:
        """Return the arm's name: its loader, and its environment where the cell has more than
        one.
        """
        return (
            arm.loader
            if len({other.environment for other in self.arms}) == 1
            else f"{arm.loader} @ {arm.environment}"
        )


def cells_of(manifest: Mapping[str, Any], samples: Sequence[Sample]) -> list[MeasuredCell]:
    """Return every cell that has a sample or stands in the manifest: by scenario, size, checkpoint
    and device, cold before warm.
    """
    recorded = {
        key: record for record in manifest.get("cells") or () if (key := Cell.recorded(record))
    }
    samples_by_cell = by_cell(samples)
    cells = []
    for key in {**samples_by_cell, **recorded}:
        of_cell = (
            [] if recorded.get(key, {}).get("status") == "cut" else samples_by_cell.get(key, [])
        )  # too few for an interval
        known = (manifest.get("checkpoints") or {}).get(key.checkpoint) or {}
        size = of_cell[0].bytes if of_cell else known.get("bytes")
        cells.append(
            MeasuredCell(
                key, tuple(of_cell), tuple(summarise(of_cell)), recorded.get(key, {}), size
            )
        )
    return sorted(cells, key=_place)


def _place(cell: MeasuredCell) -> tuple[Any, ...]:
    """Return what cells are put in order by; parts stay in the order they were taken."""
    key = cell.key
    return (
        key.scenario,
        cell.bytes or 0,
        key.checkpoint,
        key.device,
        key.ranks or 0,
        key.cache_state,
        key.read_ahead_kb or 0,
    )


def nearest_to_claim(cells: Iterable[MeasuredCell]) -> str | None:
    """Return the full-load checkpoint nearest the claim's 500 MB among those with a valid sample,
    or None.
    """
    sizes = {
        cell.checkpoint: cell.bytes
        for cell in cells
        if cell.scenario == FULL_LOAD and cell.bytes and cell.measured()
    }
    return min(sorted(sizes), key=lambda name: abs(sizes[name] - CLAIMED_BYTES), default=None)


def find(
    cells: Iterable[MeasuredCell], checkpoint: str, cache_state: str, device: str
) -> MeasuredCell | None:
    """Return the full-load cell of a checkpoint, or None."""
    name = "/".join((FULL_LOAD, checkpoint, cache_state, device))
    return next((cell for cell in cells if cell.name == name), None)


def pair_ratio(
    cell: MeasuredCell, over: str, under: str, value: Callable[[Sample], float | None]
) -> Estimate | None:
    """Return the estimate of value(over) / value(under) of two loaders within the blocks of a cell,
    None where there is no pair.
    """
    arms = cell.arm(over), cell.arm(under)
    return (
        estimate(paired_ratios(cell.valid(arms[0]), cell.valid(arms[1]), value))
        if arms[0] and arms[1]
        else None
    )


def indistinguishable(cell: MeasuredCell) -> list[ArmSummary]:
    """Return the fastest arm to `ready` and after it every arm whose ratio to it, within blocks,
    has an interval that reaches 1.

    Arms with too few pairs for an interval are not significantly different either. Empty where
    nothing valid was measured.
    """
    arms = cell.measured()
    if not arms:
        return []
    fastest = cell.valid(arms[0])
    return [
        arms[0],
        *(
            arm
            for arm in arms[1:]
            if _reaches_one(paired_ratios(cell.valid(arm), fastest, attrgetter("ready_s")))
        ),
    ]


def to_take(cell: MeasuredCell) -> ArmSummary | None:
    """Return the arm to take of a cell: safetensors' own where nothing told it from the fastest,
    else the fastest; None where there is none.

    It is as fast as can be told then, and runs no code of a file.
    """
    alike = indistinguishable(cell)
    reference = cell.pair.reference
    return next((arm for arm in alike if arm.loader == reference), alike[0] if alike else None)


def invalid_counts(samples: Iterable[Sample]) -> dict[str, int]:
    """Return how many samples are invalid for each reason, most frequent first."""
    counts = Counter(sample.reason or "unknown" for sample in samples if not sample.valid)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def shortfalls(
    manifest: Mapping[str, Any], cells: Sequence[MeasuredCell]
) -> list[tuple[str, str, str]]:
    """Return (kind, what, reason) of everything the run does not say, what shares kind and reason
    together.
    """
    rows = [
        ("skipped", str(entry.get("what")), str(entry.get("reason")))
        for entry in manifest.get("skipped") or ()
    ]
    for environment, installed in sorted((manifest.get("environments") or {}).items()):
        for loader, reason in sorted((installed.get("absent") or {}).items()):
            rows.append(("absent", f"{label_of(loader)} in environment {environment}", str(reason)))
    for cell in cells:
        if cell.reason:
            kind, _, reason = cell.reason.partition(": ")
            rows.append((kind, cell.name, reason))
        elif cell.record.get("stopped") == "budget":
            rows.append(
                (
                    "cut by the budget",
                    cell.name,
                    "its time was spent before every ratio was as precise as requested",
                )
            )
    for cell in cells:
        rows += [
            ("left out", f"{loader} in {cell.name}", why)
            for loader, why in cell.left_out.items()
            if not any(arm.loader == loader and arm.late for arm in cell.arms)
        ]
        rows += _unmeasured(cell)
    together: dict[tuple[str, str], list[str]] = {}
    for kind, what, reason in rows:
        together.setdefault((kind, reason), []).append(what)
    return [(kind, ", ".join(what), reason) for (kind, reason), what in together.items()]


def _arm_of(arm: ArmSummary) -> tuple[str, str]:
    return arm.loader, arm.environment


def _reaches_one(ratios: Sequence[float]) -> bool:
    interval = estimate(ratios)
    return interval is None or interval.low is None or interval.low <= 1.0


def _unmeasured(cell: MeasuredCell) -> list[tuple[str, str, str]]:
    rows = []
    if cell.key.searches_limit:
        return _limits_unknown(cell)
    few = [
        f"{cell.label(arm)} {arm.valid} of {arm.total}"
        for arm in cell.arms
        if arm.status == "insufficient"
    ]
    if few:
        rows.append(
            ("insufficient", cell.name, f"too few valid samples for an interval: {', '.join(few)}")
        )
    rows += [
        ("wrong", f"{cell.label(arm)} in {cell.name}", f"it has no figure: {arm.wrong}")
        for arm in cell.arms
        if arm.wrong
    ]
    rows += [
        ("late", f"{cell.label(arm)} in {cell.name}", f"it has no figure: {arm.late}")
        for arm in cell.arms
        if arm.late
    ]
    none = [
        f"{cell.label(arm)} (0 of {arm.total}: {_reasons(arm)})"
        for arm in cell.arms
        if arm.status == "missing"
    ]
    none += [f"{loader} (no sample taken)" for loader in cell.not_sampled if cell.samples]
    if none:
        rows.append(("missing", cell.name, f"no valid sample: {', '.join(none)}"))
    return rows


def _limits_unknown(cell: MeasuredCell) -> list[tuple[str, str, str]]:
    """Return a row of the loaders whose smallest limit was not found."""
    unknown = [
        arm.loader
        for arm in cell.arms
        if not floor_of(
            [sample for sample in cell.samples if sample.loader == arm.loader], arm.bytes
        )
    ]
    why = "the smallest memory limit is not known"
    return [("insufficient", cell.name, f"{why}: {', '.join(unknown)}")] if unknown else []


def _reasons(arm: ArmSummary) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(arm.invalid.items()))
