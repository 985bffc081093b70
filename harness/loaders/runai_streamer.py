"""The Run:ai Model Streamer: many pieces of a safetensors file read at once into the processor's
memory.

What it yields stays: a tensor keeps the buffer it lies in, one of several that hold the whole file,
and none is used again. For a GPU every tensor is moved as it comes, as vLLM does, and the buffers
are used again.

It reads past the page cache (`O_DIRECT`) wherever it can, whatever is cached: so as it comes it has
no warm cells, and `runai-model-streamer-buffered` is the same with the variable that makes it read
through the page cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.loaders import Loader, variables

if TYPE_CHECKING:
    from harness.loaders import Tensors

_BUFFERED = {"RUNAI_STREAMER_FS_STRATEGY": "sync_buffered"}
"""Threads that read; of the two ways through the page cache, it was no slower than the kernel's
queue where this was chosen, and steadier.
"""


def _loading(settings: dict[str, str]) -> Callable[[Sequence[str], str], Tensors]:
    def load(files: Sequence[str], device: str) -> Tensors:
        from runai_model_streamer import SafetensorsStreamer

        with variables(settings), SafetensorsStreamer() as streamer:
            streamer.stream_files(list(files), device=device)
            return dict(streamer.get_tensors())

    return load


def _tensors_own() -> str | None:
    import inspect

    from runai_model_streamer import SafetensorsStreamer

    if "owned" in inspect.signature(SafetensorsStreamer.stream_files).parameters:
        return None
    return (
        "this release of runai-model-streamer uses a tensor's memory again (0.17 and later do not)"
    )


_AS_IT_COMES = Loader(
    "runai-model-streamer",
    "safetensors",
    _loading({}),
    ("torch", "runai_model_streamer", "humanize"),
    _tensors_own,
    extra="runai",
    cache_states=("cold",),
)
LOADERS = (
    _AS_IT_COMES,
    replace(
        _AS_IT_COMES,
        name="runai-model-streamer-buffered",
        load=_loading(_BUFFERED),
        cache_states=("cold", "warm"),
    ),
)
