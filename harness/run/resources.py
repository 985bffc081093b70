"""What a run loads: its checkpoints, made when they are first needed, and the servers with the
loaders that bring them up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.parts import Piece, part
from harness.checkpoints.sources import Source, layout_source, person_source
from harness.checkpoints.store import Checkpoint, DoesNotFitError, Selection, Store, known_digest
from harness.checkpoints.tensor_parallel import missing, shares_by_name
from harness.errors import WeighbridgeError
from harness.loaders import MODEL
from harness.machine.description import PACKAGES
from harness.measure.take_sample import Arm, room
from harness.records.cell import Cell
from harness.records.loader_keys import key_of
from harness.run.options import Options, model_name
from harness.run.plan import Plan, kind_of, loader_of
from harness.scenarios import MEMORY_LIMIT, WHOLE_PROCESS
from harness.scenarios import PROCESS_START as PROCESS_START
from harness.workers.cache_state import let_go
from harness.workers.client import Server
from harness.workers.process_client import Interpreters
from harness.workers.rank_client import Ranks, SomeRanks

ENVIRONMENT = "reference"


class CannotBeMeasuredError(WeighbridgeError):
    """A cell cannot be measured here; the message says why."""


class Resources:
    """The checkpoints and the arms of one environment in one run; `python` is its interpreter."""

    def __init__(
        self,
        store: Store,
        options: Options,
        plan: Plan,
        say: Callable[[str], None],
        environment: str = ENVIRONMENT,
        python: str = sys.executable,
    ) -> None:
        self._store, self._options, self._plan, self._say = store, options, plan, say
        self._environment, self._python = environment, python
        self._stack = ExitStack()
        self._sources: dict[str, Source] = {}
        self._made: dict[str, Checkpoint | str] = {}
        self._selections: dict[str, dict[str, Selection]] = {}
        self._servers: dict[bool, Server] = {}
        self._ranks: Ranks | None = None
        self._interpreters = Interpreters()

    def close(self) -> None:
        """End the servers; whoever asks for an arm afterwards gets fresh ones."""
        self._stack.close()
        self._servers.clear()
        self._ranks = None

    def let_go(self) -> None:
        """Let go of what is kept warm, whichever process keeps it: another could not make it
        cold.
        """
        let_go()
        if self._ranks:
            self._ranks.let_go()

    def checkpoint(self, name: str) -> Checkpoint:
        """Return a checkpoint by name, made if need be.

        Raises `CannotBeMeasuredError` where it does not fit on this machine.
        """
        if name not in self._made:
            uses = [
                (cell, arm)
                for cell, arms in self._plan.items()
                if cell.checkpoint == name
                for arm in arms
            ]
            formats = sorted({loader_of(cell, arm)[1].format for cell, arm in uses})
            digest = known_digest(name, self._options.seed) if name in LAYOUTS else None
            try:
                self._made[name] = self._store.checkpoint(self._source(name), formats, digest)
            except DoesNotFitError as error:
                self._made[name] = str(error)
            except OSError as error:
                self._made[name] = self._unwritable(name, error)
        checkpoint = self._made[name]
        if isinstance(checkpoint, str):
            raise CannotBeMeasuredError(checkpoint)
        return checkpoint

    def checkpoint_of(self, cell: Cell) -> Checkpoint:
        """Return the checkpoint of a cell, as `checkpoint` does.

        What writes beside its files is given a person's own by links in the store.
        """
        checkpoint = self.checkpoint(cell.checkpoint)
        if not any(loader_of(cell, name)[1].writes for name in self._plan[cell]):
            return checkpoint
        try:
            return self._store.linked(checkpoint)
        except OSError as error:
            raise CannotBeMeasuredError(self._unwritable(cell.checkpoint, error)) from None

    def selected(self, cell: Cell) -> tuple[Selection, ...]:
        """Return what a cell asks for of its checkpoint, for each rank.

        Nothing stands for everything.

        Raises `CannotBeMeasuredError` where the checkpoint does not have that part.
        """
        try:
            pieces = self._wanted(cell)
        except WeighbridgeError as error:
            raise CannotBeMeasuredError(str(error)) from None
        known = self._selections.setdefault(cell.checkpoint, {})
        if not pieces.keys() <= known.keys():
            try:
                known |= self._store.selections(
                    self._source(cell.checkpoint), self._all_wanted(cell.checkpoint)
                )
            except OSError as error:
                raise CannotBeMeasuredError(self._unwritable(cell.checkpoint, error)) from None
        return tuple(known[name] for name in pieces)

    def environments(self, cell: Cell) -> dict[str, Any]:
        """Return what the environment under test said of itself, by name, the servers of all cells
        so far taken together.
        """
        self._server_of(cell)
        descriptions = [
            server.environment for server in (*self._servers.values(), self._ranks) if server
        ]
        together = {
            field: {key: value for entry in descriptions for key, value in entry[field].items()}
            for field in ("absent", "first_calls")
        }
        return {
            self._environment: (
                {name: value for name, value in descriptions[0].items() if name != "tracebacks"}
                | together
            )
        }

    def tracebacks(self) -> dict[str, str]:
        """Return the traceback of each loader whose warm-up load raised, by the loader's key, of
        the servers started so far.
        """
        servers = [server for server in (*self._servers.values(), self._ranks) if server]
        return {
            key: text
            for server in servers
            for key, text in server.environment["tracebacks"].items()
        }

    def require_device(self, cell: Cell) -> None:
        """Raise `CannotBeMeasuredError` where the processes that load for a cell cannot use its
        device, once and not sample by sample.
        """
        reason = (
            self._server_of(cell).environment.get("gpu_refused") if cell.device != "cpu" else None
        )
        if reason and cell.scenario != PROCESS_START:
            raise CannotBeMeasuredError(reason)

    def absence(self, cell: Cell, name: str) -> str | None:
        """Return why a loader cannot run in the environment, or None."""
        reason: str | None = self._server_of(cell).environment["absent"].get(self._key(cell, name))
        return reason

    def left_out(self, cell: Cell, name: str, checkpoint: Checkpoint) -> str | None:
        """Return why an arm cannot take part in a cell in the environment on this machine, or
        None.
        """
        loader = loader_of(cell, name)[1]
        artifact = checkpoint.artifacts.get(loader.format)
        if absent := self.absence(cell, name):
            return absent
        if artifact is None:
            return checkpoint.refused[loader.format]
        if loader.executes_code and artifact.given and name not in (self._options.loaders or ()):
            return "it would run any code in this file; name it in --loaders if you trust the file"
        selected, available = self.selected(cell), room()
        own_bytes = (
            int(checkpoint.bytes * loader.memory) * (cell.ranks or 1)
            if loader.whole or not selected
            else 0
        )
        requested = sum(selection.bytes for selection in selected)
        needed = own_bytes + requested + (artifact.file_bytes if cell.cache_state == "warm" else 0)
        return (
            f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB available"
            if needed > available
            else None
        )

    def arm(self, cell: Cell, name: str) -> Arm:
        """Return an arm of a cell."""
        loader = loader_of(cell, name)[1]
        warm_up, server = self._warm_up({loader.format}), self._server_of(cell)
        whole = cell.scenario == PROCESS_START or cell.part == WHOLE_PROCESS
        takes = self._interpreters if whole else server
        return Arm(self._key(cell, name), loader, self._environment, takes, warm_up[loader.format])

    def _server_of(self, cell: Cell) -> Server | SomeRanks:
        """Return what takes the samples of a cell, started when it is first needed."""
        if cell.ranks:
            if self._ranks is None:
                most = max(other.ranks or 1 for other in self._plan if other.device == cell.device)
                self._say(
                    f"starting {most} ranks by torchrun: each imports torch and makes each loader's"
                    " first call"
                )
                self._ranks = self._stack.enter_context(
                    Ranks(self._warm_ups(cell), PACKAGES, most, **self._warm_up_options(cell))
                )
            return self._ranks.of(cell.ranks)
        models = self._of_models(cell)
        if models not in self._servers:
            self._say(
                "starting the measuring server: it imports torch and makes each loader's first call"
            )
            self._servers[models] = self._stack.enter_context(
                Server(self._warm_ups(cell), PACKAGES, self._python, **self._warm_up_options(cell))
            )
        return self._servers[models]

    def _warm_up_options(self, served: Cell) -> dict[str, Any]:
        """Return how the server of a cell tries its loaders: whether on a GPU as well, and for how
        long each.
        """
        return {
            "gpu": any(
                cell.device != "cpu" and self._same_server(cell, served) for cell in self._plan
            ),
            "timeout_s": self._options.warm_up_timeout_s,
        }

    def _same_server(self, cell: Cell, other: Cell) -> bool:
        return (cell.ranks is None) == (other.ranks is None) and self._of_models(
            cell
        ) == self._of_models(other)

    def _of_models(self, cell: Cell) -> bool:
        """Return whether a cell's loaders make models: those have a server of their own, so that
        nobody else's forks carry their libraries.
        """
        return any(kind_of(cell, name) == MODEL for name in self._plan[cell])

    def _warm_ups(self, served: Cell) -> dict[str, list[str]]:
        """Return the warm-up load files of each loader that the cells of one cell's server use, by
        key.
        """
        used = {
            self._key(cell, name): loader_of(cell, name)[1]
            for cell, arms in self._plan.items()
            if self._same_server(cell, served)
            for name in arms
        }
        files = self._warm_up({loader.format for loader in used.values()})
        return {
            key: [str(file) for file in files[loader.format]]
            for key, loader in used.items()
            if loader.format in files
        }

    def _warm_up(self, formats: set[str]) -> dict[str, Any]:
        try:
            return self._store.warm_up(formats)
        except OSError as error:
            raise CannotBeMeasuredError(
                self._unwritable("the checkpoint of warm-up loads", error)
            ) from None

    def _unwritable(self, name: str, error: OSError) -> str:
        return (
            f"{name}: the store does not have all of it and cannot be written to ({error.strerror})"
        )

    def _key(self, cell: Cell, name: str) -> str:
        return key_of(loader_of(cell, name)[0], name, kind_of(cell, name))

    def _wanted(self, cell: Cell) -> dict[str, tuple[Piece, ...]]:
        """Return the pieces that each process of a cell asks for, by a name.

        Raises `WeighbridgeError` where there are no such pieces.
        """
        tensors = [tensor for shard in self._source(cell.checkpoint).shards for tensor in shard]
        if cell.scenario == MEMORY_LIMIT:
            return {}
        if cell.part:
            return {cell.part: part(cell.part, cell.checkpoint, tensors)}
        if cell.ranks:
            shared = shares_by_name(LAYOUTS[cell.checkpoint](), cell.ranks)
            assert not missing(tensors, list(shared.values()))
            return shared
        return {}

    def _all_wanted(self, checkpoint: str) -> dict[str, tuple[Piece, ...]]:
        """Return what all cells of the plan ask for of a checkpoint, so that it is made once for
        all of them.
        """
        pieces: dict[str, tuple[Piece, ...]] = {}
        for cell in self._plan:
            if cell.checkpoint == checkpoint:
                try:
                    pieces |= self._wanted(cell)
                except WeighbridgeError:
                    continue  # that cell says so when its turn comes
        return pieces

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            if name in LAYOUTS:
                self._sources[name] = layout_source(LAYOUTS[name](), self._options.seed)
            else:
                path = next(
                    path for path in self._options.models if model_name(path, LAYOUTS) == name
                )
                self._say(f"reading {path}")
                self._sources[name] = person_source(path, name, self._options.key)
        return self._sources[name]
