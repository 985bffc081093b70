"""Loaders: each module holds the ways one library brings a checkpoint into memory.

A module joins by lying in this folder with a tuple `LOADERS`. It may import nothing but the standard library when it is itself
imported, so that every loader can be named, and its absence explained, where its library is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Loader:
    """One way to bring a checkpoint into memory.

    `load(files, device, prepared)` gets the checkpoint's files (paths as text; more than one where it is sharded) and returns its
    tensors by name. What `prepare(files, device)` returns is made before the clock starts and handed to `load`: only a ceiling may use
    it. `reveal(loaded, files)` names the tensors in what `load` returned, after the clocks have stopped.
    """

    name: str
    container: str
    load: Callable[[Sequence[str], str, Any], Tensors]
    requires: tuple[str, ...] = ("torch",)
    supported: Callable[[], str | None] = lambda: None
    """Returns why the installed release cannot do this, or None; called with the required packages importable."""
    reserve: Callable[[Sequence[str]], None] | None = None
    """Called in the server before the fork, to hold memory that outlives a sample; it may start no thread. Only a ceiling may use it."""
    prepare: Callable[[Sequence[str], str], Any] | None = None
    reveal: Callable[[Tensors, Sequence[str]], Tensors] | None = None
    memory: float = 1.0
    """Memory it holds at its peak, as a multiple of the checkpoint's bytes; what does not fit is left out by name."""
    ceiling: bool = False
    trusting: bool = False
    """Whether it runs what the file says; a person's own file is given to it only if they name it."""

    def absence(self) -> str | None:
        """Return why this loader cannot run in this environment, or None."""
        for package in self.requires:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        return self.supported()


def loaders(module: str) -> dict[str, Loader]:
    """Return the loaders of one module by name."""
    return {loader.name: loader for loader in importlib.import_module(module).LOADERS}


def all_loaders() -> dict[str, tuple[str, Loader]]:
    """Return every loader of this folder by name, each with the module it comes from, in the modules' order of names."""
    return {
        name: (module.name, loader)
        for module in sorted(pkgutil.iter_modules(__path__, f"{__name__}."), key=lambda module: module.name)
        for name, loader in loaders(module.name).items()
    }


def merged(load_one: Callable[[str], Tensors], files: Sequence[str]) -> Tensors:
    """Return the tensors of all shards together, each brought up by `load_one`."""
    if len(files) == 1:
        return load_one(files[0])
    tensors: Tensors = {}
    for file in files:
        tensors.update(load_one(file))
    return tensors
