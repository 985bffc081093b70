"""torch's distributed checkpoint (DCP) in one process: a folder of data files and a pickled
description of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoints.formats import Format
from harness.loaders import Loader

if TYPE_CHECKING:
    from harness.loaders import Tensors

_DESCRIPTION = ".metadata"


def _write(tensors: Tensors, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with _alone():
        dcp.save(dict(tensors), checkpoint_id=folder, no_dist=True)


def _read(folder: Path) -> Tensors:
    return _load_folder(folder, "cpu")


def _load(files: Sequence[str], device: str) -> Tensors:
    folders = [Path(file).parent for file in files if file.endswith(f"/{_DESCRIPTION}")]
    return {
        name: tensor for folder in folders for name, tensor in _load_folder(folder, device).items()
    }


def _load_folder(folder: Path, device: str) -> Tensors:
    """Fill tensors that the folder's description names: `dcp.load` wants them made, on the device
    where they are to be.
    """
    import torch
    import torch.distributed.checkpoint as dcp

    described = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype, device=device)
        for name, entry in described.items()
    }
    with _alone():
        dcp.load(tensors, checkpoint_id=folder, no_dist=True)
    return tensors


@contextmanager
def _alone() -> Iterator[None]:
    """Keep torch from warning that there is one process: it was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="torch.distributed is disabled, unavailable or uninitialized"
        )
        yield


FORMATS = (Format("dcp", "dcp", "", _write, _read, folder=True),)
LOADERS = (
    Loader("torch-dcp", "dcp", _load, memory=1.5, executes_code=True),
)  # a tensor is read beside the one it is to fill
