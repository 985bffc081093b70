"""Ways to a GPU that a library leaves to its user: to the processor's memory first, and a staged copy through pinned memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.loaders import Loader, safetensors_torch, torch_pickle
from harness.loaders.ceiling import as_described, read_into, view

if TYPE_CHECKING:
    from harness.loaders import Tensors

_PIECE = 32 << 20
_ONLY = ("cuda",)


def _then_moved(load: Callable[[Sequence[str], str, Any], Tensors]) -> Callable[[Sequence[str], str, Any], Tensors]:
    """Return what loads to the processor's memory and then moves tensor by tensor, as scripts do."""

    def moved(files: Sequence[str], device: str, prepared: Any) -> Tensors:
        return {name: tensor.to(device) for name, tensor in load(files, "cpu", prepared).items()}

    return moved


def _staged(files: Sequence[str], device: str, _: Any) -> Tensors:
    """Read each file piece by piece into two pinned buffers in turn, each copied to the device while the other is filled.

    The buffers are pinned here, inside the clock: that is part of what this way costs.
    """
    tensors: Tensors = {}
    for file in files:
        tensors |= _staged_file(file, device)
    return tensors


def _staged_file(file: str, device: str) -> Tensors:
    import torch

    with open(file, "rb", buffering=0) as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(header_bytes))
        first, size = 8 + header_bytes, os.fstat(stream.fileno()).st_size
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
    return {name: as_described(target[slice(*entry["data_offsets"])], entry) for name, entry in header.items() if name != "__metadata__"}


LOADERS = (
    Loader("torch-load-then-to", "torch-zip", _then_moved(torch_pickle.EVERYTHING.load), devices=_ONLY, memory=2.0),
    Loader(
        "safetensors-load-file-then-to",
        "safetensors",
        _then_moved(safetensors_torch.load_mapped),
        ("torch", "safetensors"),
        memory=0.0,
        devices=_ONLY,
    ),
    Loader("safetensors-staged", "safetensors", _staged, memory=0.0, devices=_ONLY),
)
