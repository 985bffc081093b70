"""Two checkpoints held against each other, whatever their formats: names, dtypes, shapes, bytes,
and which names are one tensor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from harness.checkpoints.folders import WeightSet, indexed, is_index, single, weight_sets
from harness.checkpoints.mapped_files import Tensors, open_mapped, release
from harness.checkpoints.shared_tensors import sharing
from harness.errors import WeighbridgeError

_PIECE_BYTES = 16 << 20
_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@dataclass
class _Side:
    """One of the two checkpoints: every name it gives, those included that only its metadata
    knows.
    """

    called: str
    tensors: Tensors = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    """Names that are the same tensor as another: the other by each."""
    noted: set[str] = field(default_factory=set)
    """Those of them that only metadata tells of, where anything may be noted: a name whose value is
    a tensor's name may be a tie or none.
    """

    parts: dict[str, str] = field(default_factory=dict)
    """Names that overlap another: the other by each."""

    def add(self, file: Path, where: str, weights: WeightSet, key: str | None) -> None:
        """Take in one file.

        Of a name that another one holds as well the index decides, and without one it is an error.
        """
        opened = open_mapped(file, key)
        opened = replace(
            opened,
            tensors={
                name: tensor
                for name, tensor in opened.tensors.items()
                if weights.counts(name, file)
            },
        )
        for name in opened.tensors:
            if name in self.tensors:
                raise WeighbridgeError(
                    f"{where}: {name} is held by more than one file, {file.name} among them; which"
                    " one is meant is unknown"
                )
        shared = sharing(opened.tensors)
        self.tensors |= opened.tensors
        noted = {name: kept for name, kept in opened.recorded.items() if name not in opened.tensors}
        self.noted |= noted.keys()
        self.same |= shared.same | noted
        self.parts |= shared.parts | {
            name: kept for name, kept in opened.recorded.items() if name in opened.tensors
        }

    def names(self) -> set[str]:
        """Return every name, those that only the metadata knows included."""
        return {*self.tensors, *self.same}

    def forget_notes(self, other: _Side) -> None:
        """Take what only the metadata tells of for no tensor where the other side knows no tensor
        of that name.
        """
        known = {*other.tensors, *other.same}
        self.same = {
            name: kept
            for name, kept in self.same.items()
            if name not in self.noted or name in known
        }

    def standing_for(self, name: str) -> str:
        """Return the name that stands for the tensor of this name."""
        return self.same.get(name, name)

    def group(self, name: str) -> frozenset[str]:
        """Return all the names of the tensor of this name."""
        key = self.standing_for(name)
        return frozenset({key, *(other for other, kept in self.same.items() if kept == key)})

    def overlap(self, name: str) -> frozenset[str]:
        """Return all the names whose memory overlaps that of the tensor of this name, or is
        recorded to.
        """
        centre = self.standing_for(self.parts.get(name, name))
        return frozenset(
            {
                centre,
                *(other for other, kept in self.parts.items() if self.standing_for(kept) == centre),
            }
        )


def differences(a: Path, b: Path, key: str | None = None) -> list[str]:
    """Return every difference between two checkpoints in a line each, none where they are the same.

    Either is a weights file or a folder of any number of components, each of them one file or
    shards; of weights that are there as safetensors and as torch files the safetensors are taken.
    Of a training checkpoint the state dict is taken, under `key` where that is given. Bytes are
    compared, so that a NaN is itself, a bounded number of them at a time. Raises `WeighbridgeError`
    where either cannot be read as a checkpoint; nothing of it is run.
    """
    ours, theirs = _components(a), _components(b)
    if a.is_file() or b.is_file():
        if len(ours) != 1 or len(theirs) != 1:
            several = a if len(ours) != 1 else b
            raise WeighbridgeError(
                f"{several}: holds several sets of weights, so it cannot be compared with one"
                " file; name one set"
            )
        (first,), (second,) = ours.values(), theirs.values()
        return _compare(_side(a, first, key), _side(b, second, key), "")
    names = [f"{name}: {a} has these weights, {b} has not" for name in ours if name not in theirs]
    names += [f"{name}: {b} has these weights, {a} has not" for name in theirs if name not in ours]
    several_sets = len({*ours, *theirs}) > 1
    for name in ours:
        if name in theirs:
            names += _compare(
                _side(a, ours[name], key),
                _side(b, theirs[name], key),
                f"{name}: " if several_sets else "",
            )
    return names


def _components(path: Path) -> dict[str, WeightSet]:
    """Return the sets of weights by their place under `path` and their safetensors name."""
    if path.is_file() and is_index(path):
        return {"": indexed(path)}
    if path.is_file():
        return {"": single(path)}
    if not path.is_dir():
        raise WeighbridgeError(f"{path}: there is no such file or folder")
    sets = {
        str((weights.folder / weights.name).relative_to(path)): weights
        for weights in weight_sets(path)
    }
    if not sets:
        raise WeighbridgeError(
            f"{path}: the folder holds no weights, neither safetensors nor files of torch; name the"
            " weights file itself"
        )
    return sets


def _side(called: Path, weights: WeightSet, key: str | None) -> _Side:
    side = _Side(str(called))
    for file in weights.files:
        side.add(file, str(called), weights, key)
    if weights.index:
        names = side.names()
        if lacking := sorted(name for name in weights.places if name not in names):
            raise WeighbridgeError(
                f"{weights.index}: it says that {lacking[0]} lies in {weights.places[lacking[0]]},"
                " which does not hold it; download the shards that belong to it"
            )
        if extra := sorted(name for name in side.tensors if name not in weights.places):
            raise WeighbridgeError(
                f"{weights.index}: it does not name {extra[0]}, which its shards hold; they do not"
                " belong together"
            )
    return side


def _compare(a: _Side, b: _Side, prefix: str) -> list[str]:
    a.forget_notes(b)
    b.forget_notes(a)
    names = [f"{name}: only in {a.called}" for name in sorted(a.names() - b.names())]
    names += [f"{name}: only in {b.called}" for name in sorted(b.names() - a.names())]
    seen: dict[tuple[str, str], str | None] = {}
    for name in sorted(a.names() & b.names()):
        pair = (a.standing_for(name), b.standing_for(name))
        if pair not in seen:  # what is one tensor on both sides is looked at once
            seen[pair] = _difference(a.tensors[pair[0]], b.tensors[pair[1]])
        if text := seen[pair]:
            names.append(f"{name}: {text}")
    return [prefix + line for line in names + _broken_ties(a, b)]


def _broken_ties(a: _Side, b: _Side) -> list[str]:
    names: list[str] = []
    both = a.names() & b.names()
    for name in sorted(both):
        tied, other = a.group(name) & both, b.group(name) & both
        if tied != other:
            names.append(
                f"{name}: in {a.called} {_tied(name, tied)}, in {b.called} {_tied(name, other)}"
            )
        if (
            name in {*a.parts, *b.parts}
            and a.overlap(name) & both != b.overlap(name) & both
            and tied == other
        ):
            names.append(
                f"{name}: in {a.called} it {_overlaps(name, a)}, in {b.called} it"
                f" {_overlaps(name, b)}",
            )
    return names


def _tied(name: str, group: frozenset[str]) -> str:
    others = ", ".join(sorted(group - {name}))
    return f"it is one tensor with {others}" if others else "it is tied to none"


def _overlaps(name: str, side: _Side) -> str:
    others = ", ".join(sorted(side.overlap(name) - {name}))
    return f"shares memory with {others}" if others else "shares memory with none"


def _difference(a: torch.Tensor, b: torch.Tensor) -> str | None:
    """Return what sets two tensors apart, or None."""
    differences = []
    if a.dtype != b.dtype:
        differences.append(f"dtype {_plain(a)} and {_plain(b)}")
    if a.shape != b.shape:
        differences.append(f"shape {list(a.shape)} and {list(b.shape)}")
    if differences:
        return "; ".join(differences)
    count, first, at = 0, None, 0
    for ours, theirs in zip(_pieces(a), _pieces(b), strict=True):
        if _libc.memcmp(ours.data_ptr(), theirs.data_ptr(), ours.nbytes):
            differing = (ours.view(-1, a.itemsize) != theirs.view(-1, a.itemsize)).any(dim=1)
            count += int(differing.sum())
            first = at + int(differing.int().argmax()) if first is None else first
        at += ours.nbytes // a.itemsize
    return (
        f"{count:,} of {a.numel():,} elements differ in their bytes, the first of them number"
        f" {first:,}"
        if count
        else None
    )


def _plain(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the bytes of a mapped tensor in order, a piece at a time as a flat tensor of uint8.

    The pages of each are given back after it.

    Pieces of one shape are cut at the same places, whatever the strides.
    """
    if not tensor.numel():
        return
    rows = tensor.reshape(1) if tensor.dim() == 0 else tensor
    if rows.nbytes > _PIECE_BYTES and rows.dim() > 1 and rows[0].nbytes > _PIECE_BYTES:
        for row in rows:
            yield from _pieces(row)
        return
    step = max(1, _PIECE_BYTES // max(1, rows[0].nbytes))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        lies = part.is_contiguous()
        flat = part.reshape(-1) if lies else part.contiguous().reshape(-1)
        yield flat.view(torch.uint8)
        if lies:
            release(flat.data_ptr(), flat.nbytes)
