"""Loaders: each module holds the ways one library brings a checkpoint into memory.

A module joins by lying in this folder with at least one of these tuples, or by an entry point of
the group `weighbridge.loaders` in another distribution:

- `LOADERS`: whole checkpoints (`Loader`), and the ceilings of those (`Ceiling`)
- `MODEL_LOADERS`: models to call (`ModelLoader`)
- `PART_LOADERS`: pieces of some tensors (`PartLoader`, `Ceiling`)
- `SHARE_LOADERS`: one rank's shard (`RankLoader`)
- `CONVERTERS`, `SCANNERS`: tools that are no loaders (`Converter`, `Scanner`)
- `FORMATS`: formats that the library brings, so that the store can make checkpoints in them

A module imports nothing but the standard library when it is itself imported, so that every loader
can be named, and its absence explained, where its library is missing.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points, packages_distributions
from types import ModuleType
from typing import TYPE_CHECKING

from harness.checkpoints.formats import FORMATS, Format
from harness.errors import WeighbridgeError
from harness.loaders.contracts import DEVICES as DEVICES
from harness.loaders.contracts import Ceiling as Ceiling
from harness.loaders.contracts import Contract as Contract
from harness.loaders.contracts import Converter as Converter
from harness.loaders.contracts import Files as Files
from harness.loaders.contracts import Loader as Loader
from harness.loaders.contracts import ModelLoader as ModelLoader
from harness.loaders.contracts import PartLoader as PartLoader
from harness.loaders.contracts import RankLoader as RankLoader
from harness.loaders.contracts import Scanner as Scanner
from harness.loaders.contracts import Selection as Selection
from harness.loaders.contracts import Shares as Shares
from harness.records.loader_keys import parts_of

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

GROUP = "weighbridge.loaders"
"""The group of entry points by which modules of other distributions join."""
EVERYTHING, MODEL, PART, SHARE, CONVERTER, SCANNER = KINDS = (
    "LOADERS",
    "MODEL_LOADERS",
    "PART_LOADERS",
    "SHARE_LOADERS",
    "CONVERTERS",
    "SCANNERS",
)
OF_FILES = (EVERYTHING, MODEL, CONVERTER, SCANNER)
"""The names of a module's tuples, each a kind of loader, and those that are asked for whole
files.
"""


def loaders(module: str, kind: str = EVERYTHING) -> dict[str, Contract]:
    """Return the loaders of one kind that a module holds, by name."""
    return {loader.name: loader for loader in getattr(_imported(module), kind, ())}


def all_loaders(kind: str = EVERYTHING) -> dict[str, tuple[str, Contract]]:
    """Return every loader of one kind by name, each with the module it comes from, in the modules'
    order.
    """
    return {
        name: (module, loader)
        for module in _modules(tuple(__path__))
        for name, loader in loaders(module, kind).items()
    }


def all_formats() -> dict[str, Format]:
    """Return every format by name: the common ones, and those that a loader's module brings."""
    brought = (
        form
        for module in _modules(tuple(__path__))
        for form in getattr(_imported(module), "FORMATS", ())
    )
    return FORMATS | {form.name: form for form in brought}


@cache
def _modules(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the modules in these folders, in their order, then of those that other
    distributions enter.
    """
    own = sorted(module.name for module in pkgutil.iter_modules(folders, f"{__name__}."))
    return (*own, *sorted({entered.value for entered in entry_points(group=GROUP)}))


def _imported(module: str) -> ModuleType:
    """Return a module of loaders.

    Raises `WeighbridgeError` for one of another distribution that cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:
        if module.startswith(f"{__name__}."):
            raise
        raise WeighbridgeError(
            f"the entry point {module!r} of the group {GROUP} cannot be imported"
            f" ({type(error).__name__}: {error}); repair or uninstall the distribution that has it"
        ) from error


def distributions(keys: Iterable[str] | None = None) -> list[str]:
    """Return the installed distributions that loaders come from and require, by name.

    Of every loader without `keys`.
    """
    installed = packages_distributions()
    shipped = {entry.value: entry.dist.name for entry in entry_points(group=GROUP) if entry.dist}
    if keys is None:
        chosen = [entry for kind in KINDS for entry in all_loaders(kind).values()]
    else:
        chosen = [(parts_of(key)[0], by_key(key)[1]) for key in keys]
    names = {
        name
        for _, contract in chosen
        for package in contract.requires
        for name in installed.get(package, ())
    }
    return sorted(names | {shipped[module] for module, _ in chosen if module in shipped})


def by_key(key: str) -> tuple[str, Contract]:
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


def then_cut(
    load: Callable[[Files, str], Tensors], *, mapped: bool
) -> Callable[[Sequence[Selection], str], Tensors]:
    """Return what brings up pieces by loading whole files and cutting them out, for libraries that
    know no other way.

    A piece is copied, so that the rest can go; a whole tensor is too where what was loaded is
    `mapped`, and kept as it is elsewhere.
    """

    def cut(selections: Sequence[Selection], device: str) -> Tensors:
        tensors: Tensors = {}
        for file, pieces in selections:
            loaded = load([file], device)
            for piece in pieces:
                tensor = loaded[piece.tensor]
                tensors[piece.tensor] = (
                    own(piece.of(tensor)) if mapped or piece.axis is not None else tensor
                )
        return tensors

    return cut


@contextmanager
def variables(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, for a library that can be told no other way, and put back what was
    there.
    """
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
