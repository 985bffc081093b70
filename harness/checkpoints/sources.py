"""Where a checkpoint's tensors come from: a layout with a seed, or a file of the person's own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from harness.checkpoints.content import make_tensors
from harness.checkpoints.digest import checkpoint_digest, tensor_digests
from harness.checkpoints.formats import FORMATS
from harness.checkpoints.layout import Layout, TensorSpec
from harness.errors import WeighbridgeError

Tensors = dict[str, torch.Tensor]

_CONTAINERS = {".safetensors": "safetensors", ".bin": "torch-zip", ".pt": "torch-zip", ".pth": "torch-zip", ".ckpt": "torch-zip"}


@dataclass(frozen=True)
class Given:
    """Files of the person's own that already are one format of the checkpoint; they are only ever read."""

    container: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Source:
    """One checkpoint before it is stored: a name, the size of each shard in bytes, and what makes the tensors of shard number i."""

    name: str
    identity: str
    shard_bytes: tuple[int, ...]
    shards: tuple[tuple[TensorSpec, ...], ...]
    make: Callable[[int], Tensors]
    given: Given | None = None

    @property
    def bytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(self.shard_bytes)


def layout_source(layout: Layout, seed: int) -> Source:
    """Return the source of a layout's seeded content."""
    shards = layout.shards()
    numbers = {spec.name: index for index, spec in enumerate(layout.tensors)}
    identity = hashlib.sha256(f"{layout.tensors} {layout.shard_bytes} {seed}".encode()).hexdigest()[:12]

    def make(shard: int) -> Tensors:
        return make_tensors(layout.name, seed, [(numbers[spec.name], spec) for spec in shards[shard]])

    return Source(layout.name, identity, tuple(sum(spec.bytes for spec in shard) for shard in shards), tuple(shards), make)


def person_source(path: Path, name: str) -> Source:
    """Return the source of a person's checkpoint: a weights file, or a folder with an index or one weights file.

    Raises `WeighbridgeError` where there is none, where a pickle would need more than `weights_only=True` (naming the global it met),
    or where it holds something else than tensors.
    """
    container, files = weights_files(path)
    digests: dict[str, str] = {}
    sizes: list[int] = []
    shards: list[tuple[TensorSpec, ...]] = []
    shared = False
    for file in files:
        tensors = _read(file, container)
        shared |= _unshare(tensors)
        digests |= tensor_digests(tensors)
        sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
        shards.append(tuple(_spec(name, tensor) for name, tensor in tensors.items()))
    if not any(sizes):
        raise WeighbridgeError(f"--model {path}: holds no tensors, or none with content; there is nothing to weigh")
    del tensors  # a mapping of the person's file must not outlive this: mapped pages cannot be evicted

    def make(shard: int) -> Tensors:
        tensors = _read(files[shard], container)
        _unshare(tensors)
        return tensors

    given = None if shared else Given(container, tuple(files))
    return Source(name, checkpoint_digest(digests)[:12], tuple(sizes), tuple(shards), make, given)


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def weights_files(path: Path) -> tuple[str, list[Path]]:
    """Return (container, files in index order) of a person's checkpoint, none of them read; raises `WeighbridgeError` where there is none."""
    if path.is_file():
        if path.suffix not in _CONTAINERS:
            raise WeighbridgeError(
                f"--model {path}: a weights file ends in {', '.join(_CONTAINERS)}; this one ends in {path.suffix or 'nothing'}"
            )
        return _container(path), [path]
    if not path.is_dir():
        raise WeighbridgeError(f"--model {path}: there is no such file or folder")
    for container in ("safetensors", "torch-zip"):
        form = FORMATS[container]
        if form.index and (path / form.index).is_file():
            files = _indexed(path / form.index)
            return (container if container == "safetensors" else _container(files[0])), files
        single = path / form.file_names(1)[0]
        if single.is_file():
            return _container(single), [single]
    raise WeighbridgeError(
        f"--model {path}: the folder holds no model.safetensors, no pytorch_model.bin and no index of either; name the weights file itself"
    )


def _container(path: Path) -> str:
    """Return the container of a weights file; a torch file that is no zip archive is the legacy one."""
    container = _CONTAINERS.get(path.suffix, "torch-zip")
    if container == "torch-zip":
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return "torch-legacy"
    return container


def _indexed(index: Path) -> list[Path]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        names = list(dict.fromkeys(map(str, weight_map.values())))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeighbridgeError(f"--model {index}: not an index with a weight_map ({error})") from None
    if not names:
        raise WeighbridgeError(f"--model {index}: its weight_map names no file")
    files = [index.parent / name for name in names]
    for name, file in zip(names, files, strict=True):
        if Path(name).name != name or not file.is_file():
            raise WeighbridgeError(f"--model {index}: the index names {name!r}, which is no file of its folder")
    return sorted(files)


def _read(path: Path, container: str) -> Tensors:
    if container == "safetensors":
        try:
            tensors: Tensors = safetensors.torch.load_file(path)
        except Exception as error:  # safetensors raises a class of its own that is not exported everywhere
            raise WeighbridgeError(f"--model {path}: safetensors cannot read it: {error}") from None
        return tensors
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        met = ", ".join(sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error)))))
        said = (str(error).splitlines() or [""])[0]
        what = f"it asks for {met}, which is not allowed" if met else f"{type(error).__name__} {said}".strip()
        raise WeighbridgeError(
            f"--model {path}: torch.load with weights_only=True refuses it: {what}; nothing of it was run, and nothing is weighed"
        ) from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        raise WeighbridgeError(
            f"--model {path}: a training checkpoint: its weights lie under 'state_dict'; save that dictionary alone and weigh it"
        )
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise WeighbridgeError(
            f"--model {path}: holds {type(loaded).__name__} with other things than tensors; a checkpoint maps names to tensors"
        )
    return {str(name): tensor.detach() for name, tensor in loaded.items()}


def _unshare(tensors: Tensors) -> bool:
    """Keep the first name of tensors that are the same, and give every other one memory of its own and no more of it than it fills.

    Returns whether any memory had been shared: safetensors stores none, so all formats can hold identical tensors only without it, and
    a file that does is smaller than its tensors.
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
        elif storage.data_ptr() in storages or storage.nbytes() != tensor.nbytes or not tensor.is_contiguous():
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        same.add(key)
        storages.add(storage.data_ptr())
    return shared
