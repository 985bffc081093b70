"""What a run loads: its checkpoints, made when they are first needed, and the server with the loaders that bring them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack
from typing import Any

from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.sources import Source, layout_source, person_source
from harness.checkpoints.store import Checkpoint, DoesNotFitError, Store, known_digest
from harness.loaders import all_loaders
from harness.machine.description import PACKAGES
from harness.measure.client import Server
from harness.measure.taking import Arm
from harness.options import Options, model_name

ENVIRONMENT = "reference"


class Supply:
    """The checkpoints and the arms of one run; `uses` has the names of the loaders that each checkpoint is for."""

    def __init__(self, store: Store, options: Options, uses: Mapping[str, Set[str]], say: Callable[[str], None]) -> None:
        self._store = store
        self._options = options
        self._uses = uses
        used = set().union(*uses.values())
        self._loaders = {name: found for name, found in all_loaders().items() if name in used}
        self._say = say
        self._stack = ExitStack()
        self._made: dict[str, Checkpoint | str] = {}
        self._server: Server | None = None

    def close(self) -> None:
        """End the server."""
        self._stack.close()

    def checkpoint(self, name: str) -> Checkpoint | str:
        """Return a checkpoint by name, made if need be, or why it does not fit on this machine."""
        if name not in self._made:
            containers = sorted({self._loaders[loader][1].container for loader in self._uses[name]})
            try:
                source, known = self._source(name)
                self._made[name] = self._store.checkpoint(source, containers, known)
            except DoesNotFitError as error:
                self._made[name] = str(error)
        return self._made[name]

    def size(self, name: str) -> int:
        """Return a checkpoint's bytes, 0 where they are not known before it is made."""
        made = self._made.get(name)
        if isinstance(made, Checkpoint):
            return made.bytes
        return LAYOUTS[name]().bytes if name in LAYOUTS else 0

    @property
    def server(self) -> Server:
        """The server of the environment, started when it is first needed."""
        if self._server is None:
            self._say("starting the measuring server: it imports torch and makes each loader's first call")
            rehearsal = self._store.rehearsal({loader.container for _, loader in self._loaders.values()})
            self._rehearsals = {name: rehearsal.artifacts[loader.container].files for name, (_, loader) in self._loaders.items()}
            keys = {self._key(name): [str(file) for file in files] for name, files in self._rehearsals.items()}
            self._server = self._stack.enter_context(Server(keys, PACKAGES))
        return self._server

    def environments(self) -> dict[str, Any]:
        """Return what each environment under test said of itself, by name."""
        return {ENVIRONMENT: self.server.environment}

    def absence(self, name: str) -> str | None:
        """Return why a loader cannot run in the environment, or None."""
        reason: str | None = self.server.environment["absent"].get(self._key(name))
        return reason

    def arm(self, name: str) -> Arm:
        """Return the arm of a loader."""
        return Arm(self._key(name), self._loaders[name][1], ENVIRONMENT, self.server, self._rehearsals[name])

    def _key(self, name: str) -> str:
        return f"{self._loaders[name][0]}:{name}"

    def _source(self, name: str) -> tuple[Source, str | None]:
        if name in LAYOUTS:
            return layout_source(LAYOUTS[name](), self._options.seed), known_digest(name, self._options.seed)
        path = next(path for path in self._options.models if model_name(path, LAYOUTS) == name)
        self._say(f"reading {path}")
        return person_source(path, name), None
