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
            "its head is a call in the place of a dictionary",
            npy("", (), FLOATS, header="open('canary','w')"),
            Harm.LIE,
        ),
        (
            "header-deep",
            "its head is twenty thousand lists, each in the next",
            npy("", (), FLOATS, header="[" * 20000 + "]" * 20000),
            Harm.MEMORY,
        ),
    ),
    bytes,
    harms=True,
)


@numpy.hostile_file("member-shape-huge.npz", format_name="npz", harm=Harm.MEMORY)
def _member(_: object) -> bytes:
    """An archive whose one array says it has a million million rows."""
    return zipped([Member("arr_0.npy", npy("<f4", (1 << 40,), FLOATS))])


@numpy.hostile_file("index-not-json.npz", format_name="npz", harm=Harm.BROKEN)
def _index(_: object) -> bytes:
    """An archive of one array that should be JSON and is not."""
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
            "says it has as many tensors as there are numbers",
            _gguf(tensors=(1 << 64) - 1),
            Harm.MEMORY,
        ),
        (
            "array-deep",
            "ten thousand arrays, each in the next",
            _gguf(entries=1, body=_entry(b"a", 9, struct.pack("<IQ", 9, 1) * 10000)),
            Harm.MEMORY,
        ),
        (
            "alignment-nothing",
            "says its tensors are aligned to nothing",
            _gguf(entries=1, body=_entry(b"general.alignment", 4, struct.pack("<I", 0))),
            Harm.LIE,
        ),
        (
            "dimensions-huge",
            "a tensor of four thousand million dimensions",
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
        ("head-alone", "its magic and nothing behind", _MAGIC, Harm.BROKEN),
        (
            "sizes-huge",
            "its head says as many tensors as there are numbers",
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
            "says its description is longer than the file",
            _flashpack(size=1 << 62),
            Harm.LIE,
        ),
        (
            "tensor-beyond",
            "a tensor that ends behind its block",
            _flashpack(record={"length": 600, "shape": [600]}),
            Harm.LIE,
        ),
        (
            "tensor-before",
            "a tensor that begins before its block",
            _flashpack(record={"offset": -128}),
            Harm.LIE,
        ),
        (
            "block-missing",
            "a tensor in a block that there is none of",
            _flashpack(record={"macroblock": 7}),
            Harm.LIE,
        ),
        (
            "block-beyond",
            "a block that ends behind the file",
            _flashpack(block={"length_bytes": 1 << 30, "length_elems": 1 << 28}),
            Harm.LIE,
        ),
        (
            "block-huge",
            "a block of a million million floats",
            _flashpack(block={"length_bytes": 1 << 42, "length_elems": 1 << 40}),
            Harm.MEMORY,
        ),
    ),
    bytes,
    harms=True,
)
