"""GGUF by its own Python package: the file is mapped, and a tensor is a view of it.

What GGUF cannot say of a tensor stands in one entry of the file's metadata under a name of ours:
names of 64 bytes and more and shapes of more than four dimensions, which its other readers refuse,
and a bfloat16 without dimensions, which this one cannot read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoints.formats import Format
from harness.loaders import Loader, merged

if TYPE_CHECKING:
    import torch

    from harness.loaders import Tensors

_REQUIRES = ("gguf", "numpy", "yaml")
_EXTRA = "gguf"
_NAME_BYTES, _DIMENSIONS = 63, 4
_ALTERED = "weighbridge.altered"
_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
}
"""GGUF's type of each dtype it has one for."""


def _write(tensors: Tensors, path: Path) -> None:
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, "weighbridge")
    altered = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        key, array = name, tensor
        if not _sayable(name, tensor):
            key, array = f"weighbridge.{number}", tensor.reshape(-1)
            altered[key] = [name, list(tensor.shape)]
        kind = GGMLQuantizationType[_TYPES[str(tensor.dtype).removeprefix("torch.")]]
        bits = array.view(torch.uint16) if array.dtype == torch.bfloat16 else array
        writer.add_tensor(key, bits.numpy(), raw_dtype=kind)
    writer.add_string(_ALTERED, json.dumps(altered))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _sayable(name: str, tensor: torch.Tensor) -> bool:
    return (
        len(name.encode()) <= _NAME_BYTES
        and tensor.dim() <= _DIMENSIONS
        and (tensor.dim() > 0 or tensor.element_size() != 2)
    )


def _read(path: Path) -> Tensors:
    return _load([str(path)], "cpu")


def _load(files: Sequence[str], device: str) -> Tensors:
    return merged(lambda file: _load_one(file, device), files)


def _load_one(file: str, device: str) -> Tensors:
    """Return views of the mapped file, mapped so that a write would stay private, as torch wants
    its memory to be writable.
    """
    import torch
    from gguf import GGMLQuantizationType, GGUFReader

    reader = GGUFReader(file, "c")
    noted = reader.get_field(_ALTERED)
    altered = json.loads(noted.contents()) if noted else {}
    tensors = {}
    for entry in reader.tensors:
        tensor = torch.from_numpy(entry.data)
        if entry.tensor_type == GGMLQuantizationType.BF16:
            tensor = tensor.view(torch.bfloat16)  # NumPy has no such type: it comes as bytes
        name, shape = altered.get(entry.name, (entry.name, tensor.shape))
        tensors[name] = tensor.reshape(shape).to(device)
    return tensors


FORMATS = (
    Format(
        "gguf",
        "model",
        ".gguf",
        _write,
        _read,
        requires=_REQUIRES,
        extra=_EXTRA,
        dtypes=frozenset(_TYPES),
    ),
)
LOADERS = (Loader("gguf-reader", "gguf", _load, ("torch", *_REQUIRES), extra=_EXTRA, memory=0.0),)
