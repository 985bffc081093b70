"""safetensors files that are broken or lie: in their length, their header, the tensors' offsets and
shapes, or their data.

The format: the README of safetensors, section Format; its limit of a header is MAX_HEADER_SIZE in
the library's tensor.rs.
"""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from harness.hostile import Family
from harness.hostile.archives import FLOATS
from harness.records.trials import Harm

HEADER_CAP = 100_000_000
"""Largest header, in bytes, that the library accepts."""
A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}

length = Family("header-length", "safetensors", Harm.LIE)
grammar = Family("header-grammar", "safetensors", Harm.BROKEN)
enormous = Family("header-enormous", "safetensors", Harm.MEMORY)
fields = Family("header-fields", "safetensors", Harm.BROKEN)
offsets = Family("offsets", "safetensors", Harm.LIE)
shapes = Family("shapes", "safetensors", Harm.LIE)
around = Family("around-the-data", "safetensors", Harm.BROKEN)

_EDGE_S = 20.0


def safetensors(header: Any, content: bytes = FLOATS, size: int | None = None) -> bytes:
    """Return a file of a header, given as JSON or as what is to be made JSON of, which says of
    itself that it is `size` bytes long.
    """
    written = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    return struct.pack("<Q", len(written) if size is None else size) + written + content


def _described(size: int) -> bytes:
    """Return the header of one tensor whose metadata is a text that fills it up to `size` bytes."""
    frame = json.dumps({"__metadata__": {"text": "~"}, "a": A}).encode()
    before, after = frame.split(b"~")
    return before + b"x" * (size - len(before) - len(after)) + after


length.table(
    "length-{}.safetensors",
    (
        ("nothing", "the file claims a header of zero bytes", 0),
        ("one-long", "the file claims a header one byte longer than it is", 58),
        ("beyond", "the file claims a header longer than the file", 1_000_000),
        (
            "enormous",
            (
                "the file claims a header of 2^62 bytes, far more than the limit, so a loader may"
                " allocate them"
            ),
            2**62,
        ),
    ),
    lambda size: safetensors({"a": A}, size=size),
)

length.table(
    "{}.safetensors",
    (
        ("empty", "the file is empty", b"", Harm.BROKEN),
        (
            "seven-bytes",
            "the file has seven bytes, and the header length alone takes eight",
            b"\x39\0\0\0\0\0\0",
            Harm.BROKEN,
        ),
        (
            "header-cut",
            "the file ends in the middle of its header",
            safetensors({"a": A})[:40],
            Harm.BROKEN,
        ),
    ),
    bytes,
    harms=True,
)


@enormous.hostile_file("cap-padded.safetensors", harm=Harm.NONE, limit_s=_EDGE_S)
def _cap_padded(_: object) -> bytes:
    """The header is exactly as long as allowed, and most of it is spaces."""
    return safetensors(json.dumps({"a": A}).encode().ljust(HEADER_CAP))


@enormous.hostile_file("cap-text.safetensors", harm=Harm.NONE, limit_s=_EDGE_S)
def _cap_text(_: object) -> bytes:
    """The header is exactly as long as allowed, and most of it is one metadata text."""
    return safetensors(_described(HEADER_CAP))


@enormous.hostile_file("cap-text-over.safetensors", limit_s=_EDGE_S)
def _cap_text_over(_: object) -> bytes:
    """The header is one byte longer than allowed, and most of it is one metadata text."""
    return safetensors(_described(HEADER_CAP + 1))


@enormous.hostile_file("five-thousand-tensors.safetensors")
def _tensors(_: object) -> bytes:
    """The file holds five thousand empty tensors in a quarter of a megabyte."""
    entry = ',"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return safetensors(
        b"{" + "".join(entry % number for number in range(5_000)).encode()[1:] + b"}", b""
    )


@enormous.hostile_file("many-notes.safetensors", limit_s=_EDGE_S)
def _notes(_: object) -> bytes:
    """The metadata has 150,000 entries for one tensor."""
    return safetensors({"__metadata__": {str(number): "" for number in range(150_000)}, "a": A})


@enormous.hostile_file("many-dimensions.safetensors")
def _dimensions(_: object) -> bytes:
    """One tensor has 300,000 dimensions of size one."""
    return safetensors(
        {"a": {"dtype": "F32", "shape": [1] * 300_000, "data_offsets": [0, 4]}}, FLOATS[:4]
    )


@enormous.hostile_file("long-name.safetensors")
def _long_name(_: object) -> bytes:
    """The name of one tensor has four million letters."""
    return safetensors({"a" * 4_000_000: A})


@enormous.hostile_file("deep-lists.safetensors")
def _deep_lists(_: object) -> bytes:
    """A shape is a hundred thousand nested lists, so a recursive parser overflows."""
    deep = b"[" * 100_000 + b"]" * 100_000
    return safetensors(b'{"a":{"dtype":"F32","shape":' + deep + b',"data_offsets":[0,24]}}')


_GOOD = json.dumps({"a": A}, separators=(",", ":")).encode()
grammar.table(
    "json-{}.safetensors",
    (
        ("not-json", "the header is not JSON", b"{'a': this is not JSON}"),
        ("byte-order-mark", "the header begins with a byte order mark", b"\xef\xbb\xbf" + _GOOD),
        (
            "begins-with-space",
            "the header begins with a space, which the format forbids",
            b" " + _GOOD,
        ),
        ("padded-with-nothing", "the header is padded with zero bytes", _GOOD + bytes(7)),
        ("utf-8", "a tensor's name is not valid UTF-8", _GOOD.replace(b'"a"', b'"\xff\xfe"')),
        (
            "lone-surrogate",
            "a tensor's name is half of a surrogate pair, which is not text",
            _GOOD.replace(b'"a"', b'"\\ud800"'),
        ),
    ),
    safetensors,
)

