"""fastsafetensors: a safetensors file's data read by several threads into one buffer, whose tensors
are views of it.

It reads past the page cache (`O_DIRECT`) wherever the file system lets it, whatever is cached: so
as it comes it has no warm cells, and `fastsafetensors-buffered` is the same with the variable that
the library has for reading through the page cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.loaders import Loader, variables

if TYPE_CHECKING:
    from harness.loaders import Tensors

_GDS_NODE = Path("/dev/nvidia-fs0")


def _loading(*, nogds: bool, **settings: str) -> Callable[[Sequence[str], str], Tensors]:
    """Return what loads with or without GPUDirect Storage, under these environment variables.

    A tensor keeps the buffer it lies in.
    """

    def load(files: Sequence[str], device: str) -> Tensors:
        from fastsafetensors import SafeTensorsFileLoader

        with variables(settings):
            loader = SafeTensorsFileLoader(None, device, nogds=nogds)
            loader.add_filenames({0: list(files)})
            buffers = loader.copy_files_to_device()
            tensors = {name: buffers.get_tensor(name) for name in loader.get_keys()}
        if not nogds:
            _check_gds(loader)
        return tensors

    return load


def _check_gds(loader: Any) -> None:
    """Raise where the library has quietly read through the processor's memory, which it does when
    the driver or the file system refuses.
    """
    from fastsafetensors.copier import gds

    if loader.copier_class is not gds.GdsFileCopier or getattr(gds, "_warned_gds_fallback", False):
        raise RuntimeError(
            "GPUDirect Storage cannot be had for this file, and fastsafetensors did without"
        )


def _tensors_own() -> str | None:
    import inspect

    from fastsafetensors import SafeTensorsFileLoader

    if (
        "borrowed_tensors"
        in inspect.signature(SafeTensorsFileLoader.copy_files_to_device).parameters
    ):
        return None
    return "this release of fastsafetensors frees tensors with their buffer (0.5 and later do not)"


def _has_gds() -> str | None:
    """Return why GPUDirect Storage cannot be had, as far as it shows without touching CUDA.

    The rest shows in the first call.
    """
    if not _GDS_NODE.exists():
        return (
            f"GPUDirect Storage cannot be had: there is no {_GDS_NODE.name}, which the kernel"
            " module nvidia-fs makes"
        )
    return _tensors_own()


_AS_IT_COMES = Loader(
    "fastsafetensors",
    "safetensors",
    _loading(nogds=True),
    ("torch", "fastsafetensors"),
    _tensors_own,
    extra="fastsafetensors",
    own_device_memory=True,
    cache_states=("cold",) if hasattr(os, "O_DIRECT") else ("cold", "warm"),
)
LOADERS = (
    _AS_IT_COMES,
    replace(
        _AS_IT_COMES,
        name="fastsafetensors-buffered",
        load=_loading(nogds=True, FASTSAFETENSORS_ODIRECT="0"),
        cache_states=("cold", "warm"),
    ),
    replace(
        _AS_IT_COMES,
        name="fastsafetensors-gds",
        load=_loading(nogds=False),
        supported=_has_gds,
        devices=("cuda",),
    ),
)
