"""`torch.load` in its variants, over the zip and the legacy container."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.loaders import Loader, merged, then_cut

if TYPE_CHECKING:
    from harness.loaders import Tensors


def _torch_load(name: str, container: str, *, trusting: bool = False, **options: Any) -> Loader:
    def load(files: Sequence[str], device: str, _: Any) -> Tensors:
        import torch

        return merged(lambda file: torch.load(file, map_location=device, weights_only=not trusting, **options), files)

    return Loader(name, container, load, trusting=trusting)


_EVERYTHING, _MAPPED = _torch_load("torch-load", "torch-zip"), _torch_load("torch-load-mmap", "torch-zip", mmap=True)

LOADERS = (
    _EVERYTHING,
    _torch_load("torch-load-unsafe", "torch-zip", trusting=True),
    _MAPPED,
    _torch_load("torch-load-legacy", "torch-legacy"),
)
PART_LOADERS = (
    replace(_EVERYTHING, load=then_cut(_EVERYTHING.load, mapped=False)),
    replace(_MAPPED, load=then_cut(_MAPPED.load, mapped=True), whole=False),
)
