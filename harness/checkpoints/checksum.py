"""Checksums of tensors, fast enough to check every byte of every sample.

SHA-256 names a checkpoint (see `digest`); hashing 500 MB with it after each load would take as long
as the load. Here a large tensor is read once, as 64-bit words: each word is multiplied by an odd
number that belongs to its place, and the products are added modulo 2^64. A changed word always
changes the sum, moved ones do but for one chance in 2^32 or less. Small tensors get a CRC-32.

Needs the standard library and torch alone, since it runs inside an environment under test.
"""

from __future__ import annotations

import ctypes
import os
import random
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

_LARGE_BYTES = 1 << 18
_THREADS_FROM_BYTES = 32 << 20
_ROW = 1 << 15

Checksum = list[object]
"""[dtype, shape, number]: lists and plain values, so that it is equal to itself read back from
JSON.
"""


def checksums(tensors: Mapping[str, torch.Tensor]) -> dict[str, Checksum]:
    """Return the checksum of each tensor by name.

    What lies on a device is summed there, or copied where it is small.
    """
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size < _THREADS_FROM_BYTES:
        return {name: checksum(tensor) for name, tensor in tensors.items()}
    with ThreadPoolExecutor(min(len(tensors), os.cpu_count() or 1)) as pool:
        return dict(zip(tensors, pool.map(checksum, tensors.values()), strict=True))


def difference(actual: Mapping[str, Checksum], expected: Mapping[str, Checksum]) -> str | None:
    """Return what is wrong with tensors by their checksums, the first of each kind by name, or None
    where they are the expected ones.
    """
    both = [name for name in expected if name in actual]
    kinds = {
        "missing": [name for name in expected if name not in actual],
        "not the checkpoint's": [name for name in actual if name not in expected],
        "of another dtype": [name for name in both if actual[name][0] != expected[name][0]],
        "of another shape": [
            name
            for name in both
            if actual[name][0] == expected[name][0] and actual[name][1] != expected[name][1]
        ],
        "of other bytes": [
            name
            for name in both
            if actual[name][:2] == expected[name][:2] and actual[name][2] != expected[name][2]
        ],
    }
    phrases = [
        f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} {kind}"
        for kind, names in kinds.items()
        if names
    ]
    return "; ".join(phrases) or None


def checksum(tensor: torch.Tensor) -> Checksum:
    """Return the checksum of one tensor: its dtype, its shape and a number that depends on every
    byte and its place.
    """
    flat = tensor if tensor.is_contiguous() else tensor.contiguous()
    size = flat.nbytes
    number = _sum_of_words(flat, size) if size >= _LARGE_BYTES else _crc(flat, size)
    return [_dtype_name(tensor.dtype), list(tensor.shape), number]


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype)


def _crc(flat: torch.Tensor, size: int) -> int:
    if size == 0:
        return 0
    on_cpu = flat.cpu() if flat.is_cuda else flat
    return zlib.crc32((ctypes.c_char * size).from_address(on_cpu.data_ptr()))


def _sum_of_words(flat: torch.Tensor, size: int) -> int:
    octets = flat.detach().reshape(-1).view(torch.uint8)
    if octets.data_ptr() % 8 or octets.storage_offset() % 8:
        octets = octets.clone()  # words want aligned memory
    words, tail = octets[: size // 8 * 8].view(torch.int64), octets[size // 8 * 8 :]
    inner, outer = (weights.to(flat.device) for weights in _weights())
    rows, rest = words.numel() // _ROW, words.numel() % _ROW
    matrix = words[: rows * _ROW].view(rows, _ROW)
    by_row = (
        matrix.mv(inner) if flat.device.type == "cpu" else (matrix * inner).sum(1)
    )  # devices multiply no integer matrices
    sums = torch.cat([by_row, (words[rows * _ROW :] * inner[:rest]).sum().reshape(1)])
    places = outer.repeat(-(-sums.numel() // _ROW))[
        : sums.numel()
    ]  # as many as there are up to 8.6 GB a tensor
    total = int((sums * places).sum())
    return (total + int.from_bytes(bytes(tail.tolist()), "little") * 0x9E3779B97F4A7C15) & (
        2**64 - 1
    )


@cache
def _weights() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two rows of odd 64-bit numbers, the same everywhere: Python's generator is specified,
    torch's may change between releases.
    """
    stream = random.Random("weighbridge checksum")  # noqa: S311  # places, no secrets
    inner, outer = (
        torch.frombuffer(bytearray(stream.randbytes(8 * _ROW)), dtype=torch.int64) | 1
        for _ in range(2)
    )
    return inner, outer


_weights()  # made when this is imported, so that no sample's process makes them
