"""The store: each checkpoint made once in each format, verified, and kept between runs.

A folder per checkpoint holds its files, `digests.json` and `checksums.json` (one of each per
tensor) and one receipt per format, written last: a format without a receipt was never finished and
is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.atomic_write import write_atomically, write_folder_atomically, write_text
from harness.checkpoints.digest import checkpoint_digest, tensor_digests
from harness.checkpoints.formats import FORMATS, Format
from harness.checkpoints.layout import TensorSpec
from harness.checkpoints.layouts import WARM_UPS
from harness.checkpoints.parts import Piece
from harness.checkpoints.sources import Source, layout_source
from harness.errors import WeighbridgeError
from harness.machine.description import available_memory
from harness.records.manifest import CheckpointRecord

if TYPE_CHECKING:
    import torch

    from harness.checkpoints.checksum import Checksum

_MEMORY_FACTOR = 2.2  # a shard in memory, and once more while what was written is read back
_DISK_RESERVE = 1 << 30
KNOWN_DIGESTS_FILE = Path(__file__).with_name("digests.json")
"""Committed digests of the built-in layouts with seed 0: the same content on every machine, or the
store says so.
"""


class DoesNotFitError(WeighbridgeError):
    """A checkpoint needs more disk or memory than there is.

    The message has the figure that is short.
    """


@dataclass(frozen=True)
class Artifact:
    """A checkpoint in one format: its files and their size in bytes."""

    format: str
    files: tuple[Path, ...]
    file_bytes: int
    given: bool
    """Whether the files are the person's own, which nothing may write to and nothing may trust."""


@dataclass(frozen=True)
class Checkpoint:
    """A stored checkpoint: tensors on disk in one or more formats, all holding identical
    content.
    """

    name: str
    bytes: int
    tensors: int
    sharded: bool
    digest: str
    checksums_file: Path
    artifacts: dict[str, Artifact]
    shards: tuple[tuple[TensorSpec, ...], ...]
    """The tensors of each file, in file order."""
    refused: dict[str, str]
    """Why it was not made in a format that was asked for, by the format."""
    notes: tuple[str, ...] = ()
    """What a person should know of how their own was read."""

    def as_json(self) -> CheckpointRecord:
        """Return what a manifest keeps of it."""
        formats = {artifact.format: artifact.file_bytes for artifact in self.artifacts.values()}
        record: CheckpointRecord = {
            "bytes": self.bytes,
            "tensors": self.tensors,
            "digest": self.digest,
            "formats": formats,
        }
        if self.notes:
            record["notes"] = list(self.notes)
        return record


@dataclass(frozen=True)
class Selection:
    """Pieces of a checkpoint that are asked for: a file with the pieces and the checksum of each,
    and their size in bytes.
    """

    file: Path
    bytes: int


