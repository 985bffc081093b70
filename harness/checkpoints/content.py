"""Seeded content for a layout: finite, non-zero, and the same bytes on every machine.

Zeros compress, deduplicate and share pages, so a checkpoint of zeros measures something else. The
bits come from NumPy's SFC64, whose stream is fixed by NumPy's compatibility policy (NEP 19); masks
then hold every float between 2^-7 and 2, either sign.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from harness.checkpoints.layout import TensorSpec
from harness.machine.description import usable_cores

# For each dtype, the bits kept from the stream and the bits then set, in one element's width.
_MASKS = {
    "float64": (8, 0x803FFFFFFFFFFFFF, 0x3F80000000000000),
    "float32": (4, 0x83FFFFFF, 0x3C000000),
    "bfloat16": (2, 0x83FF, 0x3C00),
    "float16": (2, 0x8FFF, 0x3000),
    "int64": (8, 0x7FFF, 0x1),
    "int32": (4, 0x7FFF, 0x1),
    "int16": (2, 0x7FFF, 0x1),
    "int8": (1, 0x7F, 0x1),
    "uint8": (1, 0xFF, 0x1),
    "bool": (1, 0x0, 0x1),
}


def make_tensor(layout: str, index: int, spec: TensorSpec, seed: int) -> torch.Tensor:
    """Return the content of tensor number `index` of a layout: a private, contiguous tensor that
    depends on nothing but the arguments.
    """
    width, keep, fixed = _MASKS[spec.dtype]
    stream = np.random.Generator(
        np.random.SFC64(np.random.SeedSequence([seed, zlib.crc32(layout.encode()), index]))
    )
    words: np.ndarray[Any, np.dtype[np.uint64]] = stream.integers(
        0, 2**64, max(1, -(-spec.bytes // 8)), dtype=np.uint64
    )
    words &= np.uint64(_replicated(keep, width))
    words |= np.uint64(_replicated(fixed, width))
    flat = torch.from_numpy(words).view(torch.uint8)[: spec.bytes]
    return flat.view(getattr(torch, spec.dtype))[: math.prod(spec.shape)].reshape(spec.shape)


def make_tensors(
    layout: str, seed: int, numbered: Sequence[tuple[int, TensorSpec]]
) -> dict[str, torch.Tensor]:
    """Return the given tensors of a layout by name, made on every core."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        tensors = pool.map(lambda item: make_tensor(layout, item[0], item[1], seed), numbered)
        return {spec.name: tensor for (_, spec), tensor in zip(numbered, tensors, strict=True)}


def _replicated(mask: int, width: int) -> int:
    return sum(mask << (8 * width * place) for place in range(8 // width))
