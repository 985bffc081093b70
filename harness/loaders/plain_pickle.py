"""`pickle.load` of a dictionary of tensors, as scripts that know nothing of `torch.save` write
it.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.loaders import Loader, merged

if TYPE_CHECKING:
    from harness.loaders import Tensors


def _load(files: Sequence[str], _device: str) -> Tensors:
    return merged(_load_one, files)


def _load_one(file: str) -> Tensors:
    with open(file, "rb") as stream:
        # the store's own file, in a sample's own process
        tensors: Tensors = pickle.load(stream)  # noqa: S301
        return tensors


LOADERS = (
    Loader("pickle-load", "pickle", _load, memory=3.0, devices=("cpu",), executes_code=True),
)
