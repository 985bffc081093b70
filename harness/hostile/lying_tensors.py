"""Tensors in torch's files with a false memory size, shape, strides or offset. A loader that trusts
them reads outside the tensor's memory.
"""

from __future__ import annotations

import struct
from typing import Any

from harness.hostile import Family
from harness.hostile.archives import FLOATS, legacy_tensor, tensor, torch_legacy, torch_zip
from harness.hostile.opcodes import Global
from harness.records.trials import Harm

lying = Family("lying-tensors", "torch-zip", Harm.LIE)
lying_legacy = Family("lying-legacy-tensors", "torch-legacy", Harm.LIE)

_MOST = (1 << 63) - 1


def _meta(**report: Any) -> Any:
    given = {
        "dtype": Global("torch", "float32"),
        "size": (2, 3),
        "stride": (3, 1),
        "requires_grad": False,
    } | report
    return Global("torch._utils", "_rebuild_meta_tensor_no_storage")(*given.values())


def _sparse(indices: bytes, size: tuple[int, ...]) -> bytes:
    """Return a torch file of a sparse tensor of two values, whose places are `indices`."""
    at = tensor("1", 4, 0, (2, 2), (2, 1), "LongStorage")
    values = tensor("0", 2, 0, (2,), (1,))
    call = Global("torch._utils", "_rebuild_sparse_tensor")(
        Global("torch.serialization", "_get_layout")("torch.sparse_coo"), (at, values, size, False)
    )
    return torch_zip({"a": call}, {"0": FLOATS[:8], "1": indices})


lying.table(
    "{}.bin",
    (
        ("offset-beyond", "a tensor starts behind the end of its memory", tensor(offset=7)),
        (
            "offset-negative",
            "a tensor starts before its memory, so using it reads other memory",
            tensor(offset=-6),
        ),
        (
            "shape-beyond",
            "a tensor claims a thousand rows and has memory for two",
            tensor(shape=(1000, 3)),
        ),
        (
            "shape-overflow",
            "the number of a tensor's elements overflows a 64-bit number",
            tensor(shape=(1 << 62, 1 << 62), stride=(1, 1)),
        ),
        (
            "shape-wraps",
            "the number of a tensor's elements overflows to zero",
            tensor(shape=(1 << 32, 1 << 32), stride=(1, 1)),
        ),
        (
            "stride-negative",
            "negative strides lead out of a tensor's memory",
            tensor(stride=(-3, 1)),
        ),
        (
            "numel-more",
            "the memory claims to hold sixty floats and holds six",
            tensor(numel=60, shape=(60,), stride=(1,)),
        ),
        ("key-missing", "no member of the archive holds the memory", tensor(key="7")),
        ("key-climbs", "the memory's path leaves the archive's folder", tensor(key="../data.pkl")),
        (
            "meta-huge",
            "a tensor without memory claims 10^12 rows",
            _meta(size=(1 << 40, 1 << 20), stride=(1 << 20, 1)),
        ),
        (
            "bool-two",
            "one of the boolean values is 2",
            tensor(numel=24, shape=(24,), stride=(1,), kind="BoolStorage"),
        ),
    ),
    lambda value: torch_zip({"a": value}),
)


@lying.hostile_file("record-short.bin")
def _short(_: object) -> bytes:
    """A tensor's memory claims to be 24 bytes and is 20."""
    return torch_zip({"a": tensor()}, {"0": FLOATS[:20]})


lying_legacy.table(
    "legacy-{}.bin",
    (
        (
            "offset-beyond",
            "a tensor starts behind the end of its memory",
            legacy_tensor(offset=7),
            {},
        ),
        (
            "shape-beyond",
            "a tensor claims a thousand rows and has memory for two",
            legacy_tensor(shape=(1000, 3)),
            {},
        ),
        (
            "stride-negative",
            "negative strides lead out of a tensor's memory",
            legacy_tensor(stride=(-3, 1)),
            {},
        ),
        (
            "content-cut",
            "the file ends in the middle of the memory",
            legacy_tensor(),
            {"content": struct.pack("<q", 6) + FLOATS[:11]},
        ),
    ),
    lambda value, more: torch_legacy({"a": value}, **more),
)


@lying.hostile_file("sparse-beyond.bin")
def _sparse_beyond(_: object) -> bytes:
    """An index of a sparse tensor is outside its shape, so using it writes outside its memory."""
    return _sparse(struct.pack("<4q", 0, 99, 0, 1 << 40), (2, 2))
