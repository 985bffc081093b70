"""Ways to a GPU that a library leaves to its user: to the processor's memory first, and a staged
copy through pinned memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.checkpoints.safetensors_file import parse
from harness.loaders import Loader, safetensors_torch, torch_pickle
from harness.loaders.ceiling import as_described, read_into, view

if TYPE_CHECKING:
    from harness.loaders import Tensors

_PIECE = 32 << 20
_ONLY = ("cuda",)


def _then_moved(
    load: Callable[[Sequence[str], str], Tensors],
) -> Callable[[Sequence[str], str], Tensors]:
    """Return what loads to the processor's memory and then moves tensor by tensor, as scripts
    do.
    """

    def moved(files: Sequence[str], device: str) -> Tensors:
        return {name: tensor.to(device) for name, tensor in load(files, "cpu").items()}

    return moved


def _pinned(files: Sequence[str], device: str) -> Tensors:
    """Map the file, pin tensor by tensor, and copy each without waiting for the one before: what
    safetensors' issue 729 does by hand.
    """
    import torch

    moved: Tensors = {}
    for name, tensor in safetensors_torch.load_mapped(files, "cpu").items():
        source = tensor.pin_memory() if torch.device(device).type == "cuda" else tensor
        moved[name] = source.to(
            device, non_blocking=True
        )  # torch keeps pinned memory back until its copy is over
    if torch.device(device).type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return moved


def _eager(files: Sequence[str], device: str) -> Tensors:
    """Read the whole file, make tensors of its bytes, and move them: the eager strategy of vLLM."""
    from safetensors.torch import load

    return {
        name: tensor.to(device)
        for file in files
        for name, tensor in load(Path(file).read_bytes()).items()
    }


def _prefetched(files: Sequence[str], device: str) -> Tensors:
    from safetensors import safe_open

    tensors: Tensors = {}
    for path in files:
        with safe_open(path, framework="pt") as file, file.prefetch(device=device) as loader:
            tensors.update(dict(loader))
    return tensors


def _has_prefetch() -> str | None:
    import safetensors

    if hasattr(safetensors.safe_open, "prefetch"):
        return None
    return f"safetensors {safetensors.__version__} has no prefetch (0.9.0rc1 has)"


def _staged(files: Sequence[str], device: str) -> Tensors:
    """Read each file piece by piece into two pinned buffers in turn, each copied to the device
    while the other is filled.

    The buffers are pinned here, inside the clock: that is part of what this way costs.
    """
    tensors: Tensors = {}
    for file in files:
        tensors |= _staged_file(file, device)
    return tensors


def _staged_file(file: str, device: str) -> Tensors:
    import torch

    with open(file, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        header = parse(stream, size)
        first = header.data
        target = torch.empty(size - first, dtype=torch.uint8, device=device)
        gpu = target.is_cuda
        piece = max(min(_PIECE, size - first), 1)
        buffers = [torch.empty(piece, dtype=torch.uint8, pin_memory=gpu) for _ in range(2)]
        copied = [torch.cuda.Event() for _ in buffers] if gpu else []
        for number, start in enumerate(range(0, size - first, piece)):
            buffer, length = buffers[number % 2], min(piece, size - first - start)
            if gpu and number >= 2:
                copied[number % 2].synchronize()  # what it held is on its way until then
            read_into(stream.fileno(), view(buffer)[:length], first + start)
            target[start : start + length].copy_(buffer[:length], non_blocking=True)
            if gpu:
                copied[number % 2].record()
        if gpu:
            torch.cuda.current_stream().synchronize()  # the buffers go now
    return {
        name: as_described(target[entry.start : entry.end], entry)
        for name, entry in header.tensors.items()
    }


LOADERS = (
    Loader(
        "torch-load-then-to",
        "torch-zip",
        _then_moved(torch_pickle.EVERYTHING.load),
        devices=_ONLY,
        memory=2.0,
    ),
    Loader(
        "safetensors-load-file-then-to",
        "safetensors",
        _then_moved(safetensors_torch.load_mapped),
        ("torch", "safetensors"),
        memory=0.0,
        devices=_ONLY,
    ),
    Loader("safetensors-staged", "safetensors", _staged, memory=0.0, devices=_ONLY),
    Loader(
        "safetensors-pinned",
        "safetensors",
        _pinned,
        ("torch", "safetensors"),
        memory=1.0,
        devices=_ONLY,
    ),
    Loader(
        "safetensors-eager-then-to",
        "safetensors",
        _eager,
        ("torch", "safetensors"),
        memory=2.0,
        devices=_ONLY,
    ),
    Loader(
        "safetensors-prefetch",
        "safetensors",
        _prefetched,
        ("torch", "safetensors"),
        _has_prefetch,
        memory=0.0,
        devices=_ONLY,
    ),
)
