"""The page touch that makes weights ready: one byte of every page of every tensor, the same for
every loader.

A tensor that was handed back may be nothing but a promise of the page cache. Reading one byte of
each page makes the kernel keep it.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_PAGE = mmap.PAGESIZE


def touch(tensors: Iterable[torch.Tensor]) -> int:
    """Read the first byte of every page, and the last byte, that each CPU tensor's elements span.

    Return how many bytes were read.
    """
    read = 0
    for tensor in tensors:
        size = _extent(tensor)
        if size:
            address: int = tensor.data_ptr()
            content = memoryview((ctypes.c_char * size).from_address(address)).cast("B")
            touched = (
                content[:1].tobytes()
                + content[-address % _PAGE :: _PAGE].tobytes()
                + content[-1:].tobytes()
            )
            read += len(touched)
    return read


def _extent(tensor: torch.Tensor) -> int:
    """Return how many bytes lie from the tensor's first element to the end of its last, whatever
    its strides.
    """
    if tensor.is_contiguous():
        size: int = tensor.nbytes
        return size
    elements: int = 1 + sum(
        (length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    item: int = tensor.element_size()
    return elements * item
