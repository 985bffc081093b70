"""A run of environments side by side: every arm of all of them in the same blocks, by the server of
each, and fresh pairs of what looks slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from harness.analysis.arms import by_cell
from harness.checkpoints.store import Checkpoint
from harness.measure.blocks import order_of_block, spent, until_quiet
from harness.measure.slowed_loaders import slowed_key
from harness.measure.take_sample import METER, Arm, Place, take_sample
from harness.records.cell import Cell
from harness.records.manifest import CellRecord, now
from harness.records.sample import Sample
from harness.regression.environments import Environment, refuse_other_versions
from harness.run.open_run import OpenRun, new_entry
from harness.run.options import Options
from harness.run.plan import Plan, block_cost, size_of
from harness.run.resources import CannotBeMeasuredError, Resources

PASSES = 3
"""How often a regression run goes through all cells, each time with fresh servers: what a server
was dealt of memory stays with all its forks.
"""

FRESH_BLOCKS, FEWEST_IN_A_PASS = 24, 4
"""How many fresh pairs a suspect gets, and how many blocks every cell has in a pass whatever the
time.
"""

_IN_VAIN = 2
_DISCOUNT = 0.7
"""The power by which a block's cost counts in a cell's share of time: what is short is noisier, and
more of it is cheap.
"""

_KEPT_FOR_FRESH = 0.2
"""The share of a run's time that is kept for fresh pairs."""


@dataclass(frozen=True)
class Side:
    """What a block holds of every loader: the name it has in samples, the environment it runs in,
    and what is slowed in it by how many per cent.
    """

    name: str
    environment: Environment
    slowed: Mapping[str, int] = field(default_factory=dict)


