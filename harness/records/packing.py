"""A run as it is contributed: what of it is evidence, packed where it would be too large."""

from __future__ import annotations

import gzip
from pathlib import Path

from harness.records import limits
from harness.records.checks import CHECKS
from harness.records.run_directory import MANIFEST, SAMPLES, RunDirectory
from harness.records.trials import TRIALS

_BESIDE = ("verdicts.json",)
"""What comes along where there is room, the first first."""


def packed_contents(run: RunDirectory) -> dict[str, bytes]:
    """Return the files of the packed run by name: the manifest, samples, trials and checks, and
    verdicts where there is room.

    Samples and trials are compressed where all would be more than `RUN_BYTES_AT_MOST`. What is too
    large even so is returned all the same.
    """
    plain = {
        name: content
        for name in (SAMPLES, TRIALS)
        if (content := _lines(run.path / name)) is not None
    }
    kept = _files(run.path, (MANIFEST, CHECKS))
    beside = _files(run.path, _BESIDE)
    if size_of({**kept, **beside, **plain}) <= limits.RUN_BYTES_AT_MOST:
        return {**kept, **plain, **beside}
    kept |= {f"{name}.gz": gzip.compress(content, 9, mtime=0) for name, content in plain.items()}
    for name, content in beside.items():
        if size_of(kept) + len(content) <= limits.RUN_BYTES_AT_MOST:
            kept[name] = content
    return kept


def size_of(contents: dict[str, bytes]) -> int:
    """Return the bytes of all files together."""
    return sum(map(len, contents.values()))


def text_of(name: str, content: bytes) -> str:
    """Return the text of a file of a run, decompressed where its name says so."""
    plain = gzip.decompress(content) if name.endswith(".gz") else content
    return plain.decode("utf-8", "replace")


def _files(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def _lines(path: Path) -> bytes | None:
    """Return a file's lines, packed or not; None where there is no such file."""
    packed = path.with_name(f"{path.name}.gz")
    if path.exists():
        return path.read_bytes()
    return gzip.decompress(packed.read_bytes()) if packed.exists() else None
