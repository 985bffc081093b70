"""Formats by hand: zip archives that may lie, compressed runs, torch's zip and legacy forms.

Nothing here depends on a library's version.

The forms: APPNOTE.TXT of PKWARE for zip, RFC 1951 for deflate, torch/serialization.py for the rest.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.hostile.opcodes import Call, Global, Storage, pickled

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}
FLOATS = struct.pack("<6f", *range(1, 7))
"""The content of a tensor of 2 x 3 floats."""


@dataclass(frozen=True)
class Member:
    """A member of a zip archive.

    What it says of itself is true unless a field is given that lies.
    """

    name: str
    content: bytes
    method: int = 0
    stored: bytes | None = None
    """The content as compressed, by `method`."""
    size: int | None = None
    """The size it claims to have uncompressed."""
    local_name: str | None = None
    """The name in its own header, where that is not the directory's."""
    flags: int = 0
    mode: int = 0
    """The Unix mode that the directory tells of it."""
    crc: int | None = None


def zipped(members: Iterable[Member], before: bytes = b"", comment: bytes = b"") -> bytes:
    """Return a zip archive of these members, duplicates and all, after `before`."""
    body, directory, count = before, b"", 0
    for member in members:
        data = member.content if member.stored is None else member.stored
        size = len(member.content) if member.size is None else member.size
        crc = zlib.crc32(member.content) if member.crc is None else member.crc
        fixed = struct.pack(
            "<HHHHHIII",
            20,
            member.flags,
            member.method,
            0,
            0x21,
            crc,
            len(data),
            min(size, 0xFFFFFFFF),
        )
        name = member.name.encode()
        local = name if member.local_name is None else member.local_name.encode()
        directory += (
            b"PK\x01\x02\x14\x03"
            + fixed
            + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, member.mode << 16, len(body))
            + name
        )
        body += b"PK\x03\x04" + fixed + struct.pack("<HH", len(local), 0) + local + data
        count += 1
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), len(comment))
    return body + directory + b"PK\x05\x06" + end + comment


def deflated(content: bytes) -> bytes:
    """Return `content` as deflate's stored blocks: compressed in form, not in size."""
    pieces = [content[at : at + 0xFFFF] for at in range(0, len(content), 0xFFFF)] or [b""]
    return b"".join(
        struct.pack("<BHH", number == len(pieces) - 1, len(piece), len(piece) ^ 0xFFFF) + piece
        for number, piece in enumerate(pieces)
    )


def deflated_run(byte: int, length: int) -> bytes:
    """Return a deflate stream of one byte (up to 143) repeated `length` times, in about a 159th of
    that.

    One literal, matches of 258 bytes at distance 1 in the fixed code, 13 bits each, so `length` is
    one more than a multiple of 258.
    """
    matches, rest = divmod(length - 1, 258)
    if rest or byte > 143 or matches < 1:
        raise ValueError(
            f"{length} times {byte}: one more than a multiple of 258, of a byte up to 143"
        )
    match = "1100010100000"
    groups, left = divmod(
        matches - 1, 8
    )  # the first three bytes hold one match, and eight more fill 13
    return (
        _bits(f"110{0x30 + byte:08b}{match}")
        + _bits(match * 8) * groups
        + _bits(match * left + "0000000")
    )


def _bits(text: str) -> bytes:
    """Return bits as bytes, the first of them the least of its byte, the last byte filled up with
    zeros.
    """
    text += "0" * (-len(text) % 8)
    return int(text[::-1], 2).to_bytes(len(text) // 8, "little")


def tensor(
    key: str = "0",
    numel: Any = 6,
    offset: Any = 0,
    shape: Any = (2, 3),
    stride: Any = (3, 1),
    kind: str = "FloatStorage",
) -> Call:
    """Return a tensor as torch's pickles have it; what is said of its memory may lie."""
    memory = Storage(("storage", Global("torch", kind), key, "cpu", numel))
    return Global("torch._utils", "_rebuild_tensor_v2")(
        memory, offset, shape, stride, False, Global("collections", "OrderedDict")()
    )


def legacy_tensor(
    key: str = "0",
    numel: Any = 6,
    offset: Any = 0,
    shape: Any = (2, 3),
    stride: Any = (3, 1),
    view: Any = None,
) -> Call:
    """Return a tensor as pickles of the form before zip have it: its memory has a view, or none."""
    memory = Storage(("storage", Global("torch", "FloatStorage"), key, "cpu", numel, view))
    return Global("torch._utils", "_rebuild_tensor_v2")(
        memory, offset, shape, stride, False, Global("collections", "OrderedDict")()
    )


def torch_members(pickle: bytes, records: Mapping[str, bytes] | None = None) -> list[Member]:
    """Return the members of a torch file: its pickle, the tensors' memory by key, and what it says
    of itself.
    """
    storages = {"0": FLOATS} if records is None else records
    members = {"byteorder": b"little", "version": b"3\n"}
    return [
        Member("archive/data.pkl", pickle),
        *(Member(f"archive/data/{key}", content) for key, content in storages.items()),
        *(Member(f"archive/{name}", content) for name, content in members.items()),
    ]


def torch_zip(value: Any, records: Mapping[str, bytes] | None = None) -> bytes:
    """Return a torch file of a value, pickled, or of opcodes as they are."""
    return zipped(torch_members(value if isinstance(value, bytes) else pickled(value), records))


def torch_legacy(
    value: Any,
    *,
    magic: Any = MAGIC,
    protocol: Any = PROTOCOL,
    system: Any = None,
    keys: Any = ("0",),
    content: bytes = struct.pack("<q", 6) + FLOATS,
) -> bytes:
    """Return a torch file of the form before zip: five pickles and the tensors' memory.

    Opcodes are taken as they are.
    """
    parts = (
        magic,
        protocol,
        SYSTEM if system is None else system,
        value,
        list(keys) if isinstance(keys, tuple) else keys,
    )
    return b"".join(part if isinstance(part, bytes) else pickled(part) for part in parts) + content
