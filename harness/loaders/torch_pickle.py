"""`torch.load` in its variants, over the zip and the legacy container."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.loaders import Loader, merged

if TYPE_CHECKING:
    from harness.loaders import Tensors


def _torch_load(name: str, container: str, **options: Any) -> Loader:
    def load(files: Sequence[str], device: str, _: Any) -> Tensors:
        import torch

        return merged(lambda file: torch.load(file, map_location=device, **options), files)

    return Loader(name, container, load)


LOADERS = (
    _torch_load("torch-load", "torch-zip", weights_only=True),
    _torch_load("torch-load-unsafe", "torch-zip", weights_only=False),
    _torch_load("torch-load-mmap", "torch-zip", weights_only=True, mmap=True),
    _torch_load("torch-load-legacy", "torch-legacy", weights_only=True),
)
