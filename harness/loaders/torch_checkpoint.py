"""torch's distributed checkpoint (DCP) in one process: a folder of data files with a pickled
description of them, or a folder of safetensors files, which needs no pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checkpoints.formats import Format
from harness.checkpoints.safetensors_file import BY_TORCH, METADATA
from harness.errors import WeighbridgeError
from harness.loaders import Loader

if TYPE_CHECKING:
    from harness.loaders import Tensors

_DESCRIPTION = ".metadata"
_NOT_READ = {"float4_e2m1fn_x2", "float8_e8m0fnu"}
"""The dtypes that torch 2.13 writes to safetensors by DCP and does not read back by it."""


def _write(tensors: Tensors, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with _alone():
        dcp.save(dict(tensors), checkpoint_id=folder, no_dist=True)


def _write_safetensors(tensors: Tensors, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    if METADATA in tensors:
        raise WeighbridgeError(f"safetensors keeps the name {METADATA} for itself")
    with _alone():
        writer = dcp.HuggingFaceStorageWriter(str(folder))
        try:
            dcp.save(dict(tensors), storage_writer=writer, no_dist=True)
        except dcp.CheckpointException as error:  # which is no Exception
            _, (reason, _) = error.failures.popitem()
            raise WeighbridgeError(f"{type(reason).__name__}: {reason}") from None


def _pickled(folder: Path) -> Any:
    import torch.distributed.checkpoint as dcp

    return dcp.FileSystemReader(folder)


def _of_safetensors(folder: Path) -> Any:
    import torch.distributed.checkpoint as dcp

    return dcp.HuggingFaceStorageReader(str(folder))


def _load(
    files: Sequence[str], device: str, *, reader: Callable[[Path], Any], marked_by: str
) -> Tensors:
    """Return the tensors of every folder that holds a file whose name ends in `marked_by`."""
    folders = dict.fromkeys(Path(file).parent for file in files if file.endswith(marked_by))
    return {
        name: tensor
        for folder in folders
        for name, tensor in _load_folder(folder, device, reader).items()
    }


def _load_folder(folder: Path, device: str, reader: Callable[[Path], Any]) -> Tensors:
    """Fill tensors that the folder's description names: `dcp.load` wants them made, on the device
    where they are to be.
    """
    import torch
    import torch.distributed.checkpoint as dcp

    described = reader(folder).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype, device=device)
        for name, entry in described.items()
    }
    with _alone():
        dcp.load(tensors, storage_reader=reader(folder), no_dist=True)
    return tensors


def _reads_safetensors() -> str | None:
    import torch
    import torch.distributed.checkpoint as dcp

    if hasattr(dcp, "HuggingFaceStorageReader"):
        return None
    return f"torch {torch.__version__} has no HuggingFaceStorageReader (2.8 and later have)"


@contextmanager
def _alone() -> Iterator[None]:
    """Keep torch from warning that there is one process: it was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.distributed is disabled, unavailable or uninitialized"
        )
        yield


FORMATS = (
    Format(
        "dcp", "dcp", "", _write, partial(_load_folder, device="cpu", reader=_pickled), folder=True
    ),
    Format(
        "dcp-safetensors",
        "dcp-safetensors",
        "",
        _write_safetensors,
        partial(_load_folder, device="cpu", reader=_of_safetensors),
        folder=True,
        dtypes=frozenset(BY_TORCH) - _NOT_READ,
    ),
)
LOADERS = (  # a tensor is read beside the one it is to fill
    Loader(
        "torch-dcp",
        "dcp",
        partial(_load, reader=_pickled, marked_by=f"/{_DESCRIPTION}"),
        memory=1.5,
        executes_code=True,
    ),
    Loader(
        "torch-dcp-safetensors",
        "dcp-safetensors",
        partial(_load, reader=_of_safetensors, marked_by=".safetensors"),
        ("torch", "safetensors"),
        _reads_safetensors,
        memory=1.5,
    ),
)
