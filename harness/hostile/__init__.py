"""Hostile files: a corpus that code makes from a seed. It has the same bytes on every machine, and
no file is harmful.

A canary shows that code ran: each payload creates a file of that name in the folder where it runs.
Every module of this folder takes part, and the decorator `hostile_file` makes a function one file
of the corpus. Everything here needs only the standard library, and nothing here reads a corpus
file.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from harness.records.trials import Harm

CANARY = "canary"
"""The file that a payload creates in its working folder."""
FORMATS = (
    "pickle",
    "torch-zip",
    "torch-legacy",
    "safetensors",
    "npz",
    "npy",
    "gguf",
    "tensorizer",
    "flashpack",
    "dcp-safetensors",
    "index",
    "none",
)
"""The format that a file claims; `none` is a format that no loader of the suite reads."""

Content = bytes | Mapping[str, bytes]
"""One file, or several by their paths in a folder; the first is the one to open."""
Make = Callable[[Random], Content]


@dataclass(frozen=True)
class HostileFile:
    """One file of the corpus, with what it may need beside it."""

    name: str
    """Its own name, unique in the corpus."""
    family: str
    format: str
    harm: Harm
    says: str
    """What is wrong with it, in one line."""
    make: Make = field(repr=False, compare=False)
    plain: bool = False
    """Whether its payload is not hidden: every unpickler without a filter runs it."""
    limit_s: float | None = None
    """Time limit of a loader for this file, where it differs from the usual one."""

    def files(self, seed: int) -> dict[str, bytes]:
        """Return the content of each file by its path, the hostile file's own first."""
        # filler that is to be the same everywhere
        content = self.make(Random(f"{seed}/{self.name}"))  # noqa: S311
        return {self.name: content} if isinstance(content, bytes) else dict(content)


class Family:
    """A family of hostile files; the decorator `hostile_file` adds a function to it."""

    def __init__(self, name: str, format_name: str, harm: Harm) -> None:
        self.name, self._format_name, self._harm = name, format_name, harm
        self.hostile_files: list[HostileFile] = []

    def hostile_file(
        self,
        name: str,
        *,
        format_name: str | None = None,
        harm: Harm | None = None,
        plain: bool = False,
        limit_s: float | None = None,
    ) -> Callable[[Make], Make]:
        """Return a decorator that enters a function as the file `name`.

        Its docstring's first line says what is wrong with the file.
        """

        def enter(make: Make) -> Make:
            self.add(
                name,
                _said(make.__doc__),
                make,
                format_name=format_name,
                harm=harm,
                plain=plain,
                limit_s=limit_s,
            )
            return make

        return enter

    def add(
        self,
        name: str,
        says: str,
        make: Make,
        *,
        format_name: str | None = None,
        harm: Harm | None = None,
        plain: bool = False,
        limit_s: float | None = None,
    ) -> None:
        """Enter a file, for files that are rows of a table rather than functions of their own."""
        self.hostile_files.append(
            HostileFile(
                name,
                self.name,
                format_name or self._format_name,
                harm or self._harm,
                says,
                make,
                plain,
                limit_s,
            )
        )

    def table(
        self,
        name: str,
        rows: Iterable[Sequence[Any]],
        make: Callable[..., Content],
        *,
        format_name: str | None = None,
        harms: bool = False,
    ) -> None:
        """Enter a file for each row: what `name` is filled in with, what is wrong, what `made` is
        given, and last its harm where it has `harms`.
        """
        for stem, says, *given in rows:
            harm = given.pop() if harms else None
            self.add(
                name.format(stem),
                says,
                partial(_made, make, given),
                format_name=format_name,
                harm=harm,
            )


def _said(doc: str | None) -> str:
    """Return the first line of a docstring as the rows of tables are written: without its full
    stop, and small at its beginning.
    """
    line = (doc or "").strip().partition("\n")[0].rstrip(".")
    return line if line[1:2].isupper() else line[:1].lower() + line[1:]


def _made(make: Callable[..., Content], given: Sequence[Any], _: Random) -> Content:
    return make(*given)


def corpus(families: Iterable[str] | None = None) -> tuple[HostileFile, ...]:
    """Return every hostile file, or those of some families, in the modules' order."""
    selected = None if families is None else set(families)
    return tuple(
        file
        for family in _families()
        if selected is None or family.name in selected
        for file in family.hostile_files
    )


def family_names() -> tuple[str, ...]:
    """Return the names of the families, in the modules' order."""
    return tuple(dict.fromkeys(family.name for family in _families()))


@dataclass(frozen=True)
class Written:
    """A hostile file on disk: its files, its own first, and their size together."""

    hostile_file: HostileFile
    files: tuple[Path, ...]
    bytes: int


def write_corpus(
    hostile_files: Iterable[HostileFile], folder: Path, seed: int = 0
) -> tuple[tuple[Written, ...], str]:
    """Write hostile files, each into a folder of its own, and return them with one SHA-256 over all
    their names and bytes.
    """
    whole = hashlib.sha256()
    written = []
    for hostile_file in hostile_files:
        paths, size = [], 0
        for name, content in hostile_file.files(seed).items():
            whole.update(f"{hostile_file.name}/{name}/{len(content)}/".encode())
            whole.update(hashlib.sha256(content).digest())
            path = folder / hostile_file.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            paths.append(path)
            size += len(content)
        written.append(Written(hostile_file, tuple(paths), size))
    return tuple(written), whole.hexdigest()


def _families() -> Iterator[Family]:
    for module in _modules():
        yield from (family for family in vars(module).values() if isinstance(family, Family))


def _modules() -> list[ModuleType]:
    return [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name)
    ]
