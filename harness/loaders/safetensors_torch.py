"""The safetensors library's own ways into torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.loaders import Loader, merged

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("torch", "safetensors")


def _load_file(files: Sequence[str], device: str, _: Any) -> Tensors:
    from safetensors.torch import load_file

    return merged(lambda file: load_file(file, device=device), files)


def _pread(files: Sequence[str], device: str, _: Any) -> Tensors:
    from safetensors.torch import load_file

    return merged(lambda file: load_file(file, device=device, backend="pread"), files)


def _has_pread() -> str | None:
    import inspect

    import safetensors
    from safetensors.torch import load_file

    if "backend" in inspect.signature(load_file).parameters:
        return None
    return f"safetensors {safetensors.__version__} has no backend='pread' (0.8 and later have)"


def _safe_open(files: Sequence[str], device: str, _: Any) -> Tensors:
    from safetensors import safe_open

    tensors = {}
    for path in files:
        with safe_open(path, framework="pt", device=device) as file:
            for name in file.keys():  # noqa: SIM118  # a safe_open is no mapping
                tensors[name] = file.get_tensor(name)
    return tensors


def _load_bytes(files: Sequence[str], device: str, _: Any) -> Tensors:
    from safetensors.torch import load

    tensors = merged(lambda file: load(Path(file).read_bytes()), files)
    return tensors if device == "cpu" else {name: tensor.to(device) for name, tensor in tensors.items()}


LOADERS = (
    Loader("safetensors-load-file", "safetensors", _load_file, _REQUIRES),
    Loader("safetensors-pread", "safetensors", _pread, _REQUIRES, _has_pread),
    Loader("safetensors-safe-open", "safetensors", _safe_open, _REQUIRES),
    Loader("safetensors-load-bytes", "safetensors", _load_bytes, _REQUIRES, memory=2.0),
)
