"""NumPy's own formats: all arrays in one zip file (`.npz`), or a file per array (`.npy`) that is
mapped.

NumPy has no bfloat16, no float8 and their like: their bits are kept as unsigned integers, and an
index beside the arrays says of each what it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.formats import Format
from harness.loaders import Loader, merged

if TYPE_CHECKING:
    import numpy as np
    import torch

    from harness.loaders import Tensors

_REQUIRES = ("torch", "numpy")
_INDEX = "index.json"
_NATIVE = frozenset(
    [
        "bool",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "float16",
        "uint32",
        "int32",
        "float32",
        "uint64",
        "int64",
        "float64",
        "complex64",
        "complex128",
    ],
)
_BITS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


def _write_npz(tensors: Tensors, path: Path) -> None:
    """Save the index and the arrays under the numbers that `np.savez` gives them: as a name, `file`
    would be taken for its own.
    """
    import numpy as np

    index = json.dumps([(name, _dtype(tensor)) for name, tensor in tensors.items()])
    np.savez(path, np.frombuffer(index.encode(), np.uint8), *map(_array, tensors.values()))


def _read_npz(path: Path) -> Tensors:
    return _load_npz([str(path)], "cpu")


def _load_npz(files: Sequence[str], device: str) -> Tensors:
    return merged(lambda file: _load_one_npz(file, device), files)


def _load_one_npz(file: str, device: str) -> Tensors:
    import numpy as np

    with np.load(file) as arrays:
        index = json.loads(arrays["arr_0"].tobytes())
        return {
            name: _tensor(arrays[f"arr_{number}"], dtype).to(device)
            for number, (name, dtype) in enumerate(index, 1)
        }


def _write_npy(tensors: Tensors, folder: Path) -> None:
    import numpy as np

    index = {
        name: [f"{number:05d}.npy", _dtype(tensor)]
        for number, (name, tensor) in enumerate(tensors.items())
    }
    for name, (file, _) in index.items():
        np.save(folder / file, _array(tensors[name]), allow_pickle=False)
    (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _read_npy(folder: Path) -> Tensors:
    return _load_one_npy(folder, "cpu")


def _load_npy(files: Sequence[str], device: str) -> Tensors:
    folders = [str(Path(file).parent) for file in files if file.endswith(f"/{_INDEX}")]
    return merged(lambda folder: _load_one_npy(Path(folder), device), folders)


def _load_one_npy(folder: Path, device: str) -> Tensors:
    """Return views of the mapped files, mapped so that a write would stay private, as torch wants
    its memory to be writable.
    """
    import numpy as np

    index = json.loads((folder / _INDEX).read_bytes())
    return {
        name: _tensor(np.load(folder / file, mmap_mode="c"), dtype).to(device)
        for name, (file, dtype) in index.items()
    }


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    import torch

    native = (
        tensor if _dtype(tensor) in _NATIVE else tensor.view(getattr(torch, _BITS[tensor.itemsize]))
    )
    array: np.ndarray[Any, Any] = native.numpy()
    return array


def _tensor(array: np.ndarray[Any, Any], dtype: str) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(array)
    return tensor if dtype in _NATIVE else tensor.view(getattr(torch, dtype))


FORMATS = (
    Format("npz", "model", ".npz", _write_npz, _read_npz, requires=("numpy",)),
    Format("npy", "npy", "", _write_npy, _read_npy, requires=("numpy",), folder=True),
)
LOADERS = (
    Loader("numpy-npz", "npz", _load_npz, _REQUIRES),
    Loader("numpy-npy-mmap", "npy", _load_npy, _REQUIRES, memory=0.0),
)
