"""The directory a run leaves behind: `manifest.json`, `samples.jsonl`, and beside them what is made
from those two.
"""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.atomic_write import write_text
from harness.errors import WeighbridgeError
from harness.records.checks import CHECKS, Check
from harness.records.manifest import Manifest
from harness.records.old_names import is_trial, line_in_new_names, manifest_in_new_names
from harness.records.sample import SCHEMA, Sample
from harness.records.trials import TRIALS, Trial

MANIFEST, SAMPLES, BENCHMARK = "manifest.json", "samples.jsonl", "benchmark.json"
TRACEBACKS = "tracebacks.txt"
REFERENCE = Path("results/reference")
"""Where the committed runs lie, from the project's folder."""

_Line = TypeVar("_Line", Sample, Check, Trial)


class RunDirectory:
    """One run's evidence on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @classmethod
    def planned(cls, results: Path, label: str) -> RunDirectory:
        """Return a directory that is not there yet, named after the time (UTC) and `label`."""
        stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{label}"
        names = (stem if attempt == 1 else f"{stem}-{attempt}" for attempt in itertools.count(1))
        return cls(next(results / name for name in names if not (results / name).exists()))

    def make(self) -> None:
        """Make the directory; raises `WeighbridgeError` where that cannot be done."""
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise WeighbridgeError(
                f"--results {self.path.parent}: cannot be written to ({error.strerror}); name a"
                " folder you may write to"
            ) from None

    @classmethod
    def at(cls, path: Path) -> RunDirectory:
        """Return the run that lies at a path; raises `WeighbridgeError` where none does."""
        if not (path / MANIFEST).is_file():
            raise WeighbridgeError(f"{path}: no run directory; one holds a {MANIFEST}")
        return cls(path)

    @classmethod
    def all_in(cls, folder: Path) -> list[RunDirectory]:
        """Return every run directly in a folder, oldest first."""
        return [cls(manifest.parent) for manifest in sorted(folder.glob(f"*/{MANIFEST}"))]

    @classmethod
    def existing(cls, results: Path, run: str) -> RunDirectory:
        """Return a run by its name under `results` or by its path.

        Raises `WeighbridgeError` listing the runs there are.
        """
        for path in (results / run, Path(run)):
            if (path / MANIFEST).is_file():
                return cls(path)
        runs = sorted(path.parent.name for path in results.glob(f"*/{MANIFEST}"))
        raise WeighbridgeError(
            f"no run {run!r} in {results}; there are: {', '.join(runs) or 'none'}"
        )

    def keep_traceback(self, where: str, text: str) -> None:
        """Append the traceback of an error that a loader raised, under a line that says which
        loader and where.
        """
        with (self.path / TRACEBACKS).open("a", encoding="utf-8") as file:
            file.write(f"=== {where}\n{text.rstrip()}\n\n")

    def write_manifest(self, manifest: Mapping[str, object]) -> None:
        """Replace the manifest, all of it or nothing."""
        write_text(self.path / MANIFEST, json.dumps(manifest, indent=2) + "\n")

    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises `WeighbridgeError` where it cannot be read or is of another schema.
        """
        try:
            manifest: Manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeighbridgeError(
                f"{self.path}: no readable {MANIFEST} ({error}); a run directory holds one"
            ) from None
        if manifest.get("schema") != SCHEMA:
            raise WeighbridgeError(
                f"{self.path}: schema {manifest.get('schema')}, and this release reads schema"
                f" {SCHEMA}; read it with the release that wrote it"
            )
        renamed: Manifest = manifest_in_new_names(manifest)
        try:
            msgspec.convert(renamed, Manifest)
        except msgspec.ValidationError as error:
            raise WeighbridgeError(
                f"{self.path}: {MANIFEST} is not as this release writes it: {error}"
            ) from None
        return renamed

    def append(self, sample: Sample) -> None:
        """Add a sample as one line, handed to the kernel in one write before this returns: a killed
        run keeps it.
        """
        self._append(SAMPLES, sample.as_json())

    def append_check(self, check: Check) -> None:
        """Add a check as one line of its own file, as safely as a sample."""
        self._append(CHECKS, check.as_json())

    def append_trial(self, trial: Trial) -> None:
        """Add a trial as one line of its own file, as safely as a sample."""
        self._append(TRIALS, trial.as_json(), compact=True)

    def samples(self) -> list[Sample]:
        """Return every whole sample in the order taken.

        A last line without its end is one that was being written, and is left out.

        Raises `WeighbridgeError` for any other line that cannot be read or has other fields than
        the first.
        """
        with _no_collection():
            return list(
                self._read(SAMPLES, Sample, "a sample", lambda line: not is_trial(line), alike=True)
            )

    def trials(self) -> list[Trial]:
        """Return every whole trial in the order held, none where the run has none.

        As careful as `samples`.
        """
        apart = any((self.path / name).exists() for name in (TRIALS, f"{TRIALS}.gz"))
        return list(self._read(TRIALS if apart else SAMPLES, Trial, "a trial", is_trial))

    def checks(self) -> list[Check]:
        """Return every whole check in the order carried out, none where the run has none.

        As careful as `samples`.
        """
        return list(self._read(CHECKS, Check, "a check"))

    def drop_unfinished_line(self) -> None:
        """Cut off a last line that has no end, so that what is appended next stands on a line of
        its own.
        """
        for path in (self.path / name for name in (SAMPLES, TRIALS, CHECKS)):
            if path.exists():
                content = path.read_bytes()
                whole = content.rfind(b"\n") + 1
                if whole != len(content):
                    os.truncate(path, whole)

    def _append(self, name: str, line: dict[str, Any], *, compact: bool = False) -> None:
        fd = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(
                fd, json.dumps(line, separators=(",", ":") if compact else None).encode() + b"\n"
            )
        finally:
            os.close(fd)

    def _read(
        self,
        name: str,
        kind: type[_Line],
        what: str,
        belongs: Callable[[bytes], bool] = lambda _: True,
        alike: bool = False,
    ) -> Iterator[_Line]:
        """Yield the records of a file.

        Where they are `alike`, a line with other fields than the first is an error.

        A run is of one release, so such a line has lost some of its fields.
        """
        path = self.path / name
        packed = path.with_name(f"{name}.gz")
        if not path.exists() and not packed.exists():
            return
        decoder, keys = msgspec.json.Decoder(kind), msgspec.json.Decoder(dict[str, msgspec.Raw])
        first: set[str] | None = None
        with (
            path.open("rb") if path.exists() else gzip.open(packed)
        ) as lines:  # a long run is kept packed
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return
                if not belongs(line):
                    continue
                try:
                    renamed = line_in_new_names(line)
                    if alike:
                        fields = set(keys.decode(renamed))
                        first = first or fields
                        if fields != first:
                            raise ValueError(
                                f"{', '.join(sorted(fields ^ first))}: not in every line alike"
                            )
                    yield decoder.decode(renamed)
                except ValueError as error:
                    raise WeighbridgeError(f"{path}, line {number}: not {what} ({error})") from None


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector away while very many objects are made, none of them garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
