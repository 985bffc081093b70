"""The ceiling of storage itself: a parallel read past the page cache (`O_DIRECT`) into memory that
is already there.

Of 2, 4 and 8 threads with blocks of 1 and 4 MiB, 4 MiB were fastest with any number of threads on
the machine this was chosen on, by 5 to 20 %.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from harness.loaders import Ceiling
from harness.loaders.ceiling import name_tensors, prepare, read_in_turns, reserve

if TYPE_CHECKING:
    import torch

    from harness.loaders import Tensors

_BLOCK = 4 << 20


def _read(
    files: Sequence[str], _device: str, prepared: tuple[dict[str, torch.Tensor], ThreadPoolExecutor]
) -> Tensors:
    return read_in_turns(files, prepared, _BLOCK, os.O_DIRECT)


def _has_direct() -> str | None:
    return None if hasattr(os, "O_DIRECT") else "this system has no O_DIRECT"


LOADERS = (
    Ceiling(
        "ceiling-direct",
        "safetensors",
        _read,
        supported=_has_direct,
        preallocate=reserve,
        setup=prepare,
        as_tensors=name_tensors,
        cache_states=("cold",),  # it never looks at the page cache, so warm it would read storage
    ),
)
