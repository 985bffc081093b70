"""Files that a loader should load: valid files of each format, and unusual but harmless ones. A
refusal of these is reported too.
"""

from __future__ import annotations

from typing import Any

from harness.hostile import Family
from harness.hostile.archives import (
    FLOATS,
    Member,
    deflated,
    legacy_tensor,
    tensor,
    torch_legacy,
    torch_members,
    torch_zip,
    zipped,
)
from harness.hostile.opcodes import PROTO_4, Global, pickled
from harness.hostile.packed import CLEAN
from harness.hostile.safetensors_files import A, safetensors
from harness.records.trials import Harm

whole = Family("whole-files", "safetensors", Harm.NONE)
odd = Family("harmless-oddities", "safetensors", Harm.NONE)

whole.add(
    "whole.safetensors",
    "two tensors, as the library writes them",
    lambda _: safetensors({"a": A, "b": A | {"data_offsets": [24, 48]}}, FLOATS * 2),
)
whole.add(
    "whole.bin",
    "a torch file of one tensor",
    lambda _: torch_zip({"a": tensor()}),
    format_name="torch-zip",
)
whole.add(
    "whole-legacy.bin",
    "a legacy torch file (before zip) of one tensor",
    lambda _: torch_legacy({"a": legacy_tensor()}),
    format_name="torch-legacy",
)
whole.add(
    "whole.pkl",
    "a pickle of plain values",
    lambda _: pickled({"a": [1, 2.5, "b", None, True]}),
    format_name="pickle",
)
whole.add(
    "ordered.bin",
    "a torch file of one tensor in an OrderedDict",
    lambda _: torch_zip(Global("collections", "OrderedDict")([("a", tensor())])),
    format_name="torch-zip",
)

odd.table(
    "odd-{}.safetensors",
    (
        ("empty", "holds no tensor", {}, b""),
        (
            "unordered",
            "the header lists its tensors in another order than their bytes",
            {"b": A | {"data_offsets": [24, 48]}, "a": A},
            FLOATS * 2,
        ),
        ("name-empty", "a tensor whose name is empty", {"": A}, FLOATS),
        ("name-path", "a tensor whose name is a path", {"../../a": A}, FLOATS),
        (
            "field-unknown",
            "a tensor's entry has a field that the format does not know",
            {"a": A | {"note": "x"}},
            FLOATS,
        ),
    ),
    safetensors,
)

_LIKE: dict[str, Any] = {"format_name": "torch-zip"}
odd.add(
    "odd-padded.safetensors",
    "a header padded with spaces, as the library writes it",
    lambda _: safetensors(b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'.ljust(64)),
)
odd.add(
    "odd-deflated.bin",
    "a torch file with a compressed data.pkl",
    lambda _: zipped(
        [Member("archive/data.pkl", CLEAN, 8, deflated(CLEAN)), *torch_members(CLEAN)[1:]]
    ),
    **_LIKE,
)
odd.add(
    "odd-protocol-four.bin",
    "a torch file with a pickle of protocol 4",
    lambda _: torch_zip(pickled({"a": tensor()}, PROTO_4)),
    **_LIKE,
)
odd.add(
    "odd-shared.bin",
    "two tensors share the same memory",
    lambda _: torch_zip({"a": tensor(), "b": tensor(shape=(3, 2), stride=(2, 1))}),
    **_LIKE,
)
odd.add(
    "odd-transposed.bin",
    "a transposed tensor, with its strides swapped",
    lambda _: torch_zip({"a": tensor(shape=(3, 2), stride=(1, 3))}),
    **_LIKE,
)
