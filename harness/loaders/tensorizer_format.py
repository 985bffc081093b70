"""tensorizer and its own format: tensors one after another behind a table of them, read by several
threads into memory of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoints.formats import Format
from harness.errors import WeighbridgeError
from harness.loaders import Loader, merged

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("tensorizer", "boto3", "libnacl", "psutil", "redis")
_EXTRA = "tensorizer"


def _write(tensors: Tensors, path: Path) -> None:
    """Serialize the tensors.

    Raises `WeighbridgeError` for one without content whose dtype NumPy lacks, which is written and
    never read back.
    """
    import torch
    from tensorizer import TensorSerializer

    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16 and tensor.numel() == 0:
            raise WeighbridgeError(
                f"tensorizer cannot read back {name}, a bfloat16 tensor without elements; leave its"
                " loader out"
            )
    serializer = TensorSerializer(path)
    try:
        serializer.write_state_dict(tensors)
    finally:
        serializer.close()


def _read(path: Path) -> Tensors:
    return _load([str(path)], "cpu")


def _load(files: Sequence[str], device: str) -> Tensors:
    """Return the tensors as the deserializer makes them, with as many readers as it chooses by
    itself; they outlive it.
    """
    from tensorizer import TensorDeserializer

    def load_one(file: str) -> Tensors:
        with TensorDeserializer(Path(file), device=device) as deserializer:
            return {name: tensor.detach() for name, tensor in deserializer.items()}

    return merged(load_one, files)


FORMATS = (
    Format("tensorizer", "model", ".tensors", _write, _read, requires=_REQUIRES, extra=_EXTRA),
)
LOADERS = (Loader("tensorizer", "tensorizer", _load, ("torch", *_REQUIRES), extra=_EXTRA),)
