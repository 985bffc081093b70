"""Loaders: each module holds the ways one library brings a checkpoint into memory.

A module joins by lying in this folder with at least one of six tuples, which differ in what their loaders are asked for: everything
(`LOADERS`), a model to call (`MODEL_LOADERS`), pieces of some tensors (`PART_LOADERS`), or one rank's share, brought up by all ranks together
(`SHARE_LOADERS`), or another file made of the checkpoint's (`CONVERTERS`), or whether it would do harm (`SCANNERS`). One of another
distribution joins by an entry point of the group `weighbridge.loaders` that names the module. A library with a format of its own brings
that too (`FORMATS`), so that the store can make checkpoints in it. A module may import nothing but the standard library when it is
itself imported, so that every loader can be named, and its absence explained, where its library is missing.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.checkpoints.formats import FORMATS, Format, missing_package
from harness.checkpoints.parts import Piece
from harness.errors import WeighbridgeError
from harness.records.loader_keys import parts_of

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

GROUP = "weighbridge.loaders"
"""The group of entry points by which modules of other distributions join."""
CACHE_STATES, DEVICES = ("cold", "warm"), ("cpu", "cuda")
EVERYTHING, MODEL, PART, SHARE, CONVERTER, SCANNER = KINDS = (
    "LOADERS",
    "MODEL_LOADERS",
    "PART_LOADERS",
    "SHARE_LOADERS",
    "CONVERTERS",
    "SCANNERS",
)
OF_FILES = (EVERYTHING, MODEL, CONVERTER, SCANNER)
"""The names of a module's tuples, each a kind of loader, and those that are asked for whole files."""

Wanted = tuple[str, Sequence[Piece]]
"""A file and the pieces asked for of its tensors."""


@dataclass(frozen=True)
class Shares:
    """What a rank's loader is asked for: for each rank the files with its pieces, and which rank this one is."""

    selections: Sequence[Sequence[Wanted]]
    rank: int


@dataclass(frozen=True)
class Loader:
    """One way to bring a checkpoint into memory.

    `load(asked, device, prepared)` returns tensors by name. In `LOADERS` it is asked for the checkpoint's files (paths as text; more than
    one where it is sharded). In `PART_LOADERS` it is asked for a list of (file, pieces), a `Wanted` for each file that holds any, and
    returns each piece under its tensor's name, contiguous and in memory of its own. In `SHARE_LOADERS` it is asked for `Shares` in a
    process that has joined a `torch.distributed` group, and returns its own rank's pieces. In `MODEL_LOADERS` it is asked for files as in
    `LOADERS` and returns a model, of which `weights` and `run` tell the rest. In `CONVERTERS` it is asked for files too, makes others of them and returns nothing; `reveal` reads
    back what it made and removes it. In `SCANNERS` it is asked for files, returns nothing where it passes them and raises otherwise. What `prepare(asked, device)` returns is made
    before the clock starts and handed to `load`: only a ceiling may use it. `reveal(loaded, asked)` names the tensors in what `load`
    returned, after the clocks have stopped.
    """

    name: str
    format: str
    load: Callable[[Any, str, Any], Any]
    requires: tuple[str, ...] = ("torch",)
    supported: Callable[[], str | None] = lambda: None
    """Returns why the installed release cannot do this, or None; called with the required packages importable."""
    extra: str | None = None
    """The project's extra that installs what it requires, where the project itself does not."""
    reserve: Callable[[Any], None] | None = None
    """Called in the server before the fork, to hold memory that outlives a sample; it may start no thread. Only a ceiling may use it."""
    prepare: Callable[[Any, str], Any] | None = None
    reveal: Callable[[Tensors, Any], Tensors] | None = None
    weights: Callable[[Any], Tensors] | None = None
    """Of a loader of models: names the tensors of what `load` returned, as the checkpoint does, while no clock runs."""
    run: Callable[[Any], None] | None = None
    """Of a loader of models: runs each network of what `load` returned once, on the least input there is."""
    memory: float = 1.0
    """Memory of its own that it holds at its peak, as a multiple of the checkpoint's bytes; what does not fit is left out by name.

    Pages of a mapped file are the page cache's.
    """
    whole: bool = True
    """Whether `memory` is of the whole checkpoint; else, where only a part is asked for, of that part."""
    ceiling: bool = False
    reads: bool = True
    """Whether it reads the file while the clock runs; only a ceiling of something else does not."""
    writes: bool = False
    """Whether it writes files while the clock runs, for which the file system may have to read its own maps."""
    own_device_memory: bool = False
    """Whether it allocates on the GPU past torch, so that the peak of device memory that torch knows of is a lower bound."""
    devices: tuple[str, ...] = DEVICES
    """The devices whose cells it takes part in."""
    cache_states: tuple[str, ...] = CACHE_STATES
    """The cache states whose cells it takes part in."""
    trusting: bool = False
    """Whether it runs what the file says; a person's own file is given to it only if they name it."""

    def __post_init__(self) -> None:
        """Hold ceilings to their names, by which stored samples are told from those of loaders."""
        if self.ceiling != self.name.startswith("ceiling-"):
            raise ValueError(f"{self.name}: a ceiling, and nothing else, is called ceiling-…")

    def absence(self) -> str | None:
        """Return why this loader cannot run in this environment, or None."""
        if missing := missing_package(self.requires, self.extra):
            return missing
        try:
            return self.supported()
        except Exception as error:  # a library that is installed and broken may raise anything when it is first imported
            return f"{', '.join(self.requires)}: cannot be imported here ({type(error).__name__}: {error})"


