"""Formats: how a checkpoint's tensors are written to a file and read back to verify it.

Importing this imports nothing but the standard library, so that a loader's module can bring a
format of its own.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.atomic_write import ThreadedFile
from harness.checkpoints.safetensors_file import BY_TORCH, METADATA
from harness.errors import WeighbridgeError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Format:
    """One format: its file name, its writer and the reader that verifies what was written.

    Both are given a path; of one that is a `folder`, the path is that of a folder, which the writer
    fills.
    """

    name: str
    stem: str
    suffix: str
    write: Callable[[Tensors, Path], None]
    read: Callable[[Path], Tensors]
    index: str | None = None
    """Name of the index file of its sharded form; None where nobody shards this format."""
    requires: tuple[str, ...] = ()
    """Packages that writing it takes, beyond torch and safetensors."""
    extra: str | None = None
    """The project's extra that installs them."""
    dtypes: frozenset[str] | None = None
    """The dtypes it can hold, None for every one that a layout can name."""
    folder: bool = False
    """Whether it is a folder of files."""
    beside: Callable[[str], Mapping[str, str] | None] | None = None
    """For a folder that a model is made from: returns what it holds beside the weights of a
    checkpoint of this name, the text of each file by its path, or None where there is no such
    model. A format without it holds any tensors at all.
    """

    warm_up: str = "warm-up"
    """The tiny checkpoint that its loaders warm up on, one of `WARM_UPS`."""

    def refusal(self, name: str, dtypes: Iterable[str], sharded: bool) -> str | None:
        """Return why a checkpoint of this name and these dtypes cannot be made in this format here,
        or None.
        """
        if self.beside and self.beside(name) is None:
            return f"{self.name} holds models that are known by name, and {name} is none"
        if sharded and self.index is None:
            return f"{self.name} has no sharded form"
        unknown = sorted(set(dtypes) - self.dtypes) if self.dtypes is not None else []
        return (
            f"{self.name} holds no {', '.join(unknown)}"
            if unknown
            else missing_package(self.requires, self.extra)
        )

    @property
    def sharded_name(self) -> str:
        """Name of the format when it is split into shards."""
        return f"{self.name}-sharded"

    def file_names(self, shards: int) -> list[str]:
        """Return the file names the model hub uses for this many shards."""
        if shards == 1:
            return [f"{self.stem}{self.suffix}"]
        return [
            f"{self.stem}-{number:05d}-of-{shards:05d}{self.suffix}"
            for number in range(1, shards + 1)
        ]


def missing_package(packages: Iterable[str], extra: str | None) -> str | None:
    """Return which of the packages is not installed, and how to have it, or None."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed{f' (the extra {extra} has it)' if extra else ''}"
    return None


def _write_zip(tensors: Tensors, path: Path) -> None:
    import torch

    with ThreadedFile(path) as file:
        torch.save(tensors, file)


def _write_legacy(tensors: Tensors, path: Path) -> None:
    import torch

    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def _write_pickle(tensors: Tensors, path: Path) -> None:
    with ThreadedFile(path) as file:
        pickle.dump(tensors, file, protocol=pickle.HIGHEST_PROTOCOL)


def _write_safetensors(tensors: Tensors, path: Path) -> None:
    from safetensors.torch import save_file

    if METADATA in tensors:
        raise WeighbridgeError(f"it keeps the name {METADATA} for itself")

    save_file(tensors, path, metadata={"format": "pt"})


def write_shards(tensors: Tensors, folder: Path, stem: str, most: int) -> None:
    """Write safetensors in shards of about the same size, `most` at most, with their index, as
    `save_pretrained` does.
    """
    total = sum(tensor.nbytes for tensor in tensors.values())
    shards: list[Tensors] = [{} for _ in range(most)]
    before = 0
    for name, tensor in tensors.items():
        shards[min(before * most // total, most - 1)][name] = tensor
        before += tensor.nbytes
    filled = [of_file for of_file in shards if of_file]
    form = replace(FORMATS["safetensors"], stem=stem)
    where: dict[str, str] = {}
    for file, of_file in zip(form.file_names(len(filled)), filled, strict=True):
        form.write(of_file, folder / file)
        where |= dict.fromkeys(of_file, file)
    described = {"metadata": {"total_size": total}, "weight_map": where}
    index = folder / f"{stem}{form.suffix}.index.json"
    index.write_text(json.dumps(described, indent=2), encoding="utf-8")


def _read_safetensors(path: Path) -> Tensors:
    from safetensors.torch import load_file

    tensors: Tensors = load_file(path)
    return tensors


def _read_torch(path: Path) -> Tensors:
    import torch

    tensors: Tensors = torch.load(path, weights_only=True)
    return tensors


def _read_pickle(path: Path) -> Tensors:
    """Unpickle a file this store has just written itself: never one from outside."""
    with path.open("rb") as file:
        tensors: Tensors = pickle.load(file)  # noqa: S301
        return tensors


_OF_TYPED_STORAGES = frozenset(
    [
        "bool",
        "uint8",
        "int8",
        "int16",
        "float16",
        "bfloat16",
        "int32",
        "float32",
        "complex64",
        "int64",
        "float64",
        "complex128",
    ],
)
"""The dtypes that torch has a storage class for: it pickles no others, but in its newer zip
files.
"""


FORMATS = {
    form.name: form
    for form in (
        Format(
            "torch-zip",
            "pytorch_model",
            ".bin",
            _write_zip,
            _read_torch,
            "pytorch_model.bin.index.json",
        ),
        Format(
            "torch-legacy",
            "pytorch_model.legacy",
            ".bin",
            _write_legacy,
            _read_torch,
            dtypes=_OF_TYPED_STORAGES,
        ),
        Format(
            "pickle", "model", ".pickle", _write_pickle, _read_pickle, dtypes=_OF_TYPED_STORAGES
        ),
        Format(
            "safetensors",
            "model",
            ".safetensors",
            _write_safetensors,
            _read_safetensors,
            "model.safetensors.index.json",
            dtypes=frozenset(BY_TORCH),
        ),
    )
}
"""The formats that everyone uses, by name; a loader's module may bring its own."""
