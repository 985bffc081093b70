"""Threads: the files of a checkpoint loaded side by side in a pool, mapped and read, as vLLM and
SGLang do with `enable_multithread_load`.

A pool has one job for each file. A checkpoint in one file gives it nothing to share out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from harness.loaders import Loader
from harness.loaders.safetensors_torch import has_pread, load_mapped, load_read

if TYPE_CHECKING:
    from harness.loaders import Tensors

COUNTS = (1, 2, 4, 8, 16)
"""The numbers of threads that there are loaders for."""
_REQUIRES = ("torch", "safetensors")


def _pooled(
    files: Sequence[str],
    device: str,
    *,
    load: Callable[[Sequence[str], str], Tensors],
    threads: int,
) -> Tensors:
    tensors: Tensors = {}
    with ThreadPoolExecutor(threads) as pool:
        for of_file in pool.map(lambda file: load([file], device), files):
            tensors.update(of_file)
    return tensors


LOADERS = tuple(
    Loader(
        f"{family}-{threads}",
        "safetensors",
        partial(_pooled, load=load, threads=threads),
        _REQUIRES,
        supported,
        memory=memory,
        threads=threads,
    )
    for family, load, supported, memory in (
        ("safetensors-threads", load_mapped, lambda: None, 0.0),
        ("safetensors-pread-threads", load_read, has_pread, 1.0),
    )
    for threads in COUNTS
)
