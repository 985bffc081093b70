"""Torch checkpoints made into safetensors: streamed from a mapping of the source, and whole or not
at all.

Importing this and `convert_file` need the standard library and torch alone, so that they also run
inside an environment under test.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.atomic_write import write_atomically, write_folder_atomically, write_text
from harness.checkpoints.folders import (
    WeightSet,
    indexed,
    is_index,
    is_weights,
    safetensors_index_name,
    safetensors_name,
    walk,
    weight_sets,
)
from harness.checkpoints.mapped_files import is_safetensors, open_mapped
from harness.checkpoints.safetensors_file import SAFETENSORS_SUFFIXES
from harness.checkpoints.shared_tensors import sharing
from harness.checkpoints.streamed_write import copy, safetensors_start, stream
from harness.errors import WeighbridgeError


@dataclass(frozen=True)
class Converted:
    """One safetensors file made of one torch file; sizes in bytes."""

    path: Path
    names: tuple[str, ...]
    """The tensors it holds."""
    bytes: int
    """Size of its tensors, without the header."""
    largest: int
    """Size of the largest of them."""
    ties: dict[str, str]
    """Names it does not hold, since they are the tensor of another name: that name by each. Its
    metadata says so.
    """

    parts: dict[str, str]
    """Names it holds whole though they share memory with another one of the source: that name by
    each. Its metadata says that, too.
    """

    note: str | None
    """Where in the source the tensors lay and what was left out, in a line; None where they were
    all of it.
    """


def convert_file(
    source: Path,
    destination: Path,
    discard: Callable[[], Collection[str]] = tuple,
    keep: Callable[[str], bool] = lambda name: True,
    key: str | None = None,
) -> Converted:
    """Make `destination` a safetensors file of the tensors of the torch file `source`, and return
    what was made.

    Of names that are the same tensor one is kept, as the hub's converter chooses it, and the
    metadata maps each other to it; `discard` returns names that are kept only if there is no other
    (it is asked only where memory is shared). Of names that `keep` refuses nothing is made: an
    index says that they lie in another file. Of a training checkpoint the state dict is taken,
    under `key` where that is given. Takes anonymous memory for one tensor at most, and for none
    that is contiguous. The source is read with `weights_only=True` and not scanned. Raises
    `WeighbridgeError` where it cannot be read or `destination` exists, which stays as it is.
    """
    refuse_existing(destination)
    opened = open_mapped(source, key)
    if opened.path.suffix.lower() not in SAFETENSORS_SUFFIXES and is_safetensors(source):
        raise WeighbridgeError(
            f"{source}: its content is safetensors already; rename it to end in .safetensors"
        )
    opened = replace(
        opened, tensors={name: tensor for name, tensor in opened.tensors.items() if keep(name)}
    )
    shared = sharing(opened.tensors, discard)
    kept = {name: tensor for name, tensor in opened.tensors.items() if name not in shared.same}
    order = sorted(
        kept, key=lambda name: (-kept[name].itemsize, kept[name].data_ptr())
    )  # as the library does: what is large is aligned by coming first
    header = safetensors_start(source, kept, order, shared.same | shared.parts)
    try:
        write_atomically(
            destination,
            lambda temporary: stream(temporary, header, [kept[name] for name in order]),
            replace=False,
        )
    except FileExistsError:
        raise _made_meanwhile(destination) from None
    sizes = [tensor.nbytes for tensor in kept.values()]
    return Converted(
        destination,
        tuple(order),
        sum(sizes),
        max(sizes, default=0),
        shared.same,
        shared.parts,
        opened.note,
    )


def convert(
    source: Path, destination: Path | None, say: Callable[[str], None], key: str | None = None
) -> Path:
    """Scan the torch file or folder `source`, make safetensors of it at `destination`, and return
    where that is.

    The default destination is beside the source: of a file the hub's name for it
    (`model.safetensors` of `pytorch_model.bin`), of a folder NAME-safetensors. `say` is given lines
    on what was made. Raises `WeighbridgeError` where there is nothing to convert, the scan is not
    clean, the source is no checkpoint of tensors, or the destination exists.
    """
    if not source.exists():
        raise WeighbridgeError(
            f"{source}: there is no such file or folder, so there is nothing to convert"
        )
    if is_index(source):
        say(f"{source.name}: an index, so its shards in {source.parent} are converted")
        source, only = source.parent, indexed(source)
    else:
        only = None
    try:
        if source.is_dir():
            return _convert_folder(source, destination, say, only, key)
        return _convert_one(source, destination, say, key)
    except OSError as error:
        raise WeighbridgeError(
            f"{source}: cannot be converted: {error}; nothing was left at the destination"
        ) from None


def convert_weights(
    source: Path,
    into: Path,
    say: Callable[[str], None],
    only: WeightSet | None = None,
    key: str | None = None,
) -> list[Path]:
    """Scan the torch weights of the folder `source`, or of it `only` one set, make safetensors of
    them under `into`, and return their files, indexes included.

    They are named by their hub names at the same places. What is there as safetensors already is
    not made again. Raises `WeighbridgeError` where there are no torch weights or the scan is not
    clean.
    """
    sets = [
        weight_set
        for weight_set in ([only] if only else weight_sets(source, say))
        if weight_set.torch
    ]
    if not sets:
        raise WeighbridgeError(
            f"{source}: has no torch weights to convert, or each exists as safetensors already"
        )
    _scan([file for weight_set in sets for file in weight_set.files])
    paths: list[Path] = []
    for weights in sets:
        folder = into / weights.folder.relative_to(source)
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            _convert_told(
                file,
                folder / safetensors_name(file.name),
                say,
                partial(_counts, weights, file),
                key,
            )
            for file in weights.files
        ]
        paths += [converted.path for converted in files]
        if weights.index:
            paths.append(_write_index(weights, folder, files))
    return paths


def _counts(weights: WeightSet, file: Path, name: str) -> bool:
    return weights.counts(name, file)


def default_destination(source: Path) -> Path:
    """Return where a converted checkpoint goes unless the person says otherwise."""
    source = source.absolute()
    return (
        source.with_name(f"{source.name}-safetensors")
        if source.is_dir()
        else source.with_name(safetensors_name(source.name))
    )


def refuse_existing(path: Path) -> None:
    """Raise `WeighbridgeError` where there is something at `path`."""
    if path.exists() or path.is_symlink():
        raise WeighbridgeError(
            f"{path}: exists already and is not changed; name another destination or remove it"
        )


def _made_meanwhile(path: Path) -> WeighbridgeError:
    return WeighbridgeError(
        f"{path}: exists already: another process made it meanwhile; it is kept, and the"
        " result of this command is removed"
    )


def _convert_one(
    source: Path, destination: Path | None, say: Callable[[str], None], key: str | None
) -> Path:
    target = destination or default_destination(source)
    if target.suffix != ".safetensors":
        raise WeighbridgeError(
            f"{target}: a safetensors file ends in .safetensors; name the destination so"
        )
    if not target.parent.is_dir():
        raise WeighbridgeError(
            f"{target}: its folder does not exist; make it or name another destination"
        )
    if source.suffix.lower() in SAFETENSORS_SUFFIXES:
        raise WeighbridgeError(f"{source}: is safetensors by its name; there is nothing to convert")
    refuse_existing(target)
    _scan([source])
    _convert_told(source, target, say, key=key)
    return target


def _convert_folder(
    source: Path,
    destination: Path | None,
    say: Callable[[str], None],
    only: WeightSet | None,
    key: str | None,
) -> Path:
    target = destination or default_destination(source)
    refuse_existing(target)
    if _resolved(target).is_relative_to(source.resolve()):
        raise WeighbridgeError(
            f"{target}: lies in the folder that is converted; name a destination outside of it"
        )
    if not target.absolute().parent.is_dir():
        raise WeighbridgeError(
            f"{target}: its folder does not exist; make it or name another destination"
        )

    lines: list[str] = []

    def tell(line: str) -> None:
        if line not in lines:
            lines.append(line)
            say(line)

    def fill(temporary: Path) -> None:
        convert_weights(source, temporary, tell, only, key)
        _copy_rest(source, temporary, [only] if only else weight_sets(source, tell), lines, tell)

    try:
        write_folder_atomically(target, fill, lambda _: None, replace=False)
    except FileExistsError:
        raise _made_meanwhile(target) from None
    return target


def _resolved(path: Path) -> Path:
    """Return where a path that is not there yet would be, through `..` and links."""
    return path.absolute().parent.resolve() / path.name


def _copy_rest(
    source: Path,
    into: Path,
    sets: Sequence[WeightSet],
    lines: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Copy what a loader needs beside the converted weights, and say of every other weights file
    that it was left out, unless `lines` do.
    """
    converted = {
        file
        for weights in sets
        if weights.torch
        for file in (*weights.files, *([weights.index] if weights.index else []))
    }
    for file in walk(source):
        relative = file.relative_to(source)
        if file in converted:
            continue
        if is_weights(file):
            if not any(line.startswith(f"{relative}: ") for line in lines):
                say(f"{relative}: left out, because it is not part of the safetensors form")
            continue
        (into / relative).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(into / relative, partial(copy, file))