_WHOLE = '"dtype":"F32","shape":[2,3],"data_offsets":[0,24]'
fields.table(
    "{}.safetensors",
    (
        (
            "name-twice-other",
            "two tensors have the same name and different shapes",
            f'{{"a":{{{_WHOLE}}},"a":{{"dtype":"F32","shape":[6],"data_offsets":[0,24]}}}}',
            Harm.LIE,
        ),
        (
            "name-twice-places",
            "two tensors have the same name and different offsets",
            '{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
            '"a":{"dtype":"F32","shape":[3],"data_offsets":[12,24]}}',
            Harm.LIE,
        ),
        (
            "dtype-unknown",
            "a tensor has an unknown dtype",
            f'{{"a":{{{_WHOLE.replace("F32", "F33")}}}}}',
            Harm.BROKEN,
        ),
        (
            "dtype-missing",
            "a tensor has no dtype",
            '{"a":{"shape":[2,3],"data_offsets":[0,24]}}',
            Harm.BROKEN,
        ),
        (
            "metadata-tensor",
            "the metadata is a tensor's entry",
            f'{{"__metadata__":{{{_WHOLE}}}}}',
            Harm.BROKEN,
        ),
    ),
    lambda text: safetensors(text.encode()),
    harms=True,
)


def _tensor(
    begin: object, end: object, shape: object = (2, 3), dtype: str = "F32"
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


offsets.table(
    "offsets-{}.safetensors",
    (
        (
            "overlapping",
            "two tensors share bytes",
            {"a": _tensor(0, 24), "b": _tensor(12, 36)},
            FLOATS + FLOATS[:12],
        ),
        (
            "gap",
            "bytes between two tensors belong to no tensor",
            {"a": _tensor(0, 24), "b": _tensor(28, 52)},
            FLOATS + bytes(4) + FLOATS,
        ),
        ("backwards", "a tensor ends before it begins", {"a": _tensor(24, 0)}, FLOATS),
        (
            "negative",
            "a tensor begins before the data, so a loader reads the header as numbers",
            {"a": _tensor(-24, 0)},
            FLOATS,
        ),
        (
            "beyond",
            "a tensor ends behind the file's end, so a loader reads other memory",
            {"a": _tensor(0, 2400, [200, 3])},
            FLOATS,
        ),
        (
            "just-beyond",
            "a tensor ends one float behind the file's end",
            {"a": _tensor(0, 28, [7])},
            FLOATS,
        ),
    ),
    safetensors,
)

shapes.table(
    "shape-{}.safetensors",
    (
        (
            "wraps-to-size",
            "the size of a shape overflows 64 bits to 24 bytes, so it seems to fit",
            {"a": _tensor(0, 24, [(1 << 62) + 6])},
            FLOATS,
        ),
        (
            "negative",
            "a shape has negative rows and columns",
            {"a": _tensor(0, 24, [-2, -3])},
            FLOATS,
        ),
        (
            "half-a-byte",
            "an odd number of half-byte elements",
            {"a": _tensor(0, 1, [3], "F4")},
            b"\x01",
        ),
        (
            "bool-two",
            "one of the boolean values is 2",
            {"a": _tensor(0, 24, [24], "BOOL")},
            bytes(23) + b"\x02",
        ),
    ),
    safetensors,
)

around.table(
    "{}.safetensors",
    (
        ("trailing-byte", "one byte follows the last tensor", safetensors({"a": A}) + b"\0"),
        ("cut-by-one", "the last byte is missing", safetensors({"a": A})[:-1]),
        ("cut-all", "all data bytes are missing", safetensors({"a": A}, b"")),
        ("no-tensor-but-data", "the file has data but no tensor", safetensors({}, FLOATS)),
    ),
    bytes,
)


@around.hostile_file("noise.safetensors")
def _noise(rng: Random) -> bytes:
    """The file is a kilobyte of random bytes."""
    return rng.randbytes(1024)


sharding = Family("sharding-information", "dcp-safetensors", Harm.LIE)


def _sharded(saved: Any) -> bytes:
    """Return a file that says where its tensor lies in a larger one, as DCP writes it."""
    text = saved if isinstance(saved, str) else json.dumps(saved)
    return safetensors({"__metadata__": {"DCP_SHARDING_INFO": text}, "a": A})


sharding.table(
    "dcp-{}.safetensors",
    (
        (
            "offset-huge",
            (
                "the file claims that its tensor is the end of one with 10^12 rows, so a loader"
                " may allocate it"
            ),
            {"a": {"saved_offsets": [1 << 40, 0]}},
            Harm.MEMORY,
        ),
        (
            "offset-negative",
            "the file claims that its tensor begins before the whole tensor it is part of",
            {"a": {"saved_offsets": [-5, 0]}},
            Harm.LIE,
        ),
        (
            "offset-few",
            "the file gives its tensor's offset in only one of two dimensions",
            {"a": {"saved_offsets": [1]}},
            Harm.LIE,
        ),
        (
            "tensor-missing",
            "the file has no entry for its tensor",
            {"b": {"saved_offsets": [0, 0]}},
            Harm.LIE,
        ),
        ("not-json", "the entry for its tensor is not JSON", "{", Harm.BROKEN),
    ),
    _sharded,
    harms=True,
)
