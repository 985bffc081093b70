"""Loaders that lie, for the trial of the harness: each behaves in its rehearsal and lies about the checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.loaders import Loader

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

STASH_VARIABLE = "WEIGHBRIDGE_TRIAL_STASH"
LATE_S = 0.5
"""How long the loader that returns before it loads leaves its tensors empty."""


def _load(file: str) -> Tensors:
    from safetensors.torch import load_file

    tensors: Tensors = load_file(file)
    return tensors


def _lying(name: str, lie: Callable[[str], Tensors]) -> Loader:
    def load(files: Sequence[str], _device: str, _prepared: Any) -> Tensors:
        return _load(files[0]) if "rehearsal" in files[0] else lie(files[0])

    return Loader(name, "safetensors", load)


def _honest(file: str) -> Tensors:
    return {name: tensor.clone() for name, tensor in _load(file).items()}


def _returns_early(file: str) -> Tensors:
    """Return memory that a thread fills later: the shapes are right at once, and the content some time."""
    import torch

    empty = {name: torch.zeros_like(tensor) for name, tensor in _load(file).items()}

    def fill() -> None:
        time.sleep(LATE_S)
        for name, tensor in _load(file).items():
            empty[name].copy_(tensor)

    threading.Thread(target=fill, daemon=True).start()
    return empty


def _one_byte(file: str) -> Tensors:
    import torch

    tensors = _honest(file)
    tensors[max(tensors)].view(torch.uint8).view(-1)[-1] ^= 1
    return tensors


def _from_a_stash(file: str) -> Tensors:
    """Return what an earlier process kept outside of the file that is being weighed."""
    import os

    from safetensors.torch import load_file, save_file

    stash = Path(os.environ[STASH_VARIABLE])
    if stash.exists():
        tensors: Tensors = load_file(stash)
        return tensors
    tensors = _honest(file)
    save_file(tensors, stash)
    return tensors


LOADERS = (
    _lying("honest", _honest),
    _lying("returns-early", _returns_early),
    _lying("one-byte", _one_byte),
    _lying("from-a-stash", _from_a_stash),
)
