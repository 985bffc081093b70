"""Empty modules in the place of libraries that are not installed.

The lint session installs neither torch nor a loader, and no page needs one. But the modules of
commands import them, so each that is missing is stood in for.
"""

from __future__ import annotations

import sys
from collections.abc import MutableSequence, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARIES = (
    "jinja2",
    "markdown_it",
    "matplotlib",
    "picklescan",
    "pytest",
    "pytest_benchmark",
    "safetensors",
    "torch",
)


class _Nothing:
    """What stands for any name of a missing library: it may be called, indexed, asked for names
    and derived from, and gives itself.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take whatever a class is made of."""

    def __getattr__(self, name: str) -> _Nothing:
        """Return itself for any name but a special one."""
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> _Nothing:
        """Return itself."""
        return self

    def __getitem__(self, _: object) -> _Nothing:
        """Return itself."""
        return self

    def __or__(self, _: object) -> _Nothing:
        """Return itself."""
        return self

    __ror__ = __or__


class _Empty(ModuleType):
    """A module in which every name stands for nothing."""

    __path__: MutableSequence[str] = []  # noqa: RUF012  # as a package has it

    def __getattr__(self, name: str) -> _Nothing:
        """Return what stands for any name but a special one."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing()


class _Finder(MetaPathFinder, Loader):
    """Finds the listed libraries where nothing else has found them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a module of one of the libraries."""
        if fullname.partition(".")[0] not in LIBRARIES:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module."""
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


def stand_in_for_missing() -> None:
    """Let every later import of a listed library that is not installed give an empty module."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
