"""NumPy's, GGUF's, tensorizer's and FlashPack's own formats, broken and lying."""

from __future__ import annotations

import json
import struct
from typing import Any

from harness.hostile import Family
from harness.hostile.archives import FLOATS, Member, zipped
from harness.hostile.packed import npy
from harness.records.trials import Harm

numpy = Family("numpy-files", "npy", Harm.LIE)
gguf = Family("gguf-files", "gguf", Harm.LIE)
tensorizer = Family("tensorizer-files", "tensorizer", Harm.LIE)

numpy.table(
    "{}.npy",
    (
        (
            "header-calls",
            "the header is a function call instead of a dictionary, so evaluating it runs code",
            npy("", (), FLOATS, header="open('canary','w')"),
            Harm.LIE,
        ),
        (
            "header-deep",
            "the header is twenty thousand nested lists, so a recursive parser overflows",
            npy("", (), FLOATS, header="[" * 20000 + "]" * 20000),
            Harm.MEMORY,
        ),
    ),
    bytes,
    harms=True,
)


@numpy.hostile_file("member-shape-huge.npz", format_name="npz", harm=Harm.MEMORY)
def _member(_: object) -> bytes:
    """The only array of the archive claims 10^12 rows, so a loader may allocate them."""
    return zipped([Member("arr_0.npy", npy("<f4", (1 << 40,), FLOATS))])


@numpy.hostile_file("index-not-json.npz", format_name="npz", harm=Harm.BROKEN)
def _index(_: object) -> bytes:
    """The only array of the archive should hold JSON and does not."""
    return zipped([Member("arr_0.npy", npy("|u1", (5,), b"{oops"))])


def _gguf(tensors: int = 0, entries: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + body


def _text(content: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if size is None else size) + content


def _entry(key: bytes, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


gguf.table(
    "{}.gguf",
    (
        (
            "tensors-huge",
            "the file claims 2^64 - 1 tensors",
            _gguf(tensors=(1 << 64) - 1),
            Harm.MEMORY,
        ),
        (
            "array-deep",
            "a value is ten thousand nested arrays, so a recursive parser overflows",
            _gguf(entries=1, body=_entry(b"a", 9, struct.pack("<IQ", 9, 1) * 10000)),
            Harm.MEMORY,
        ),
        (
            "alignment-nothing",
            "the file claims an alignment of zero, which a reader may divide by",
            _gguf(entries=1, body=_entry(b"general.alignment", 4, struct.pack("<I", 0))),
            Harm.LIE,
        ),
        (
            "dimensions-huge",
            "a tensor claims 4 * 10^9 dimensions, so a reader may loop over them",
            _gguf(tensors=1, body=_text(b"a") + struct.pack("<I", (1 << 32) - 1)),
            Harm.MEMORY,
        ),
    ),
    bytes,
    harms=True,
)

_MAGIC = b"|TZR|"
tensorizer.table(
    "{}.tensors",
    (
        ("head-alone", "the file ends right after its magic bytes", _MAGIC, Harm.BROKEN),
        (
            "sizes-huge",
            "the header claims 2^64 - 1 tensors",
            _MAGIC + struct.pack("<I", 5) + bytes(32) + b"\xff" * 64,
            Harm.MEMORY,
        ),
    ),
    bytes,
    harms=True,
)

flashpack = Family("flashpack-files", "flashpack", Harm.LIE)


def _flashpack(size: int | None = None, **said: Any) -> bytes:
    """Return a file of one block of six floats, whose description may lie, of `size` bytes.

    The form: `get_flashpack_file_metadata` of flashpack 0.4.5.
    """
    record = {"name": "a", "shape": [2, 3], "offset": 0, "length": 6, "macroblock": 0}
    block = {"dtype": "float32", "offset_bytes": 0, "length_bytes": 24, "length_elems": 6}
    described = {
        "format": "flashpack_v4",
        "align_bytes": 128,
        "macroblocks": [block | said.pop("block", {})],
        "index": [record | said.pop("record", {})],
    } | said
    text = json.dumps(described, separators=(",", ":")).encode()
    footer = struct.pack("<Q", len(text) if size is None else size) + b"FLASHPK\0"
    return FLOATS + text + footer


flashpack.table(
    "{}.flashpack",
    (
        (
            "footer-longer",
            "the file claims a description longer than the file",
            _flashpack(size=1 << 62),
            Harm.LIE,
        ),
        (
            "tensor-beyond",
            "a tensor ends behind its block, so a loader reads other bytes",
            _flashpack(record={"length": 600, "shape": [600]}),
            Harm.LIE,
        ),
        (
            "tensor-before",
            "a tensor begins before its block, so a loader reads other bytes",
            _flashpack(record={"offset": -128}),
            Harm.LIE,
        ),
        (
            "block-missing",
            "a tensor names a block that does not exist",
            _flashpack(record={"macroblock": 7}),
            Harm.LIE,
        ),
        (
            "block-beyond",
            "a block ends behind the file's end",
            _flashpack(block={"length_bytes": 1 << 30, "length_elems": 1 << 28}),
            Harm.LIE,
        ),
        (
            "block-huge",
            "a block claims 10^12 floats, so a loader may allocate them",
            _flashpack(block={"length_bytes": 1 << 42, "length_elems": 1 << 40}),
            Harm.MEMORY,
        ),
    ),
    bytes,
    harms=True,
)
