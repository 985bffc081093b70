"""Where a checkpoint's tensors come from: a layout with a seed, or a file of the person's own.

torch is imported only where tensors are made or read: a run whose checkpoints are stored needs
none in its own process, and starts 2 s sooner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoints.digest import checkpoint_digest, tensor_digests
from harness.checkpoints.folders import WeightSet, format_of, weights_at
from harness.checkpoints.layout import Layout, TensorSpec
from harness.errors import WeighbridgeError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Given:
    """Files of the person's own that already are one format of the checkpoint.

    They are only ever read.
    """

    format: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Source:
    """One checkpoint before it is stored: a name, the size of each shard in bytes, and what makes
    the tensors of shard number i.
    """

    name: str
    identity: str
    shard_bytes: tuple[int, ...]
    shards: tuple[tuple[TensorSpec, ...], ...]
    make: Callable[[int], Tensors]
    given: Given | None = None
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read: where its tensors lay, what was left out."""

    @property
    def bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(self.shard_bytes)


def layout_source(layout: Layout, seed: int) -> Source:
    """Return the source of a layout's seeded content."""
    shards = layout.shards()
    numbers = {spec.name: index for index, spec in enumerate(layout.tensors)}
    identity = hashlib.sha256(f"{layout.tensors} {layout.shard_bytes} {seed}".encode()).hexdigest()[
        :12
    ]

    def make(shard: int) -> Tensors:
        from harness.checkpoints.content import make_tensors

        return make_tensors(
            layout.name, seed, [(numbers[spec.name], spec) for spec in shards[shard]]
        )

    return Source(
        layout.name,
        identity,
        tuple(sum(spec.bytes for spec in shard) for shard in shards),
        tuple(shards),
        make,
    )


def person_source(path: Path, name: str, key: str | None = None) -> Source:
    """Return the source of a person's checkpoint: a weights file, an index, or a folder with one
    set of weights.

    Of a training checkpoint the state dict is taken, under `key` where that is given. Raises
    `WeighbridgeError` where there is none, where a pickle would need more than `weights_only=True`
    (naming the global it met), or where it holds no tensors.
    """
    try:
        return _person_source(path, name, key)
    except WeighbridgeError as error:
        raise WeighbridgeError(f"--model {error}") from None


def _person_source(path: Path, name: str, key: str | None) -> Source:
    notes: list[str] = []
    weights = weights_at(path, notes.append)
    digests: dict[str, str] = {}
    sizes: list[int] = []
    shards: list[tuple[TensorSpec, ...]] = []
    altered = False
    for file in weights.files:
        tensors, note, fewer = _read(file, weights, key)
        notes += [f"{file.name}: {note}"] if note else []
        altered |= fewer | _unshare(tensors)
        digests |= tensor_digests(tensors)
        sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
        shards.append(tuple(_spec(name, tensor) for name, tensor in tensors.items()))
    if not any(sizes):
        raise WeighbridgeError(
            f"{path}: holds no tensors, or none with content; there is nothing to measure"
        )
    del (
        tensors
    )  # a mapping of the person's file must not outlive this: mapped pages cannot be evicted

    def make(shard: int) -> Tensors:
        tensors, _, _ = _read(weights.files[shard], weights, key)
        _unshare(tensors)
        return {name: tensor.clone() for name, tensor in tensors.items()}

    given = None if altered else Given(format_of(weights), weights.files)
    return Source(
        name,
        checkpoint_digest(digests)[:12],
        tuple(sizes),
        tuple(shards),
        make,
        given,
        tuple(notes),
    )


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _read(path: Path, weights: WeightSet, key: str | None) -> tuple[Tensors, str | None, bool]:
    """Return the tensors of one file that count, over its mapping, what a person should know of it,
    and whether the file holds more than they are.
    """
    from harness.checkpoints.mapped_files import open_mapped

    opened = open_mapped(path, key)
    counted = {
        name: tensor.detach()
        for name, tensor in opened.tensors.items()
        if weights.counts(name, path)
    }
    return counted, opened.note, opened.note is not None or len(counted) < len(opened.tensors)


def _unshare(tensors: Tensors) -> bool:
    """Keep the first name of tensors that are the same, and give every other one memory of its own
    and no more of it than it fills.

    Returns whether any memory had been shared: safetensors stores none, so all formats can hold
    identical tensors only without it, and a file that does is smaller than its tensors.
    """
    same: set[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = set()
    storages: set[int] = set()
    shared = False
    for name, tensor in list(tensors.items()):
        if not tensor.nbytes:
            continue
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        shared |= storage.data_ptr() in storages or storage.nbytes() < tensor.nbytes
        if key in same:
            del tensors[name]
        elif (
            storage.data_ptr() in storages
            or storage.nbytes() != tensor.nbytes
            or not tensor.is_contiguous()
        ):
            import torch

            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        same.add(key)
        storages.add(storage.data_ptr())
    return shared