class PairedRun(OpenRun):
    """A run of environments side by side: every block holds all of them, and the cells are gone
    through several times.
    """

    def __init__(
        self,
        options: Options,
        plan: Plan,
        sides: Sequence[Side],
        label: str,
        about: Mapping[str, Any],
        command: Sequence[str],
        say: Callable[[str], None],
        turns: Callable[[int], Sequence[Side]] | None = None,
    ) -> None:
        """`about` is what the manifest keeps of what is compared.

        `turns` tells which sides a block has, all of them where it is None.
        """
        super().__init__(
            options, label, options.recorded() | {"paired_run": dict(about)}, command, say
        )
        self._plan, self._sides, self._turns = plan, sides, turns or (lambda _: sides)
        self._resources: dict[str, Resources] = {}
        self._blocks = dict.fromkeys(plan, 0)
        self._spent = dict.fromkeys(plan, 0.0)
        self._in_vain = 0
        self._prepared: set[Cell] = set()
        self.samples: list[Sample] = []

    def _open(self) -> None:
        for environment in {
            side.environment.name: side.environment for side in self._sides
        }.values():
            resources = Resources(
                self._store,
                self._options,
                self._plan,
                self._say,
                environment.name,
                environment.python,
            )
            self._resources[environment.name] = resources
            self._stack.callback(resources.close)
        self.samples = self._recorded_samples
        for cell, samples in by_cell(self.samples).items():
            self._blocks[cell] = 1 + max(sample.block for sample in samples)
            self._spent[cell] = spent(samples)
        known = {entry["name"]: entry for entry in self.manifest["cells"]}
        self.manifest["cells"] = [
            known.get(cell.name) or _paired_entry(cell, arms, self._options.budget)
            for cell, arms in self._plan.items()
        ]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.manifest["finished_at"] = None if kind else now()
        self.close()

    def go_through(self, total_s: float, blocks: int, passes: int = PASSES) -> None:
        """Take at least four and at most `blocks` / `passes` blocks of every cell in each pass,
        within `total_s` seconds where that is enough.

        A run that is resumed goes on where it was: what it spent before counts, and a pass that was
        begun is finished.
        """
        end = time.monotonic() + total_s - sum(self._spent.values())
        for number in range(passes):
            if all(self._entry(cell)["finished_passes"] > number for cell in self._plan):
                continue
            self._fresh_servers()
            for place, cell in enumerate(self._plan):
                entry = self._entry(cell)
                if entry["status"] == "refused" or (refusal := self._refusal(cell)):
                    if entry["status"] != "refused":
                        entry |= {"status": "refused", "reason": refusal}
                    continue
                if cell not in self._prepared:
                    self._prepare(cell)
                if entry["finished_passes"] > number:
                    continue
                if len(entry["passes"]) == number:
                    entry["passes"].append(self._blocks[cell])
                self._start_servers(cell)
                self.save()
                share = self._share(cell, place, number, passes, end)
                whole = (
                    -(-blocks // passes)
                    if self._options.rounds is None
                    else self._rounds(number, passes)
                )
                self._pass(cell, entry, share, whole, self._blocks[cell] - entry["passes"][number])
                entry["finished_passes"] = number + 1
                self.save()

    def take_fresh(self, flagged: Sequence[tuple[Cell, str]]) -> None:
        """Take fresh pairs of single arms, by servers started anew halfway, and note in the
        manifest which blocks they are.
        """
        for half in range(2):
            self._fresh_servers()
            for cell, loader in flagged:
                fresh = self._entry(cell)["fresh"].setdefault(loader, [])
                fresh[:] = [
                    block for block in fresh if block < self._blocks[cell]
                ]  # of one that was only begun there is no sample
                while len(fresh) < (half + 1) * FRESH_BLOCKS // 2:
                    fresh.append(self._blocks[cell])
                    self.save()
                    self._start_servers(cell)
                    self._say(f"fresh pairs of {cell.name} {loader}, half {half + 1} of 2")
                    list(self._block(cell, [loader]))
        self.save()

    def _pass(
        self, cell: Cell, entry: CellRecord, share_s: float, blocks: int, before: int
    ) -> None:
        """Take the blocks of one pass, `before` of which were taken before the run was resumed."""
        loaders = [
            name
            for name in self._plan[cell]
            if any(f"{name}@{side.name}" not in entry["left_out"] for side in self._sides)
        ]
        self._in_vain = 0
        start, count, enough = (
            time.monotonic(),
            before,
            FEWEST_IN_A_PASS if self._options.rounds is None else blocks,
        )
        while loaders and count < blocks:
            gone = time.monotonic() - start
            if count >= enough and gone + gone / max(count - before, 1) > share_s:
                entry["stopped"] = "time"
                break
            message = (
                "" if share_s == float("inf") else f" · {gone:.0f} of {share_s:.0f} s of this pass"
            )
            self._say(f"{cell.name} · block {self._blocks[cell] + 1}{message}")
            samples = list(self._block(cell, loaders))
            self._spent[cell] += spent(samples)
            count += 1
        else:
            entry["stopped"] = "rounds"
        entry |= {
            "status": "done",
            "blocks": self._blocks[cell],
            "spent_s": round(self._spent[cell], 3),
        }

    def _block(self, cell: Cell, loaders: Sequence[str]) -> Iterator[Sample]:
        """Take a block: the loaders in random order, of each loader all sides one after the other,
        in every second block in the reverse order.
        """
        block, checkpoint, left_out = (
            self._blocks[cell],
            self._checkpoint(cell),
            self._entry(cell)["left_out"],
        )
        names = {side.name: side for side in self._turns(block)}
        with self._storages.around(cell, checkpoint) as site:
            there, position = site.moved(checkpoint), 0
            for loader, name in self._order(cell, block, loaders, list(names)):
                if f"{loader}@{name}" in left_out:
                    continue
                place = site.proving(Place(self.directory.name, block, position))
                arm = self._arm(cell, loader, names[name])
                for sample in until_quiet(
                    partial(self._take, cell, there, arm, place), self._again
                ):
                    self.directory.append(sample)
                    self.samples.append(sample)
                    yield sample
                position += 1
        self._blocks[cell] += 1

    def _order(
        self, cell: Cell, block: int, loaders: Sequence[str], sides: Sequence[str]
    ) -> Iterator[tuple[str, str]]:
        """Yield (loader, side) in the order of a block."""
        for loader in order_of_block(self._options.seed, cell.name, block, loaders):
            order = order_of_block(self._options.seed, f"{cell.name}/{loader}", block // 2, sides)
            for name in order[::-1] if block % 2 else order:
                yield loader, name

    def _take(self, cell: Cell, checkpoint: Checkpoint, arm: Arm, place: Place) -> Sample:
        return take_sample(cell, checkpoint, arm, place, busy_at_most=self._options.busy_at_most)

    def _again(self) -> bool:
        """Return whether the machine came to be quiet.

        The second time in a row that it did not, it is not waited for again.
        """
        if self._in_vain < _IN_VAIN:
            self._in_vain = (
                0 if METER.wait_for_quiet(self._options.busy_at_most) else self._in_vain + 1
            )
        return self._in_vain == 0

    def _arm(self, cell: Cell, loader: str, side: Side) -> Arm:
        arm = replace(
            self._resources[side.environment.name].arm(cell, loader), environment=side.name
        )
        percent = side.slowed.get(loader)
        return replace(arm, key=slowed_key(loader, percent)) if percent else arm

    def _prepare(self, cell: Cell) -> None:
        """Note of every side what it is and which loaders of a cell it cannot run here, with the
        reason.
        """
        entry, checkpoint = self._entry(cell), self._checkpoint(cell)
        for side in self._sides:
            resources = self._resources[side.environment.name]
            text = resources.environments(cell)[side.environment.name]
            refuse_other_versions(side.environment, text["versions"])
            self.manifest["environments"][side.name] = text | {
                "requirements": list(side.environment.requirements),
                "slowed_percent": dict(side.slowed),
            }
            for loader in self._plan[cell]:
                if reason := resources.left_out(cell, loader, checkpoint):
                    entry["left_out"][f"{loader}@{side.name}"] = reason
        self._prepared.add(cell)

    def _refusal(self, cell: Cell) -> str | None:
        if refusal := super()._refusal(cell):
            return refusal
        try:
            checkpoint = self._checkpoint(cell)
        except CannotBeMeasuredError as error:
            return str(error)
        self.manifest["checkpoints"][checkpoint.name] = checkpoint.as_json()
        return None

    def _share(self, cell: Cell, place: int, number: int, passes: int, end: float) -> float:
        """Return the seconds for a cell in this pass: its own budget's, or what is left shared out
        by what a block is likely to cost.
        """
        if self._options.rounds is not None:
            return float("inf")
        if self._options.budget is not None:
            return self._options.budget / passes
        cost: dict[Cell, float] = {
            cell: self._block_s(cell) ** _DISCOUNT
            for cell in self._plan
            if self._entry(cell)["status"] != "refused"
        }
        ahead = sum(cost.get(cell, 0.0) for cell in list(self._plan)[place:]) + (
            passes - number - 1
        ) * sum(cost.values())
        return max(end - time.monotonic(), 0.0) * cost[cell] / ahead

    def _block_s(self, cell: Cell) -> float:
        """Return what a block of a cell costs in s: what it did so far, or what it is likely to."""
        if self._blocks[cell] and self._spent[cell]:
            return self._spent[cell] / self._blocks[cell]
        return block_cost(
            cell, self._plan[cell] * len(self._turns(0)), size_of(cell.checkpoint, self._options)
        )

    def _rounds(self, number: int, passes: int) -> int:
        whole = self._options.rounds or 0
        return whole * (number + 1) // passes - whole * number // passes

    def _checkpoint(self, cell: Cell) -> Checkpoint:
        return next(iter(self._resources.values())).checkpoint(cell.checkpoint)

    def _start_servers(self, cell: Cell) -> None:
        """Start what is not running, outside of every clock and share of time."""
        for resources in self._resources.values():
            resources.environments(cell)

    def _fresh_servers(self) -> None:
        for resources in self._resources.values():
            resources.close()

    def _entry(self, cell: Cell) -> CellRecord:
        return next(entry for entry in self.manifest["cells"] if entry["name"] == cell.name)


def _paired_entry(cell: Cell, arms: Sequence[str], budget: float | None) -> CellRecord:
    """Return a cell's entry in the manifest before anything is measured."""
    return new_entry(cell, arms) | {
        "budget_s": budget,
        "spent_s": 0.0,
        "passes": [],
        "fresh": {},
        "finished_passes": 0,
    }


def time_for_pairs(total_s: float) -> float:
    """Return the seconds of a run's time that go to the first pairs.

    The rest is kept for fresh ones.
    """
    return total_s * (1 - _KEPT_FOR_FRESH)


def blocks_of_run(block_s: Mapping[str, float], total_s: float, most: int) -> dict[str, int]:
    """Return how many blocks of each cell a run's time gives, from what a block of each costs in s:
    the same shares as a run's own.
    """
    time_s, weights = (
        time_for_pairs(total_s),
        {cell: cost**_DISCOUNT for cell, cost in block_s.items()},
    )
    share = {cell: time_s * weight / sum(weights.values()) for cell, weight in weights.items()}
    return {
        cell: max(PASSES * FEWEST_IN_A_PASS, min(most, int(share[cell] / cost)))
        for cell, cost in block_s.items()
    }
