"""`torch.load` in its variants, over the zip and the legacy format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.loaders import DEVICES, Loader, PartLoader, merged, then_cut

if TYPE_CHECKING:
    from harness.loaders import Tensors


_CPU = ("cpu",)  # on a GPU the way there would hide what tells these apart


def _torch_load(
    name: str,
    format_name: str,
    *,
    executes_code: bool = False,
    devices: tuple[str, ...] = DEVICES,
    **options: Any,
) -> Loader:
    def load(files: Sequence[str], device: str) -> Tensors:
        import torch

        return merged(
            lambda file: torch.load(
                file, map_location=device, weights_only=not executes_code, **options
            ),
            files,
        )

    return Loader(name, format_name, load, executes_code=executes_code, devices=devices)


EVERYTHING = _torch_load("torch-load", "torch-zip")
_MAPPED = replace(_torch_load("torch-load-mmap", "torch-zip", mmap=True), memory=0.0)


def _by_file_name(files: Sequence[str], device: str) -> Tensors:
    """Load `.safetensors` files by `torch.load`, which hands them to safetensors by their name."""
    import torch

    return merged(lambda file: torch.load(file, map_location=device, weights_only=True), files)


def _knows_the_name() -> str | None:
    import torch

    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if release >= (2, 13):
        return None
    return f"torch {torch.__version__} loads no .safetensors file (2.13 and later do)"


LOADERS = (
    EVERYTHING,
    _torch_load("torch-load-unsafe", "torch-zip", executes_code=True, devices=_CPU),
    _MAPPED,
    _torch_load("torch-load-legacy", "torch-legacy", devices=_CPU),
    Loader(
        "torch-load-safetensors",
        "safetensors",
        _by_file_name,
        ("torch", "safetensors"),
        _knows_the_name,
        memory=0.0,
    ),
)
PART_LOADERS = (
    PartLoader("torch-load", "torch-zip", then_cut(EVERYTHING.load, mapped=False), whole=True),
    PartLoader("torch-load-mmap", "torch-zip", then_cut(_MAPPED.load, mapped=True), memory=0.0),
)