def _convert_told(
    source: Path,
    destination: Path,
    say: Callable[[str], None],
    keep: Callable[[str], bool] = lambda name: True,
    key: str | None = None,
) -> Converted:
    began = time.perf_counter()
    converted = convert_file(source, destination, lambda: _tied_names(source.parent), keep, key)
    took = time.perf_counter() - began
    say(
        f"{converted.path.name}: {len(converted.names)} tensors, {converted.bytes / 1e6:,.1f} MB in"
        f" {took:.1f} s, of {source.name}"
    )
    for name, kept in converted.ties.items():
        say(f"  {name} is {kept}, which is kept; the metadata says so")
    for name, kept in converted.parts.items():
        say(f"  {name} shares memory with {kept}; both are kept whole, and the metadata says so")
    if converted.note:
        say(f"  {converted.note}")
    return converted


def _scan(files: Iterable[Path]) -> None:
    """Raise `WeighbridgeError` for the first file that is not clean."""
    from harness.checkpoints.scan import ScanVerdict, scan  # imported here: it brings picklescan

    for finding in scan(files):
        if finding.verdict != ScanVerdict.CLEAN:
            raise WeighbridgeError(
                f"{finding.path}: {finding.verdict} in a scan ({finding.detail}); none of its code"
                " ran, and nothing is converted"
            )


