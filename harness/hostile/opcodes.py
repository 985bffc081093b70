"""A small assembler of pickles: opcodes by hand, so that the same file has the same bytes under
every Python.

Opcodes and their meaning: Lib/pickletools.py of CPython. Without a reason to, nothing beyond
protocol 2 is used, which every unpickler reads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

PROTO_2, PROTO_4, STOP = b"\x80\x02", b"\x80\x04", b"."


@dataclass(frozen=True)
class Global:
    """A name of a module, dotted where it is an attribute of one."""

    module: str
    name: str

    def __call__(self, *arguments: Any) -> Call:
        """Return the call of it."""
        return Call(self, arguments)


@dataclass(frozen=True)
class Call:
    """What a callable returns, given some arguments, as REDUCE has it."""

    callable: Any
    arguments: tuple[Any, ...]

    def __call__(self, *arguments: Any) -> Call:
        """Return the call of what this returns."""
        return Call(self, arguments)


@dataclass(frozen=True)
class Storage:
    """A persistent id, as torch's files name the memory of a tensor."""

    what: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are, which leave one value on the stack."""

    opcodes: bytes


def pickled(value: Any, protocol: bytes = PROTO_2) -> bytes:
    """Return a whole pickle of a value that may hold globals, calls, storages and raw opcodes."""
    return protocol + push(value) + STOP


def push(value: Any) -> bytes:  # noqa: C901  # one branch for each kind of value
    """Return the opcodes that leave `value` on the stack."""
    match value:
        case Raw():
            return value.opcodes
        case Global():
            return _global(value)
        case Call():
            return push(value.callable) + push(tuple(value.arguments)) + b"R"
        case Storage():
            return push(value.what) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return _integer(value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode("utf-8", "surrogatepass")
            return b"X" + struct.pack("<I", len(text)) + text
        case bytes():
            return push(
                Global("_codecs", "encode")(value.decode("latin1"), "latin1")
            )  # as protocol 2 has it
        case tuple():
            return b"(" + b"".join(map(push, value)) + b"t"
        case list():
            return b"](" + b"".join(map(push, value)) + b"e"
        case dict():
            return b"}(" + b"".join(push(key) + push(item) for key, item in value.items()) + b"u"
        case _:
            raise TypeError(f"{value!r}: no opcodes for it")


def text_global(module: str, name: str) -> bytes:
    """Return GLOBAL: the names as lines of text."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def stack_global(module: str, name: str) -> bytes:
    """Return STACK_GLOBAL: the names from the stack."""
    return short_text(module) + short_text(name) + b"\x93"


def short_text(text: str) -> bytes:
    """Return SHORT_BINUNICODE, of protocol 4."""
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


def _global(value: Global) -> bytes:
    """Return GLOBAL, or STACK_GLOBAL for an attribute, which only protocol 4 resolves."""
    return (
        stack_global(value.module, value.name)
        if "." in value.name
        else text_global(value.module, value.name)
    )


def _integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
