"""The contracts: one small type for each kind of thing that a module of loaders may hold.

`load` is the call that is timed. It is given what the kind is asked for, and the name of the
device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from harness.checkpoints.formats import missing_package
from harness.checkpoints.parts import Piece
from harness.scenarios import CACHE_STATES, CacheState

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

DEVICES = ("cpu", "cuda")
CEILING = "ceiling-"
"""How the names of ceilings, and of nothing else, begin: stored samples are told apart by it."""

Files = Sequence[str]
"""A checkpoint's files, more than one where it is sharded."""
Selection = tuple[str, Sequence[Piece]]
"""A file and the pieces asked for of its tensors."""


@dataclass(frozen=True)
class Shares:
    """What a rank is asked for: each rank's selections, and which rank this one is."""

    selections: Sequence[Sequence[Selection]]
    rank: int


@dataclass(frozen=True)
class Contract:
    """What every kind says of itself: what it needs and where it takes part."""

    name: str
    format: str
    """The format of the files that it reads."""
    load: Callable[..., Any]
    requires: tuple[str, ...] = ("torch",)
    """The packages that it imports, whose versions a run records."""
    supported: Callable[[], str | None] = lambda: None
    """Returns why the installed release cannot do this, or None; called with the required packages
    importable.
    """

    extra: str | None = None
    """The project's extra that installs what it requires, where the project itself does not."""
    memory: float = 1.0
    """Memory of its own at its peak, as a multiple of the bytes asked for; what does not fit is
    left out by name.

    Pages of a mapped file are the page cache's.
    """

    devices: tuple[str, ...] = DEVICES
    cache_states: tuple[CacheState, ...] = CACHE_STATES
    executes_code: bool = False
    """Whether it runs what the file says; a person's own file is given to it only if they name
    it.
    """

    threads: int | None = None
    """How many threads it is given, of a family that differs in nothing else; it takes part where
    `--threads` has the number, or where it is named.
    """

    own_device_memory: bool = False
    """Whether it allocates on the GPU past torch, so that torch's peak of device memory is a lower
    bound.
    """

    ceiling: ClassVar[bool] = False
    reads: bool = field(default=True, init=False)
    """Whether it reads the file while the clock runs."""
    writes: ClassVar[bool] = False
    """Whether it writes files while the clock runs, for which the file system may read its own
    maps.
    """

    whole: bool = field(default=True, init=False)
    """Whether `memory` is of the whole checkpoint; else, where a part is asked for, of that
    part.
    """

    makes_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Hold ceilings to their names."""
        if self.ceiling != self.name.startswith(CEILING):
            raise ValueError(f"{self.name}: a ceiling, and nothing else, is called {CEILING}…")

    def absence(self) -> str | None:
        """Return why this cannot run in this environment, or None."""
        if missing := missing_package(self.requires, self.extra):
            return missing
        try:
            return self.supported()
        except Exception as error:  # a broken library may raise anything when it is imported
            return (
                f"{', '.join(self.requires)}: cannot be imported here ({type(error).__name__}:"
                f" {error})"
            )

    def reserve(self, target: Any) -> None:
        """Take memory that outlives a sample, before the fork; it may start no thread."""

    def ready_to_load(self, target: Any, device: str) -> Callable[[], Any]:
        """Return the call that is timed, with everything made that is not."""
        return partial(self.load, target, device)

    def tensors(self, loaded: Any) -> Tensors:
        """Return what `load` returned as tensors by name, while no clock runs."""
        tensors: Tensors = loaded
        return tensors

    def run(self, loaded: Any) -> None:
        """Run each network of a model once, on the least input there is."""

    def content(self, tensors: Tensors, target: Any) -> Tensors:
        """Return the tensors whose content is compared with the checkpoint's, after all clocks have
        stopped.
        """
        return tensors


@dataclass(frozen=True)
class Loader(Contract):
    """Brings up a whole checkpoint: `load(files, device)` returns its tensors by name."""

    load: Callable[[Files, str], Any]


@dataclass(frozen=True)
class PartLoader(Contract):
    """Brings up pieces of some tensors.

    `load(selections, device)` returns each piece under its tensor's name, contiguous and in memory
    of its own.
    """

    load: Callable[[Sequence[Selection], str], Any]
    whole: bool = False


@dataclass(frozen=True)
class RankLoader(Contract):
    """Brings up one rank's shard, in a process that has joined a `torch.distributed` group:
    `load(shares, device)`.
    """

    load: Callable[[Shares, str], Any]
    whole: bool = False


@dataclass(frozen=True)
class ModelLoader(Contract):
    """Makes a model of a checkpoint: `load(files, device)` returns it."""

    load: Callable[[Files, str], Any]
    weights: Callable[[Any], Tensors] = field(kw_only=True)
    """Returns the model's tensors under the checkpoint's names."""
    run_once: Callable[[Any], None] = field(kw_only=True)
    """Runs each network of the model once."""
    makes_model: ClassVar[bool] = True

    def tensors(self, loaded: Any) -> Tensors:
        """Return the model's tensors."""
        return self.weights(loaded)

    def run(self, loaded: Any) -> None:
        """Run the model once."""
        self.run_once(loaded)


@dataclass(frozen=True)
class Converter(Contract):
    """Makes another file of a checkpoint: `load(files, device)` writes it and returns {}."""

    load: Callable[[Files, str], Any]
    read_back: Callable[[Files], Tensors] = field(kw_only=True)
    """Returns the tensors of what it wrote, and removes that."""
    writes: ClassVar[bool] = True

    def content(self, tensors: Tensors, target: Any) -> Tensors:
        """Return the tensors of what was written."""
        return self.read_back(target)


@dataclass(frozen=True)
class Scanner(Contract):
    """Says whether files would run code: `load(files, device)` returns {} where it passes them and
    raises otherwise.
    """

    load: Callable[[Files, str], Any]
    scanned: Callable[[Files], Tensors] = field(kw_only=True)
    """Returns the tensors of the files that it was given."""

    def content(self, tensors: Tensors, target: Any) -> Tensors:
        """Return the tensors of the files that were passed."""
        return self.scanned(target)


@dataclass(frozen=True)
class Ceiling(Contract):
    """The best plain way to bring up the same bytes: `load(target, device, prepared)`.

    It alone may make things before the clock starts, and hold memory that outlives a sample.
    """

    load: Callable[[Any, str, Any], Any]
    preallocate: Callable[[Any], None] | None = field(default=None, kw_only=True)
    """Called before the fork, to hold memory."""
    setup: Callable[[Any, str], Any] = field(default=lambda _target, _device: None, kw_only=True)
    """Returns what is handed to `load`."""
    as_tensors: Callable[[Tensors, Any], Tensors] = field(kw_only=True)
    """Names the tensors in what `load` returned."""
    reads: bool = field(default=True, kw_only=True)
    whole: bool = field(default=True, kw_only=True)
    ceiling: ClassVar[bool] = True

    def reserve(self, target: Any) -> None:
        """Hold memory that the sample's process will find."""
        if self.preallocate:
            self.preallocate(target)

    def ready_to_load(self, target: Any, device: str) -> Callable[[], Any]:
        """Return the call that is timed, its threads and buffers made."""
        return partial(self.load, target, device, self.setup(target, device))

    def content(self, tensors: Tensors, target: Any) -> Tensors:
        """Return the tensors by their names."""
        return self.as_tensors(tensors, target)