def loaders(module: str, kind: str = EVERYTHING) -> dict[str, Loader]:
    """Return the loaders of one kind that a module holds, by name."""
    return {loader.name: loader for loader in getattr(_imported(module), kind, ())}


def all_loaders(kind: str = EVERYTHING) -> dict[str, tuple[str, Loader]]:
    """Return every loader of one kind by name, each with the module it comes from, in the modules' order."""
    return {name: (module, loader) for module in _modules(tuple(__path__)) for name, loader in loaders(module, kind).items()}


def all_formats() -> dict[str, Format]:
    """Return every format by name: the common ones, and those that a loader's module brings."""
    brought = (form for module in _modules(tuple(__path__)) for form in getattr(_imported(module), "FORMATS", ()))
    return FORMATS | {form.name: form for form in brought}


@cache
def _modules(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the modules in these folders, in their order, then of those that other distributions enter."""
    own = sorted(module.name for module in pkgutil.iter_modules(folders, f"{__name__}."))
    return (*own, *sorted({entered.value for entered in entry_points(group=GROUP)}))


def _imported(module: str) -> ModuleType:
    """Return a module of loaders; raises `WeighbridgeError` for one of another distribution that cannot be imported."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        if module.startswith(f"{__name__}."):
            raise
        raise WeighbridgeError(
            f"the entry point {module!r} of the group {GROUP} cannot be imported ({type(error).__name__}: {error}); repair or uninstall the distribution that has it"
        ) from error


def by_key(key: str) -> tuple[str, Loader]:
    """Return (kind, loader) of a key."""
    module, name, kind = parts_of(key)
    return kind, loaders(module, kind)[name]


def merged(load_one: Callable[[str], Tensors], files: Sequence[str]) -> Tensors:
    """Return the tensors of all shards together, each brought up by `load_one`."""
    if len(files) == 1:
        return load_one(files[0])
    tensors: Tensors = {}
    for file in files:
        tensors.update(load_one(file))
    return tensors


def then_cut(load: Callable[[Sequence[str], str, Any], Tensors], *, mapped: bool) -> Callable[[Sequence[Wanted], str, Any], Tensors]:
    """Return what brings up pieces by loading whole files and cutting them out, for libraries that know no other way.

    A piece is copied, so that the rest can go; a whole tensor is too where what was loaded is `mapped`, and kept as it is elsewhere.
    """

    def cut(selections: Sequence[Wanted], device: str, prepared: Any) -> Tensors:
        tensors: Tensors = {}
        for file, pieces in selections:
            loaded = load([file], device, prepared)
            for piece in pieces:
                tensor = loaded[piece.tensor]
                tensors[piece.tensor] = own(piece.of(tensor)) if mapped or piece.axis is not None else tensor
        return tensors

    return cut


@contextmanager
def variables(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, for a library that can be told no other way, and put back what was there."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy of a tensor in memory of its own."""
    import torch

    return tensor.clone(memory_format=torch.contiguous_format)
