"""FlashPack and its own format: the tensors of each dtype in one block, with a description at the
end of the file, mapped or read by several threads.

What is mapped is mapped for reading alone: writing to such a tensor ends the process (release
0.4.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoints.formats import Format
from harness.errors import WeighbridgeError
from harness.loaders import Loader, merged, variables

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("flashpack", "accelerate", "click")
_EXTRA = "flashpack"
_READ = {"FLASHPACK_CPU_PARALLEL_READ": "1"}
"""What has it read the file by threads, where it would map it."""
_DTYPES = frozenset(
    (
        "bfloat16",
        "bool",
        "complex128",
        "complex64",
        "float16",
        "float32",
        "float64",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "int16",
        "int32",
        "int64",
        "int8",
        "uint16",
        "uint32",
        "uint64",
        "uint8",
    )
)


def _write(tensors: Tensors, path: Path) -> None:
    """Pack the tensors.

    Raises `WeighbridgeError` for one without dimensions or elements: it would not come back as it
    was.
    """
    from flashpack import pack_to_file

    for name, tensor in tensors.items():
        if tensor.dim() == 0 or tensor.numel() == 0:
            raise WeighbridgeError(
                f"FlashPack does not give back {name} as it was, a tensor of shape"
                f" {tuple(tensor.shape)}; leave its loaders out"
            )
    pack_to_file(dict(tensors), str(path), None, name_order=list(tensors))


def _load(files: Sequence[str], _device: str, *, settings: Mapping[str, str]) -> Tensors:
    from flashpack.deserialization import revert_from_file

    def load_one(file: str) -> Tensors:
        tensors: Tensors = revert_from_file(file)
        return tensors

    with variables(settings):
        return merged(load_one, files)


def _read(path: Path) -> Tensors:
    return _load([str(path)], "cpu", settings=_READ)


FORMATS = (
    Format(
        "flashpack",
        "model",
        ".flashpack",
        _write,
        _read,
        requires=_REQUIRES,
        extra=_EXTRA,
        dtypes=_DTYPES,
    ),
)
LOADERS = tuple(
    Loader(
        name,
        "flashpack",
        partial(_load, settings=settings),
        ("torch", *_REQUIRES),
        extra=_EXTRA,
        memory=memory,
        devices=("cpu",),
    )
    for name, settings, memory in (("flashpack-mapped", {}, 0.0), ("flashpack-read", _READ, 1.0))
)
