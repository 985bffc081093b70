"""A run from its lock to its last line: which cells, within which time, recorded where."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import TypeVar

from harness.analysis.arms import by_cell, precise, summarise
from harness.analysis.ceilings import is_ceiling
from harness.analysis.host_cache import host_cache
from harness.analysis.memory_limits import FACTORS, NextTry, next_try
from harness.analysis.promises import Promise
from harness.checkpoints.store import Checkpoint
from harness.errors import WeighbridgeError
from harness.hostile import corpus
from harness.machine import memory_group
from harness.machine.description import NO_GPU
from harness.measure.blocks import Limits, keeps_failing, order_of_block, run_blocks, spent
from harness.measure.limit_search import search_limits
from harness.measure.take_sample import METER, Place, take_sample
from harness.records.cell import MINIMUM_BLOCKS, Cell
from harness.records.checks import Check
from harness.records.late_storage import kept_late
from harness.records.loader_keys import label_of
from harness.records.manifest import CellRecord, now
from harness.records.sample import Sample
from harness.records.trials import Trial
from harness.run.hostile_trials import Trials
from harness.run.open_run import OpenRun, new_entry
from harness.run.options import PROFILES, Options
from harness.run.plan import Plan, block_cost, size_of
from harness.run.promise_checks import Checking
from harness.run.resources import CannotBeMeasuredError, Resources
from harness.scenarios import LIMIT, MEMORY_LIMIT, STAYS_PARTS
from harness.workers.client import InGroup

_Done = TypeVar("_Done")
_NOBODY: CellRecord = {"status": "refused", "reason": "every loader is left out"}
_CUT: CellRecord = {"status": "cut", "reason": "the time of the run was spent before it began"}
_TOO_LONG = "its {blocks} blocks would take about {needed:.0f} s, and {left:.0f} s were left"


@dataclass(frozen=True)
class CellResult:
    """The outcome of a cell: its samples, why it was not measured or not wholly, and why each arm
    left out of it was.
    """

    cell: Cell
    samples: tuple[Sample, ...]
    reason: str | None
    left_out: Mapping[str, str]


class Run(OpenRun):
    """A run of the benchmarks: each cell in blocks, until its ratios are known or its time is
    spent.
    """

    def __init__(
        self,
        options: Options,
        plan: Plan,
        command: Sequence[str],
        say: Callable[[str], None],
        tell: Callable[[Sequence[Sample]], None],
        promises: Sequence[Promise] = (),
        tested: Sequence[str] = (),
        limits_of: Mapping[Cell, Limits] | None = None,
    ) -> None:
        """`tested` are the loaders that are given hostile files, `limits_of` the limits of cells
        that do not share the run's time.

        `say` is told what goes on, for a person who watches; `tell` is given the samples of each
        cell when it is done.
        """
        super().__init__(options, options.profile, options.recorded(), command, say)
        self._plan, self._promises, self._tested, self._tell = plan, promises, tested, tell
        self._profile = PROFILES[options.profile]
        self._limits_of = limits_of or {}
        self._start = time.monotonic()
        self._results: dict[Cell, CellResult] = {}
        self._tracebacks: set[str] = set()

    def _open(self) -> None:
        self._resources = Resources(self._store, self._options, self._plan, self._say)
        self._stack.callback(self._resources.close)
        self._checking = Checking(self._store, self.directory, self._say)
        self._stack.callback(self._checking.close)
        hostile_files = corpus(self._options.families) if self._tested else ()
        self._trials = Trials(
            self._store, self.directory, self.manifest, self._tested, hostile_files, self._say
        )
        self._stack.callback(self._trials.close)
        self._taken = by_cell(self._recorded_samples)

    def __exit__(self, *_: object) -> None:
        samples = self.directory.samples()
        whole = all(cell in self._results for cell in self._plan) and self._checking.done(
            self._promises
        )
        whole = whole and self._trials.done(self._tested)
        self.manifest["finished_at"] = now() if whole else None
        self.manifest["host_cache"] = asdict(host_cache(samples))
        self.manifest["ceilings"] = {
            cell.name: {
                arm.loader: arm.rate for arm in summarise(samples) if is_ceiling(arm.loader)
            }
            for cell, samples in by_cell(samples).items()
        }
        self.close()

    def measure(self, cell: Cell) -> CellResult:
        """Return the outcome of a cell of the plan, measured when it is first asked for."""
        if cell not in self._results:
            self._results[cell] = self._measure(cell)
            if self._results[cell].samples:
                self._tell(self._results[cell].samples)
        return self._results[cell]

    @property
    def measured_nothing(self) -> str | None:
        """Why this machine or its storage let no cell of the plan be measured.

        None where one was, or where all that is missing is a GPU.
        """
        reasons = {result.reason for result in self._results.values() if result.reason}
        cold, warm = self._capability.cold, self._capability.warm
        if (
            not self._results
            or any(result.samples for result in self._results.values())
            or reasons == {NO_GPU}
            or (cold and warm)
        ):
            return None
        return "; ".join(sorted(reasons))

    def check(self, promise: Promise) -> Check:
        """Return what came of a promise, put to the test once in a run, however often that is
        resumed.

        Raises `CannotBeCheckedError` where it could not be: then the manifest says why, and the run
        is not finished.
        """
        without = self.manifest.setdefault("not_checked", {})
        return self._unless(without, promise.name, lambda: self._checking.check(promise))

    def try_hostile_files(self, name: str) -> list[Trial]:
        """Return how a loader met every hostile file, once in a run, however often that is resumed.

        Raises `NoTrialError` where it can meet none here, and any other `WeighbridgeError` where a
        trial could not be held: then the manifest says why, and the run is not finished.
        """
        without = self.manifest.setdefault("not_met", {})
        return self._unless(without, name, lambda: self._trials.of(name))

    def _unless(self, without: dict[str, str], name: str, work: Callable[[], _Done]) -> _Done:
        """Return what work gives.

        Where it cannot be done, `without` of the manifest keeps why, by name, until it has been
        done.
        """
        try:
            done = work()
        except WeighbridgeError as error:
            without[name] = str(error)
            self.save()
            raise
        without.pop(name, None)
        return done

    def _measure(self, cell: Cell) -> CellResult:
        samples = self._taken.get(cell, [])
        earlier = next(
            (entry for entry in self.manifest["cells"] if entry["name"] == cell.name), None
        )
        if earlier and earlier["status"] == "done":
            return CellResult(cell, tuple(samples), earlier["reason"], earlier["left_out"])
        entry = new_entry(cell, self._plan[cell])
        self.manifest["cells"] = [old for old in self.manifest["cells"] if old is not earlier] + [
            entry
        ]
        if refusal := self._refusal(cell):
            entry |= {"status": "refused", "reason": refusal}
        elif too_long := self._too_long(cell):
            entry |= {"status": "cut", "reason": too_long}
        else:
            try:
                samples = self._take(cell, self._resources.checkpoint_of(cell), samples, entry)
            except CannotBeMeasuredError as error:
                entry |= {"status": "refused", "reason": str(error)}
        self.save()
        return CellResult(
            cell,
            () if entry["status"] == "cut" else tuple(samples),
            entry["reason"],
            entry["left_out"],
        )

    def _take(
        self, cell: Cell, checkpoint: Checkpoint, arm_samples: list[Sample], entry: CellRecord
    ) -> list[Sample]:
        """Take the cell's blocks, recording each sample as it comes.

        Return all of the cell's samples and fill in its manifest entry.
        """
        selected = self._resources.selected(cell)
        self._describe(cell, checkpoint)
        self._resources.require_device(cell)
        left_out = self._left_out(cell, checkpoint)
        arms = [name for name in self._plan[cell] if name not in left_out]
        limits = self._limits(cell)
        budget = None if limits.budget_s == float("inf") else round(limits.budget_s, 1)
        entry |= {"left_out": left_out, "budget_s": budget}
        self.save()
        samples = list(arm_samples)

        def take(name: str, block: int, position: int, upcoming: NextTry | None = None) -> Sample:
            self._say(self._progress(cell, block, samples, limits))
            place = site.proving(
                Place(self.directory.name, block, position, self._always_throttled())
            )
            where = f"{cell.name}, {name}, block {block + 1}"
            return take_sample(
                cell,
                site.moved(checkpoint),
                self._resources.arm(cell, name),
                place,
                selected,
                (upcoming.timeout_s if upcoming else None) or self._options.sample_timeout_s,
                lambda text: self.directory.keep_traceback(where, text),
                self._options.busy_at_most,
                _in_group(cell, upcoming),
            )

        def ahead(of_arm: Sequence[Sample]) -> NextTry | None:
            repeats = self._options.rounds or 1
            factors = FACTORS if cell.part == LIMIT else ()
            return next_try(of_arm, checkpoint.bytes, repeats, factors)

        def order(block: int) -> list[str]:
            return order_of_block(self._options.seed, cell.name, block, arms)

        quiet = True

        def again(samples: Sequence[Sample]) -> bool:
            nonlocal quiet  # a machine that stays busy is not waited for again in this cell
            quiet = (
                quiet
                and spent(samples) < limits.budget_s
                and METER.wait_for_quiet(self._options.busy_at_most)
            )
            return quiet

        with ExitStack() as stack:
            stack.callback(self._resources.let_go)
            try:
                site = stack.enter_context(self._storages.around(cell, checkpoint))
            except WeighbridgeError as error:
                raise CannotBeMeasuredError(str(error)) from None
            for item in (
                ["nothing to measure"]
                if not arms
                else search_limits(arms, arm_samples, limits, order, ahead, take, again)
                if cell.searches_limit
                else run_blocks(arms, arm_samples, limits, order, take, precise, again)
            ):
                if isinstance(item, Sample):
                    self.directory.append(item)
                    samples.append(item)
                else:
                    entry["stopped"] = item
        entry.update({"status": "done"} if samples else _CUT if arms else _NOBODY)
        blocks = len({sample.block for sample in samples})
        short = entry["stopped"] == "budget" and blocks < MINIMUM_BLOCKS
        if samples and short and not cell.searches_limit:
            needed = MINIMUM_BLOCKS * spent(samples) / blocks
            entry |= {
                "status": "cut",
                "reason": _TOO_LONG.format(
                    blocks=MINIMUM_BLOCKS, needed=needed, left=limits.hard_s
                ),
            }
        entry["left_out"] = left_out | keeps_failing(samples) | kept_late(samples)
        entry["blocks"] = blocks
        entry["spent_s"] = round(spent(samples), 3)
        return samples

    def _always_throttled(self) -> tuple[str, ...]:
        """Return the throttle reasons that a GPU of this machine gave before anything was
        loaded.
        """
        details = self.manifest["machine"].get("gpu_details") or []
        return tuple(
            sorted(
                {reason for gpu in details for reason in gpu.get("throttle_reasons_at_rest") or ()}
            )
        )

    def _describe(self, cell: Cell, checkpoint: Checkpoint) -> None:
        if cell.scenario == MEMORY_LIMIT:
            self.manifest["memory_group"] = memory_group.description()
        self.manifest["environments"] = self._resources.environments(cell)
        for key, text in self._resources.tracebacks().items():
            if key not in self._tracebacks:
                self._tracebacks.add(key)
                self.directory.keep_traceback(f"warm-up load of {label_of(key)}", text)
        self.manifest["checkpoints"][checkpoint.name] = checkpoint.as_json()

    def _left_out(self, cell: Cell, checkpoint: Checkpoint) -> dict[str, str]:
        """Return the arms that cannot take part in a cell, each with its reason."""
        reasons = {
            name: self._resources.left_out(cell, name, checkpoint) for name in self._plan[cell]
        }
        return {name: reason for name, reason in reasons.items() if reason}

    def _limits(self, cell: Cell) -> Limits:
        """Return a cell's limits: its own, or its share of what is left, in proportion to what a
        block of it is likely to cost.
        """
        if cell in self._limits_of:
            return self._limits_of[cell]
        most = self._profile.blocks
        if cell.scenario == MEMORY_LIMIT:
            most = MINIMUM_BLOCKS  # memory hardly scatters, and times are told elsewhere
        if self._options.rounds is not None:
            return Limits(self._options.rounds, float("inf"), float("inf"), until_precise=False)
        if self._options.budget is not None:
            return Limits(most, self._options.budget, self._options.budget)
        left = self._left()
        costs = {
            other: self._likely_cost(other)
            for other in self._plan
            if other not in self._results and self._refusal(other) is None
        }
        return Limits(most, left * costs[cell] / sum(costs.values()), left)

    def _too_long(self, cell: Cell) -> str | None:
        """Return why the time that is left to a run whose cells share it does not suffice for a
        cell, by what earlier ones took, or None.

        Then not even its checkpoint is made.
        """
        if self._options.rounds is not None or self._options.budget is not None:
            return None
        left, needed = (
            self._left(),
            MINIMUM_BLOCKS * self._likely_cost(cell) * (self._pace() or 0.0),
        )
        if left == 0:
            return _CUT["reason"]
        return (
            _TOO_LONG.format(blocks=MINIMUM_BLOCKS, needed=needed, left=left)
            if needed > left
            else None
        )

    def _pace(self) -> float | None:
        """Return how many s this machine takes for what is likely to cost one, by the cells that
        are done; None before the first.
        """
        likely = {cell.name: self._likely_cost(cell) for cell in self._plan}
        paces = [
            entry["spent_s"] / entry["blocks"] / likely[entry["name"]]
            for entry in self.manifest["cells"]
            if entry["blocks"] and entry["spent_s"] and entry["name"] in likely
        ]
        return median(paces) if paces else None

    def _likely_cost(self, cell: Cell) -> float:
        return block_cost(cell, self._plan[cell], size_of(cell.checkpoint, self._options))

    def _left(self) -> float:
        return max(self._profile.total_s - (time.monotonic() - self._start), 0.0)

    def _progress(self, cell: Cell, block: int, samples: Sequence[Sample], limits: Limits) -> str:
        number = list(self._plan).index(cell) + 1
        where = f"cell {number} of {len(self._plan)}: {cell.name} · block {block + 1}"
        if limits.budget_s == float("inf"):
            return f"{where} of {limits.blocks}"
        gone = f"{spent(samples):.0f} of {limits.budget_s:.0f} s"
        return f"{where} · {gone} · {self._left():.0f} s left in all"


def _in_group(cell: Cell, upcoming: NextTry | None) -> InGroup | None:
    """Return the control group that a cell's loads take place in, None where they need none."""
    if upcoming is not None:
        return InGroup(upcoming.limit_bytes)
    asked = cell.scenario == MEMORY_LIMIT and cell.part in STAYS_PARTS
    return InGroup(stays=True) if asked else None
