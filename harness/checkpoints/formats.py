"""Formats: how a checkpoint's tensors are written to a file and read back to verify it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from harness.checkpoints.durable import ThreadedFile

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Format:
    """One container: its file name, its writer and the reader that verifies what was written."""

    name: str
    stem: str
    suffix: str
    write: Callable[[Tensors, Path], None]
    read: Callable[[Path], Tensors]
    index: str | None = None
    """Name of the index file of its sharded form; None where nobody shards this container."""

    @property
    def sharded_name(self) -> str:
        """Name of the format when it is split into shards."""
        return f"{self.name}-sharded"

    def file_names(self, shards: int) -> list[str]:
        """Return the file names the model hub uses for this many shards."""
        if shards == 1:
            return [f"{self.stem}{self.suffix}"]
        return [f"{self.stem}-{number:05d}-of-{shards:05d}{self.suffix}" for number in range(1, shards + 1)]


def _write_zip(tensors: Tensors, path: Path) -> None:
    with ThreadedFile(path) as file:
        torch.save(tensors, file)


def _write_legacy(tensors: Tensors, path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def _write_pickle(tensors: Tensors, path: Path) -> None:
    with ThreadedFile(path) as file:
        pickle.dump(tensors, file, protocol=pickle.HIGHEST_PROTOCOL)


def _write_safetensors(tensors: Tensors, path: Path) -> None:
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _read_torch(path: Path) -> Tensors:
    tensors: Tensors = torch.load(path, weights_only=True)
    return tensors


def _read_pickle(path: Path) -> Tensors:
    """Unpickle a file this store has just written itself: never one from outside."""
    with path.open("rb") as file:
        tensors: Tensors = pickle.load(file)  # noqa: S301
        return tensors


FORMATS = {
    form.name: form
    for form in (
        Format("torch-zip", "pytorch_model", ".bin", _write_zip, _read_torch, "pytorch_model.bin.index.json"),
        Format("torch-legacy", "pytorch_model.legacy", ".bin", _write_legacy, _read_torch),
        Format("pickle", "model", ".pickle", _write_pickle, _read_pickle),
        Format("safetensors", "model", ".safetensors", _write_safetensors, safetensors.torch.load_file, "model.safetensors.index.json"),
    )
}
"""Every container by name."""
