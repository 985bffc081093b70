"""Bytes on their way into a file, a bounded number of them at a time.

Needs the standard library and torch alone, since `convert_file` also runs inside an environment
under test.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import torch

from harness.checkpoints.mapped_files import Tensors, bytes_of, release
from harness.checkpoints.safetensors_file import BY_TORCH, METADATA
from harness.errors import WeighbridgeError

_PIECE_BYTES = 16 << 20
_HEADER_ALIGNMENT = 8


def copy(source: Path, destination: Path) -> None:
    """Copy a file's content, whatever its size, without holding it."""
    with source.open("rb") as reader, destination.open("wb") as given:
        while os.sendfile(given.fileno(), reader.fileno(), None, _PIECE_BYTES):
            pass


def safetensors_start(
    source: Path, tensors: Tensors, order: list[str], recorded: dict[str, str]
) -> bytes:
    """Return what a safetensors file of these tensors begins with: the header's length, the header
    and its padding.

    `recorded` goes to the metadata. Raises `WeighbridgeError`, naming `source`, for a name that
    safetensors keeps for itself, and for a dtype that it cannot hold.
    """
    entries: dict[str, object] = {METADATA: recorded | {"format": "pt"}}
    if METADATA in tensors or "format" in recorded:
        raise WeighbridgeError(
            f"{source}: names a tensor '__metadata__', or a tied one 'format', which safetensors"
            " keeps for itself; rename it"
        )
    at = 0
    for name in order:
        tensor = tensors[name]
        dtype = BY_TORCH.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None:
            raise WeighbridgeError(
                f"{source}: {name} is of {tensor.dtype}, which safetensors cannot hold"
            )
        shape = list(tensor.shape)
        if dtype.packed > 1:
            if not shape:
                raise WeighbridgeError(
                    f"{source}: {name} is of {tensor.dtype} without dimensions, which safetensors"
                    " cannot hold"
                )
            shape[-1] *= dtype.packed
        entries[name] = {
            "dtype": dtype.code,
            "shape": shape,
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def stream(path: Path, start: bytes, tensors: list[torch.Tensor]) -> None:
    """Write a file of `start` and the bytes of `tensors`, giving back the pages of each as soon as
    it is written.

    They have to lie in mapped files. One that is not contiguous is copied while it is written.
    Raises `FileExistsError` where the file is there already.
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        _put(fd, memoryview(start))
        for tensor in tensors:
            _put_tensor(fd, tensor)
    finally:
        os.close(fd)


def _put_tensor(fd: int, tensor: torch.Tensor) -> None:
    lies = tensor.is_contiguous()
    whole = tensor if lies else tensor.contiguous()
    for at in range(0, whole.nbytes, _PIECE_BYTES):
        size = min(_PIECE_BYTES, whole.nbytes - at)
        _put(fd, bytes_of(whole)[at : at + size])
        if lies:
            release(whole.data_ptr() + at, size)


def _put(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
