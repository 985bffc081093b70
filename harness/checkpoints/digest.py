"""Digests of tensors: what makes two checkpoints the same content, whatever their format.

Needs the standard library and torch alone, since it also runs inside an environment under test.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_THREADS_FROM_BYTES = 32 << 20


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of dtype, shape and content of a tensor, as 64 hexadecimal digits.

    The content is hashed where it lies, on the CPU.
    """
    flat = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{flat.dtype} {tuple(flat.shape)}\n".encode())
    size = flat.numel() * flat.element_size()
    if size:
        digest.update((ctypes.c_char * size).from_address(flat.data_ptr()))
    return digest.hexdigest()


def tensor_digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the digest of each tensor by name.

    Large checkpoints are hashed on every core, since hashing lets go of the interpreter.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size < _THREADS_FROM_BYTES:
        return {name: tensor_digest(tensor) for name, tensor in tensors.items()}
    with ThreadPoolExecutor(min(len(tensors), os.cpu_count() or 1)) as pool:
        return dict(zip(tensors, pool.map(tensor_digest, tensors.values()), strict=True))


def checkpoint_digest(digests: Mapping[str, str]) -> str:
    """Return one digest for a whole checkpoint from its tensors' digests, whatever their order."""
    return hashlib.sha256(
        "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests)).encode(
            errors="surrogatepass"
        )
    ).hexdigest()
