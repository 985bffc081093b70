"""A run from its lock to its last line: which cells, within which time, recorded where."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, TypeVar

from harness.analysis.arms import by_cell, precise, summarise
from harness.analysis.ceilings import is_ceiling
from harness.analysis.host_cache import host_cache
from harness.analysis.promises import Promise
from harness.checkpoints.store import Checkpoint, Store
from harness.checkpoints.store_location import default_store
from harness.errors import WeighbridgeError
from harness.hostile import corpus
from harness.loaders import all_formats
from harness.machine.description import NO_GPU, gpus
from harness.machine.lock import only_run
from harness.machine.page_cache import capability
from harness.machine.read_ahead import read_ahead, restore_left_over, setting_refused
from harness.measure.blocks import Limits, keeps_failing, order_of_block, run_blocks, spent
from harness.measure.take_sample import METER, Place, take_sample
from harness.records.cell import MINIMUM_BLOCKS, Cell
from harness.records.checks import Check
from harness.records.loader_keys import label_of
from harness.records.manifest import now
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from harness.records.trials import Trial
from harness.run.hostile_trials import Trials
from harness.run.new_manifest import new_manifest, refuse_other_conditions
from harness.run.options import PROFILES, Options
from harness.run.plan import Plan, block_cost, size_of
from harness.run.promise_checks import Checking
from harness.run.resources import CannotBeMeasuredError, Resources

_Done = TypeVar("_Done")
_NOBODY = {"status": "refused", "reason": "every loader is left out"}
_CUT = {"status": "cut", "reason": "the time of the run was spent before it began"}
_TOO_LONG = "its {blocks} blocks would take about {needed:.0f} s, and {left:.0f} s were left"


@dataclass(frozen=True)
class CellResult:
    """The outcome of a cell: its samples, why it was not measured or not wholly, and why each arm left out of it was."""

    cell: Cell
    samples: tuple[Sample, ...]
    reason: str | None
    left_out: Mapping[str, str]


class Run:
    """A run in progress, as a context manager: nothing is written before it is entered, and one runs at a time on a machine."""

    def __init__(
        self,
        options: Options,
        plan: Plan,
        command: Sequence[str],
        say: Callable[[str], None],
        tell: Callable[[Sequence[Sample]], None],
        promises: Sequence[Promise] = (),
        tested: Sequence[str] = (),
    ) -> None:
        """`tested` are the loaders that meet hostile files. `say` is told what goes on, for a person who watches; `tell` is given the samples of each cell when it is done."""
        self._options, self._plan, self._command, self._promises, self._tested = options, plan, command, promises, tested
        self._say, self._tell = say, tell
        self._profile = PROFILES[options.profile]
        self._start = time.monotonic()
        self._stack = ExitStack()
        self._weighed: dict[Cell, CellResult] = {}
        self._tracebacks: set[str] = set()

    def __enter__(self) -> Run:
        options = self._options
        resumed = RunDirectory.existing(options.results, options.resume) if options.resume else None
        self.directory = resumed or RunDirectory.planned(options.results, options.profile)
        try:
            self._stack.enter_context(only_run(self.directory.path.resolve()))
            restored = restore_left_over()
            store = Store(options.store or default_store(), self._say, all_formats())
            self._capability = capability(store.folder)
            fresh = new_manifest(self.directory.name, options.recorded(), self._command, store.folder, self._capability)
            self.manifest = resumed.manifest() if resumed else fresh
            if resumed:
                refuse_other_conditions(self.manifest, fresh)
                resumed.drop_unfinished_line()
            else:
                self.directory.make()
            self.manifest["read_ahead_restored"] = restored or self.manifest.get("read_ahead_restored")
            self._folder = store.folder
            self._resources = Resources(store, options, self._plan, self._say)
            self._stack.callback(self._resources.close)
            self._checking = Checking(store, self.directory, self._say)
            self._stack.callback(self._checking.close)
            hostile_files = corpus(options.families) if self._tested else ()
            self._trials = Trials(store, self.directory, self.manifest, self._tested, hostile_files, self._say)
            self._stack.callback(self._trials.close)
            self._taken = by_cell(self.directory.samples())
            self._save()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        samples = self.directory.samples()
        whole = all(cell in self._weighed for cell in self._plan) and self._checking.done(self._promises)
        whole = whole and self._trials.done(self._tested)
        self.manifest["finished_at"] = now() if whole else None
        self.manifest["host_cache"] = asdict(host_cache(samples))
        self.manifest["ceilings"] = {
            cell.name: {arm.loader: arm.rate for arm in summarise(samples) if is_ceiling(arm.loader)}
            for cell, samples in by_cell(samples).items()
        }
        self._save()
        self._stack.close()

    def measure(self, cell: Cell) -> CellResult:
        """Return the outcome of a cell of the plan, measured when it is first asked for."""
        if cell not in self._weighed:
            self._weighed[cell] = self._measure(cell)
            if self._weighed[cell].samples:
                self._tell(self._weighed[cell].samples)
        return self._weighed[cell]

    @property
    def measured_nothing(self) -> str | None:
        """Why this machine or its storage let no cell of the plan be measured; None where one was, or where all that is missing is a GPU."""
        reasons = {result.reason for result in self._weighed.values() if result.reason}
        cold, warm = self._capability.cold, self._capability.warm
        if not self._weighed or any(result.samples for result in self._weighed.values()) or reasons == {NO_GPU} or (cold and warm):
            return None
        return "; ".join(sorted(reasons))

    def check(self, promise: Promise) -> Check:
        """Return what came of a promise, put to the test once in a run, however often that is resumed.

        Raises `CannotBeCheckedError` where it could not be: then the manifest says why, and the run is not finished.
        """
        return self._unless("not_checked", promise.name, lambda: self._checking.check(promise))

    def try_hostile_files(self, name: str) -> list[Trial]:
        """Return how a loader met every hostile file, once in a run, however often that is resumed.

        Raises `NoTrialError` where it can meet none here, and any other `WeighbridgeError` where a trial could not be held: then the
        manifest says why, and the run is not finished.
        """
        return self._unless("not_met", name, lambda: self._trials.of(name))

    def _unless(self, kept: str, name: str, work: Callable[[], _Done]) -> _Done:
        """Return what work gives; where it cannot be done, the manifest keeps why, by name, until it has been done."""
        without = self.manifest.setdefault(kept, {})
        try:
            done = work()
        except WeighbridgeError as error:
            without[name] = str(error)
            self._save()
            raise
        without.pop(name, None)
        return done

    def _measure(self, cell: Cell) -> CellResult:
        samples = self._taken.get(cell, [])
        earlier = next((entry for entry in self.manifest["cells"] if entry["name"] == cell.name), None)
        if earlier and earlier["status"] == "done":
            return CellResult(cell, tuple(samples), earlier["reason"], earlier["left_out"])
        entry: dict[str, Any] = {"name": cell.name, **cell.as_json(), "arms": list(self._plan[cell]), "left_out": {}, "status": "going"}
        entry |= dict.fromkeys(("reason", "stopped", "budget_s", "spent_s")) | {"blocks": 0}
        self.manifest["cells"] = [old for old in self.manifest["cells"] if old is not earlier] + [entry]
        if refusal := self._refusal(cell):
            entry |= {"status": "refused", "reason": refusal}
        elif too_long := self._too_long(cell):
            entry |= {"status": "cut", "reason": too_long}
        else:
            try:
                samples = self._take(cell, self._resources.checkpoint_of(cell), samples, entry)
            except CannotBeMeasuredError as error:
                entry |= {"status": "refused", "reason": str(error)}
        self._save()
        return CellResult(cell, () if entry["status"] == "cut" else tuple(samples), entry["reason"], entry["left_out"])

    def _refusal(self, cell: Cell) -> str | None:
        """Return why a cell cannot be measured on this machine at all, or None."""
        if cell.device != "cpu" and not gpus():
            return NO_GPU
        if cell.device != "cpu" and (cell.ranks or 1) > len(gpus()):
            return f"{cell.ranks} ranks need a GPU each, there are {len(gpus())}"
        if cell.read_ahead_kb is not None and (refusal := setting_refused(self._folder)):
            return f"readahead refused: {refusal}"
        able = self._capability.cold if cell.cache_state == "cold" else self._capability.warm
        return None if able else f"{cell.cache_state} refused: {self._capability.reason}"

    def _take(self, cell: Cell, checkpoint: Checkpoint, arm_samples: list[Sample], entry: dict[str, Any]) -> list[Sample]:
        """Take the cell's blocks, recording each sample as it comes; return all of the cell's samples and fill in its manifest entry."""
        selected = self._resources.selected(cell)
        self._describe(cell, checkpoint)
        self._resources.require_device(cell)
        left_out = self._left_out(cell, checkpoint)
        arms = [name for name in self._plan[cell] if name not in left_out]
        limits = self._limits(cell)
        budget = None if limits.budget_s == float("inf") else round(limits.budget_s, 1)
        entry |= {"left_out": left_out, "budget_s": budget}
        self._save()
        samples = list(arm_samples)

        def take(name: str, block: int, position: int) -> Sample:
            self._say(self._progress(cell, block, samples, limits))
            place = Place(self.directory.name, block, position, self._always_throttled())
            where = f"{cell.name}, {name}, block {block + 1}"
            return take_sample(
                cell,
                checkpoint,
                self._resources.arm(cell, name),
                place,
                selected,
                self._options.sample_timeout_s,
                lambda text: self.directory.keep_traceback(where, text),
                self._options.busy_at_most,
            )

        def order(block: int) -> list[str]:
            return order_of_block(self._options.seed, cell.name, block, arms)

        quiet = True

        def again(samples: Sequence[Sample]) -> bool:
            nonlocal quiet  # a machine that stays busy is not waited for again in this cell
            quiet = quiet and spent(samples) < limits.budget_s and METER.wait_for_quiet(self._options.busy_at_most)
            return quiet

        with ExitStack() as stack:
            stack.callback(self._resources.let_go)
            if cell.read_ahead_kb is not None:
                stack.enter_context(read_ahead(self._folder, cell.read_ahead_kb))
            for item in run_blocks(arms, arm_samples, limits, order, take, precise, again) if arms else ["nothing to measure"]:
                if isinstance(item, Sample):
                    self.directory.append(item)
                    samples.append(item)
                else:
                    entry["stopped"] = item
        entry |= {"status": "done"} if samples else _CUT if arms else _NOBODY
        blocks = len({sample.block for sample in samples})
        if samples and entry["stopped"] == "budget" and blocks < MINIMUM_BLOCKS:
            needed = MINIMUM_BLOCKS * spent(samples) / blocks
            entry |= {"status": "cut", "reason": _TOO_LONG.format(blocks=MINIMUM_BLOCKS, needed=needed, left=limits.hard_s)}
        entry["left_out"] = left_out | keeps_failing(samples)
        entry["blocks"] = blocks
        entry["spent_s"] = round(spent(samples), 3)
        return samples

    def _always_throttled(self) -> tuple[str, ...]:
        """Return the throttle reasons that a GPU of this machine gave before anything was loaded."""
        details = self.manifest["machine"].get("gpu_details") or []
        return tuple(sorted({reason for gpu in details for reason in gpu.get("throttle_reasons_at_rest") or ()}))

    def _describe(self, cell: Cell, checkpoint: Checkpoint) -> None:
        self.manifest["environments"] = self._resources.environments(cell)
        for key, text in self._resources.tracebacks().items():
            if key not in self._tracebacks:
                self._tracebacks.add(key)
                self.directory.keep_traceback(f"warm-up load of {label_of(key)}", text)
        self.manifest["checkpoints"][checkpoint.name] = checkpoint.as_json()

    def _left_out(self, cell: Cell, checkpoint: Checkpoint) -> dict[str, str]:
        """Return the arms that cannot take part in a cell, each with its reason."""
        reasons = {name: self._resources.left_out(cell, name, checkpoint) for name in self._plan[cell]}
        return {name: reason for name, reason in reasons.items() if reason}

    def _limits(self, cell: Cell) -> Limits:
        """Return a cell's limits: its own, or its share of what is left, in proportion to what a block of it is likely to cost."""
        if self._options.rounds is not None:
            return Limits(self._options.rounds, float("inf"), float("inf"), until_precise=False)
        if self._options.budget is not None:
            return Limits(self._profile.blocks, self._options.budget, self._options.budget)
        left = self._left()
        costs = {other: self._likely_cost(other) for other in self._plan if other not in self._weighed and self._refusal(other) is None}
        return Limits(self._profile.blocks, left * costs[cell] / sum(costs.values()), left)

    def _too_long(self, cell: Cell) -> str | None:
        """Return why the time that is left to a run whose cells share it does not suffice for a cell, by what earlier ones took, or None.

        Then not even its checkpoint is made.
        """
        if self._options.rounds is not None or self._options.budget is not None:
            return None
        left, needed = self._left(), MINIMUM_BLOCKS * self._likely_cost(cell) * (self._pace() or 0.0)
        if left == 0:
            return _CUT["reason"]
        return _TOO_LONG.format(blocks=MINIMUM_BLOCKS, needed=needed, left=left) if needed > left else None

    def _pace(self) -> float | None:
        """Return how many s this machine takes for what is likely to cost one, by the cells that are done; None before the first."""
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
        return f"{where} · {spent(samples):.0f} of {limits.budget_s:.0f} s · {self._left():.0f} s left in all"

    def _save(self) -> None:
        self.directory.write_manifest(self.manifest)
