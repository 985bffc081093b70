"""The safetensors library's own ways into torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.loaders import Loader, PartLoader, Selection, merged, own, then_cut

if TYPE_CHECKING:
    from harness.loaders import Tensors

_REQUIRES = ("torch", "safetensors")


def load_mapped(files: Sequence[str], device: str) -> Tensors:
    """Return the files' tensors by `load_file`."""
    from safetensors.torch import load_file

    return merged(lambda file: load_file(file, device=device), files)


def load_read(files: Sequence[str], device: str) -> Tensors:
    """Return the files' tensors by `load_file`, which reads them where it would map them."""
    from safetensors.torch import load_file

    return merged(lambda file: load_file(file, device=device, backend="pread"), files)


def has_pread() -> str | None:
    """Return why `load_file` cannot be told to read, or None."""
    import inspect

    import safetensors
    from safetensors.torch import load_file

    if "backend" in inspect.signature(load_file).parameters:
        return None
    return f"safetensors {safetensors.__version__} has no backend='pread' (0.8 and later have)"


def _safe_open(files: Sequence[str], device: str) -> Tensors:
    from safetensors import safe_open

    tensors = {}
    for path in files:
        with safe_open(path, framework="pt", device=device) as file:
            for name in file.keys():  # noqa: SIM118  # a safe_open is no mapping
                tensors[name] = file.get_tensor(name)
    return tensors


def _get_tensors(files: Sequence[str], device: str) -> Tensors:
    from safetensors import safe_open

    def load_one(path: str) -> Tensors:
        with safe_open(path, framework="pt", device=device) as file:
            tensors: Tensors = file.get_tensors()
            return tensors

    return merged(load_one, files)


def _has_get_tensors() -> str | None:
    import safetensors

    if hasattr(safetensors.safe_open, "get_tensors"):
        return None
    return f"safetensors {safetensors.__version__} has no get_tensors() (0.8 and later have)"


def _load_bytes(files: Sequence[str], _device: str) -> Tensors:
    from safetensors.torch import load

    return merged(lambda file: load(Path(file).read_bytes()), files)


def _slices(selections: Sequence[Selection], device: str) -> Tensors:
    """Ask for nothing but the pieces; what comes back lies in the mapped file, so it is copied."""
    return {name: own(tensor) for name, tensor in _cut(selections, device).items()}


def _pread_slices(selections: Sequence[Selection], device: str) -> Tensors:
    return _cut(selections, device, backend="pread")


def _cut(selections: Sequence[Selection], device: str, **options: Any) -> Tensors:
    from safetensors import safe_open

    tensors = {}
    for path, pieces in selections:
        with safe_open(path, framework="pt", device=device, **options) as file:
            for piece in pieces:
                name = piece.tensor
                tensors[name] = (
                    file.get_tensor(name)
                    if piece.axis is None
                    else file.get_slice(name)[piece.index]
                )
    return tensors


LOADERS = (
    Loader("safetensors-load-file", "safetensors", load_mapped, _REQUIRES, memory=0.0),
    Loader("safetensors-pread", "safetensors", load_read, _REQUIRES, has_pread),
    Loader("safetensors-safe-open", "safetensors", _safe_open, _REQUIRES, memory=0.0),
    Loader(
        "safetensors-get-tensors",
        "safetensors",
        _get_tensors,
        _REQUIRES,
        _has_get_tensors,
        memory=0.0,
    ),
    Loader(
        "safetensors-load-bytes",
        "safetensors",
        _load_bytes,
        _REQUIRES,
        memory=2.0,
        devices=("cpu",),
    ),
)
PART_LOADERS = (
    PartLoader("safetensors-get-slice", "safetensors", _slices, _REQUIRES),
    PartLoader(
        "safetensors-load-file", "safetensors", then_cut(load_mapped, mapped=True), _REQUIRES
    ),
    PartLoader("safetensors-pread", "safetensors", _pread_slices, _REQUIRES, has_pread),
)