class Store:
    """The folder of checkpoints; `say` is told what is being made, in any of `formats`."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None] = lambda _: None,
        formats: Mapping[str, Format] = FORMATS,
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WeighbridgeError(
                f"--store {folder}: cannot be made ({error.strerror}); name a folder you may"
                " write to"
            ) from None
        self.folder = folder.resolve()
        self._say = say
        self._formats = formats

    def checkpoint(
        self, source: Source, formats: Iterable[str], known_digest: str | None = None
    ) -> Checkpoint:
        """Return the checkpoint with at least these formats, making what is missing.

        One that cannot be made is told by its reason.

        Raises `DoesNotFitError` before anything is written where disk or memory is short, and
        `WeighbridgeError` where the content comes out other than `known_digest`.
        """
        folder = self.folder / f"{source.name}-{source.identity}"
        folder.mkdir(exist_ok=True)
        sharded = len(source.shard_bytes) > 1
        given = (
            source.given if source.given and _same_device(source.given.files, self.folder) else None
        )
        dtypes = {spec.dtype for shard in source.shards for spec in shard}
        format_s = [self._formats[name] for name in formats]
        refused = {
            form.name: reason
            for form in format_s
            if (reason := form.refusal(source.name, dtypes, sharded))
        }
        forms = [form for form in format_s if form.name not in refused]
        missing = [
            form
            for form in forms
            if not (given and given.format == form.name) and _receipt(folder, form, sharded) is None
        ]
        digests_file, checksums_file = folder / "digests.json", folder / "checksums.json"
        if missing or not (digests_file.exists() and checksums_file.exists()):
            failed = self._make(source, folder, missing, sharded)
            refused |= failed
            forms = [form for form in forms if form.name not in failed]
        digests: dict[str, str] = json.loads(digests_file.read_text())
        digest = checkpoint_digest(digests)
        if known_digest and digest != known_digest:
            raise WeighbridgeError(
                f"{source.name}: its content has digest {digest[:12]} here and {known_digest[:12]}"
                " elsewhere, so figures would not compare; report this, with NumPy's version"
            )
        artifacts = {}
        for form in forms:
            own = given is not None and given.format == form.name
            files = given.files if given and own else _receipt(folder, form, sharded) or ()
            name = form.sharded_name if sharded else form.name
            artifacts[form.name] = Artifact(
                name, files, sum(file.stat().st_size for file in files), own
            )
        return Checkpoint(
            source.name,
            source.bytes,
            len(digests),
            sharded,
            digest,
            checksums_file,
            artifacts,
            source.shards,
            refused,
            source.notes,
        )

    def linked(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint whose given files are links in a folder of the store: what is written
        beside them stays out of the person's.
        """
        folder = checkpoint.checksums_file.parent / "given"
        artifacts = {
            name: (
                replace(artifact, files=tuple(_link(file, folder) for file in artifact.files))
                if artifact.given
                else artifact
            )
            for name, artifact in checkpoint.artifacts.items()
        }
        return replace(checkpoint, artifacts=artifacts)

    def selections(
        self, source: Source, selection: Mapping[str, Sequence[Piece]]
    ) -> dict[str, Selection]:
        """Return the selection of each name, its checksums made from the source's own tensors where
        they are not known yet.
        """
        folder = self.folder / f"{source.name}-{source.identity}" / "selections"
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            name: folder / f"{name}-{hashlib.sha256(repr(pieces).encode()).hexdigest()[:12]}.json"
            for name, pieces in selection.items()
        }
        missing = {name: selection[name] for name, file in files.items() if not file.exists()}
        if missing:
            self._say(f"noting what {', '.join(missing)} of {source.name} hold")
            for name, content in _select(source, missing).items():
                write_text(files[name], json.dumps(content))
        return {
            name: Selection(file, json.loads(file.read_text())["bytes"])
            for name, file in files.items()
        }

    def warm_up(self, formats: Iterable[str]) -> dict[str, tuple[Path, ...]]:
        """Return the files of the tiny checkpoint that a sample's process loads before the one that
        is timed, by format.

        A format that cannot be made here is left out.
        """
        by_layout: dict[str, list[str]] = {}
        for format_name in formats:
            by_layout.setdefault(self._formats[format_name].warm_up, []).append(format_name)
        checkpoints = [
            self.checkpoint(layout_source(WARM_UPS[name](), 0), names)
            for name, names in by_layout.items()
        ]
        return {
            format_name: artifact.files
            for checkpoint in checkpoints
            for format_name, artifact in checkpoint.artifacts.items()
        }

    def _make(
        self, source: Source, folder: Path, missing: list[Format], sharded: bool
    ) -> dict[str, str]:
        """Make a checkpoint in the formats that are missing.

        Return why each that cannot hold it was left out, by its name.
        """
        from harness.checkpoints.checksum import checksums

        self._check_room(source, len(missing))
        shards = len(source.shard_bytes)
        digests: dict[str, str] = {}
        sums: dict[str, Checksum] = {}
        where: dict[str, dict[str, str]] = {form.name: {} for form in missing}
        failed: dict[str, str] = {}
        for number, size in enumerate(source.shard_bytes):
            self._say(
                f"making {source.name}{f', shard {number + 1} of {shards}' if sharded else ''}"
                f" ({size / 1e6:,.0f} MB a format)"
            )
            tensors = source.make(number)
            expected = tensor_digests(tensors)
            digests |= expected
            sums |= checksums(tensors)
            for form in missing:
                if form.name in failed:
                    continue
                path = folder / form.file_names(shards)[number]
                self._say(f"making {source.name}: {path.name}")
                if reason := _failure(form, path, source.name, tensors, expected):
                    failed[form.name] = reason
                where[form.name] |= dict.fromkeys(tensors, path.name)
            del tensors  # before the next shard is made
        write_text(folder / "digests.json", json.dumps(digests, indent=0))
        write_text(folder / "checksums.json", json.dumps(sums))
        for form in missing:
            if form.name in failed:
                continue
            if sharded and form.index:
                index = {"metadata": {"total_size": source.bytes}, "weight_map": where[form.name]}
                write_text(folder / form.index, json.dumps(index, indent=2))
            files = [folder / name for name in form.file_names(shards)]
            if form.folder:
                files = sorted(file for path in files for file in path.rglob("*") if file.is_file())
            receipt = {
                "files": {
                    file.relative_to(folder).as_posix(): file.stat().st_size for file in files
                }
            }
            write_text(_receipt_path(folder, form, sharded), json.dumps(receipt))
        return failed

    def _check_room(self, source: Source, formats: int) -> None:
        needed, free = source.bytes * formats, shutil.disk_usage(self.folder).free - _DISK_RESERVE
        if needed > free:
            raise DoesNotFitError(
                f"{source.name}: its missing formats need {needed / 1e9:.1f} GB of disk in the"
                f" store, {max(free, 0) / 1e9:.1f} GB can be had"
            )
        memory, available = int(max(source.shard_bytes) * _MEMORY_FACTOR), available_memory()
        if available is not None and memory > available:
            raise DoesNotFitError(
                f"{source.name}: making it needs {memory / 1e9:.1f} GB of memory,"
                f" {available / 1e9:.1f} GB can be had"
            )


