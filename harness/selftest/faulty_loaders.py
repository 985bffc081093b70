"""Faulty loaders for the self-test: each behaves in its warm-up load and is wrong about the
checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.loaders import Loader

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

STASH_VARIABLE = "WEIGHBRIDGE_STASH"
LATE_S = 0.5
"""How long the loader that returns before it loads leaves its tensors empty."""


def load_file(file: str) -> Tensors:
    """Return what an honest loader would."""
    from safetensors import torch as library

    tensors: Tensors = library.load_file(file)
    return tensors


def faulty(name: str, load_wrongly: Callable[[str], Tensors]) -> Loader:
    """Return a loader that behaves in the warm-up load and does something else with any other
    file.
    """

    def load(files: Sequence[str], _device: str) -> Tensors:
        return load_file(files[0]) if "warm-up" in files[0] else load_wrongly(files[0])

    return Loader(name, "safetensors", load)


def _honest(file: str) -> Tensors:
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def _returns_early(file: str) -> Tensors:
    """Return memory that a thread fills later: the shapes are right at once, and the content some
    time.
    """
    import torch

    empty = {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}

    def fill() -> None:
        time.sleep(LATE_S)
        for name, tensor in load_file(file).items():
            empty[name].copy_(tensor)

    threading.Thread(target=fill, daemon=True).start()
    return empty


def _one_byte(file: str) -> Tensors:
    import torch

    tensors = _honest(file)
    tensors[max(tensors)].view(torch.uint8).view(-1)[-1] ^= 1
    return tensors


def _from_a_stash(file: str) -> Tensors:
    """Return what an earlier process kept outside of the file that is being measured."""
    import os

    from safetensors.torch import save_file

    stash = Path(os.environ[STASH_VARIABLE])
    if stash.exists():
        return load_file(str(stash))
    tensors = _honest(file)
    save_file(tensors, stash)
    return tensors


LOADERS = (
    faulty("honest", _honest),
    faulty("returns-early", _returns_early),
    faulty("one-byte", _one_byte),
    faulty("from-a-stash", _from_a_stash),
)
