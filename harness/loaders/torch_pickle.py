"""`torch.load` in its variants, over the zip and the legacy format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.loaders import DEVICES, Loader, merged, then_cut

if TYPE_CHECKING:
    from harness.loaders import Tensors


_CPU = ("cpu",)  # on a GPU the way there would hide what tells these apart


def _torch_load(name: str, format_name: str, *, trusting: bool = False, devices: tuple[str, ...] = DEVICES, **options: Any) -> Loader:
    def load(files: Sequence[str], device: str, _: Any) -> Tensors:
        import torch

        return merged(lambda file: torch.load(file, map_location=device, weights_only=not trusting, **options), files)

    return Loader(name, format_name, load, trusting=trusting, devices=devices)


EVERYTHING = _torch_load("torch-load", "torch-zip")
_MAPPED = replace(_torch_load("torch-load-mmap", "torch-zip", mmap=True), memory=0.0)

LOADERS = (
    EVERYTHING,
    _torch_load("torch-load-unsafe", "torch-zip", trusting=True, devices=_CPU),
    _MAPPED,
    _torch_load("torch-load-legacy", "torch-legacy", devices=_CPU),
)
PART_LOADERS = (
    replace(EVERYTHING, load=then_cut(EVERYTHING.load, mapped=False)),
    replace(_MAPPED, load=then_cut(_MAPPED.load, mapped=True), whole=False),
)
