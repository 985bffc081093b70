"""NumPy's, GGUF's and tensorizer's own formats, broken and lying."""

from __future__ import annotations

import struct

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