def _write_index(weights: WeightSet, folder: Path, files: list[Converted]) -> Path:
    assert weights.index
    path = folder / safetensors_index_name(weights.index.name)
    index = {
        "metadata": {"total_size": sum(file.bytes for file in files)},
        "weight_map": {name: file.path.name for file in files for name in sorted(file.names)},
    }
    write_text(path, json.dumps(index, indent=2) + "\n")
    return path


def _tied_names(folder: Path) -> set[str]:
    """Return the names a transformers model makes by tying, which it expects no file to hold.

    None where its class is not known here.

    The hub's converter asks the class that `config.json` names. Here its source is read instead,
    since importing it takes seconds and more memory than the conversion.
    """
    spec = importlib.util.find_spec("transformers")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, model = str(config["architectures"][0]), str(config["model_type"]).replace("-", "_")
        assert spec and spec.origin and model.isidentifier()
        source = Path(spec.origin).parent / "models" / model / f"modeling_{model}.py"
        classes = [
            node
            for node in ast.parse(source.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef)
        ]
        for line in next(node for node in classes if node.name == kind).body:
            if isinstance(line, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "_tied_weights_keys" for t in line.targets
            ):
                return set(map(str, ast.literal_eval(line.value)))
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        SyntaxError,
        StopIteration,
        AssertionError,
    ):
        return set()
    return set()
