"""What every run in progress has: the lock, the store, its directory, its manifest and what it
recorded before.

A run of benchmarks and a run of environments side by side differ in how they go through their
cells. Everything else is here: one run at a time, readahead put back, resuming, what this machine
cannot measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from harness.checkpoints.store import Store
from harness.checkpoints.store_location import default_store
from harness.loaders import all_formats
from harness.machine import memory_group
from harness.machine.description import NO_GPU, gpus
from harness.machine.left_over import clear_left_over
from harness.machine.lock import only_run
from harness.machine.proof import capability
from harness.machine.read_ahead import restore_left_over
from harness.records.cell import Cell
from harness.records.manifest import CellRecord
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from harness.run.new_manifest import new_manifest, refuse_other_conditions
from harness.run.options import Options
from harness.run.storages import Storages
from harness.scenarios import MEMORY_LIMIT, WORKERS


def new_entry(cell: Cell, arms: Sequence[str]) -> CellRecord:
    """Return a cell's entry in the manifest before anything is measured."""
    return {
        "name": cell.name,
        "scenario": cell.scenario,
        "checkpoint": cell.checkpoint,
        "cache_state": cell.cache_state,
        "device": cell.device,
        "part": cell.part,
        "ranks": cell.ranks,
        "read_ahead_kb": cell.read_ahead_kb,
        "storage": cell.storage,
        "arms": list(arms),
        "left_out": {},
        "status": "going",
        "reason": None,
        "stopped": None,
        "budget_s": None,
        "spent_s": None,
        "blocks": 0,
    }


class OpenRun:
    """A run in progress, as a context manager: nothing is written before it is entered, and one
    runs at a time on a machine.
    """

    def __init__(
        self,
        options: Options,
        label: str,
        recorded: Mapping[str, Any],
        command: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        """`label` names a new run's directory, `recorded` are the options that its manifest keeps,
        `say` is told what goes on.
        """
        self._options, self._label, self._recorded, self._command, self._say = (
            options,
            label,
            dict(recorded),
            command,
            say,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        options = self._options
        resumed = RunDirectory.existing(options.results, options.resume) if options.resume else None
        self.directory = resumed or RunDirectory.planned(options.results, self._label)
        try:
            self._stack.enter_context(only_run(self.directory.path.resolve()))
            restored = restore_left_over()
            clear_left_over()
            self._store = Store(options.store or default_store(), self._say, all_formats())
            self._folder = self._store.folder
            self._capability = capability(self._folder)
            fresh = new_manifest(
                self.directory.name, self._recorded, self._command, self._folder, self._capability
            )
            self.manifest = resumed.manifest() if resumed else fresh
            if resumed:
                refuse_other_conditions(self.manifest, fresh)
                resumed.drop_unfinished_line()
            self.manifest["read_ahead_restored"] = restored or self.manifest.get(
                "read_ahead_restored"
            )
            self._storages = Storages(self._folder, self._capability)
            self._stack.callback(self._storages.close)
            self._recorded_samples = resumed.samples() if resumed else list[Sample]()
            self._open()
            if not resumed:
                self.directory.make()
            self.save()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        """Open what this kind of run needs, under the lock.

        What is to be closed goes on the stack.
        """

    def close(self) -> None:
        """Write the manifest and let go of everything."""
        self.save()
        self._stack.close()

    def save(self) -> None:
        """Write the manifest as it stands."""
        self.manifest["shapes"] = self.manifest.get("shapes", {}) | self._storages.shapes
        self.directory.write_manifest(self.manifest)

    def _refusal(self, cell: Cell) -> str | None:
        """Return why a cell cannot be measured on this machine at all, or None."""
        if cell.device != "cpu" and not gpus():
            return NO_GPU
        if cell.device != "cpu" and (cell.ranks or 1) > len(gpus()):
            return f"{cell.ranks} ranks need a GPU each, there are {len(gpus())}"
        if cell.scenario == MEMORY_LIMIT and cell.part != WORKERS:
            reason = memory_group.refused()
            if reason:
                return f"memory limit refused: {reason}"
        return self._storages.refusal(cell)
