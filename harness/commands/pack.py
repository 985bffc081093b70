"""`weighbridge pack`: a person's run, copied so that it can be contributed."""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path

from harness.console import say
from harness.errors import WeighbridgeError
from harness.records.checks import CHECKS
from harness.records.privacy import private_in
from harness.records.run_directory import MANIFEST, REFERENCE, SAMPLES, RunDirectory
from harness.records.trials import TRIALS

AT_MOST = 2_000_000
"""Bytes that a contributed run may take."""
_BESIDE = ("verdicts.json",)
"""What comes along where there is room, the first first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pack`."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the directory of a finished run; it is only read"
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        default=REFERENCE,
        help=f"where contributed runs lie (default: {REFERENCE})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Copy the run, print where it lies and what to do next, and return 0.

    Raises `WeighbridgeError`.
    """
    if arguments.into == REFERENCE and not REFERENCE.is_dir():
        raise WeighbridgeError(
            f"no {REFERENCE} here; go to the project's folder, or name another with --into"
        )
    packed = pack(arguments.run, arguments.into)
    say(f"{packed}\nGo on with:\n    nox -s report\n    git add {packed} reports")
    return 0


def pack(source: Path, into: Path) -> Path:
    """Copy a run into a folder of contributed ones and return where it lies.

    Raises `WeighbridgeError`, and writes nothing, where it may not.

    Nothing but what is evidence is copied: the manifest, the samples and trials, packed where the
    run would be too large, the checks, and beside them verdicts.
    """
    RunDirectory.at(source)
    run = RunDirectory(source.resolve())
    target = into / run.name
    if target.exists():
        raise WeighbridgeError(f"{source}: {target} is there already; each run is contributed once")
    _refuse_unfinished(run, source)
    contents = _contents(run, source)
    for name, content in contents.items():
        if names := private_in(
            (gzip.decompress(content) if name.endswith(".gz") else content).decode(
                "utf-8", "replace"
            )
        ):
            raise WeighbridgeError(
                f"{source}: {name} holds {', '.join(names[:3])}, which may tell of you; take it"
                " out, or measure again without it"
            )
    _write(contents, target)
    return target


def _refuse_unfinished(run: RunDirectory, source: Path) -> None:
    if not run.manifest().get("finished_at"):
        raise WeighbridgeError(
            f"{source}: the run is not finished; go on with it by --resume {run.name}, and pack it"
            " then"
        )
    if not any(sample.valid for sample in run.samples()) and not run.trials():
        raise WeighbridgeError(
            f"{source}: the run holds no valid sample, so it says nothing; its report.md says why"
        )


def _contents(run: RunDirectory, source: Path) -> dict[str, bytes]:
    """Return the files of the packed run.

    Raises `WeighbridgeError` where even packed they are too many bytes.
    """
    plain = {
        name: content
        for name in (SAMPLES, TRIALS)
        if (content := _lines(run.path / name)) is not None
    }
    kept = {
        name: (run.path / name).read_bytes()
        for name in (MANIFEST, CHECKS)
        if (run.path / name).is_file()
    }
    beside = {
        name: (run.path / name).read_bytes() for name in _BESIDE if (run.path / name).is_file()
    }
    if _size({**kept, **beside, **plain}) <= AT_MOST:
        return {**kept, **plain, **beside}
    kept |= {f"{name}.gz": gzip.compress(content, 9, mtime=0) for name, content in plain.items()}
    if _size(kept) > AT_MOST:
        raise WeighbridgeError(
            f"{source}: packed it takes {_size(kept) / 1e6:.1f} MB, and a contributed run at most"
            f" {AT_MOST / 1e6:.0f}; measure fewer cells in a run"
        )
    for name, content in beside.items():
        if _size(kept) + len(content) <= AT_MOST:
            kept[name] = content
    return kept


def _lines(path: Path) -> bytes | None:
    """Return a file's lines, packed or not; None where there is no such file."""
    packed = path.with_name(f"{path.name}.gz")
    if path.exists():
        return path.read_bytes()
    return gzip.decompress(packed.read_bytes()) if packed.exists() else None


def _size(contents: dict[str, bytes]) -> int:
    return sum(map(len, contents.values()))


def _write(contents: dict[str, bytes], target: Path) -> None:
    temporary = target.with_name(f".{target.name}.part")
    try:
        temporary.mkdir(parents=True)
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
        temporary.rename(target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise WeighbridgeError(
            f"--into {target.parent}: cannot be written to ({error.strerror}); name a folder you"
            " may write to"
        ) from None
