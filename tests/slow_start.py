"""Loaders for whole processes: of known cost in each phase, and one whose library cannot be
imported twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.loaders import Loader

if TYPE_CHECKING:
    from harness.loaders import Tensors

FIRST_S, LOAD_S = 0.3, 0.2
_called = False


def _load(files: Sequence[str], _device: str) -> Tensors:
    """Take `FIRST_S` the first time in a process, `LOAD_S` after."""
    global _called
    from safetensors.torch import load_file

    end = time.perf_counter() + (LOAD_S if _called else FIRST_S)
    _called = True
    tensors: Tensors = load_file(files[0])
    while time.perf_counter() < end:
        pass
    return tensors


def _exit(_files: Sequence[str], _device: str) -> Tensors:
    os._exit(3)


def _print(files: Sequence[str], device: str) -> Tensors:
    print('{"failure": "raised"}', flush=True)
    return _load(files, device)


LOADERS = (
    Loader("known", "safetensors", _load, ("torch", "tests.slow_library")),
    Loader("exits", "safetensors", _exit),
    Loader("cannot-be-imported", "safetensors", _load, ("torch", "no_such_library")),
    Loader("chatters", "safetensors", _print),
)