def _select(source: Source, selection: Mapping[str, Sequence[Piece]]) -> dict[str, dict[str, Any]]:
    """Return {pieces: by shard, bytes, checksums} of each selection; each shard is made once."""
    from harness.checkpoints.checksum import checksums

    selected: dict[str, dict[str, Any]] = {
        name: {"pieces": [], "bytes": 0, "checksums": {}} for name in selection
    }
    for number, specs in enumerate(source.shards):
        names = {spec.name for spec in specs}
        here = {
            name: [piece for piece in pieces if piece.tensor in names]
            for name, pieces in selection.items()
        }
        tensors = source.make(number) if any(here.values()) else {}
        for name, pieces in here.items():
            cut = {piece.tensor: piece.of(tensors[piece.tensor]).contiguous() for piece in pieces}
            selected[name]["pieces"].append([astuple(piece) for piece in pieces])
            selected[name]["bytes"] += sum(tensor.nbytes for tensor in cut.values())
            selected[name]["checksums"] |= checksums(cut)
    return selected


def known_digest(name: str, seed: int) -> str | None:
    """Return the committed digest of a built-in layout's content, or None where none is recorded
    for this seed.
    """
    recorded: dict[str, str] = json.loads(KNOWN_DIGESTS_FILE.read_text())
    return recorded.get(name) if seed == 0 else None


def _write(
    form: Format, path: Path, name: str, tensors: dict[str, torch.Tensor], expected: dict[str, str]
) -> None:
    """Write one file or folder of a format and read it back before it gets its name."""
    beside = (form.beside(name) if form.beside else None) or {}

    def write(part: Path) -> None:
        for relative, text in beside.items():
            (part / relative).parent.mkdir(parents=True, exist_ok=True)
            (part / relative).write_text(text, encoding="utf-8")
        form.write(tensors, part)

    def verify(written: Path) -> None:
        if tensor_digests(form.read(written)) != expected:
            raise WeighbridgeError(
                f"{path}: does not read back as the same tensors; the disk or the writer of"
                f" {form.name} is at fault"
            )

    (write_folder_atomically if form.folder else write_atomically)(path, write, verify)


def _failure(
    form: Format, path: Path, name: str, tensors: dict[str, torch.Tensor], expected: dict[str, str]
) -> str | None:
    """Write one file or folder of a format; return why it cannot hold these tensors, or None.

    A disk that is full or broken, or memory that is short, is no fault of the format and is raised.
    """
    try:
        _write(form, path, name, tensors, expected)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # another library's writer raises what it likes
        words = (
            str(error)
            if isinstance(error, WeighbridgeError)
            else f"{type(error).__name__}: {error}"
        )
        return f"{form.name} cannot hold it: {' '.join(words.split())}"
    return None


def _link(file: Path, folder: Path) -> Path:
    """Return a link to a file in `folder`, made anew."""
    folder.mkdir(exist_ok=True)
    link = folder / file.name
    link.unlink(missing_ok=True)
    link.symlink_to(file.resolve())
    return link


def _receipt_path(folder: Path, form: Format, sharded: bool) -> Path:
    return folder / f"{form.sharded_name if sharded else form.name}.receipt.json"


def _receipt(folder: Path, form: Format, sharded: bool) -> tuple[Path, ...] | None:
    """Return the files of a finished format, or None where there is no receipt or a file is not as
    the receipt says.
    """
    try:
        sizes: dict[str, int] = json.loads(_receipt_path(folder, form, sharded).read_text())[
            "files"
        ]
        files = tuple(folder / name for name in sizes)
        return (
            files
            if all(
                file.stat().st_size == size
                for file, size in zip(files, sizes.values(), strict=True)
            )
            else None
        )
    except (OSError, ValueError, KeyError):
        return None


def _same_device(files: Iterable[Path], folder: Path) -> bool:
    """Return whether the files lie on the store's device: arms on different storage would compare
    the storage.
    """
    return all(file.stat().st_dev == folder.stat().st_dev for file in files)
