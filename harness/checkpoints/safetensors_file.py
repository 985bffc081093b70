"""The header of a safetensors file: every dtype it can name, and one strict reader of it.

It reads no more kindly than the safetensors library does: what the library refuses is refused here.
A name that stands twice, which the library takes, is refused as well, and so are the two odd ways
of writing an entry that its parser lets through (a list, a table as dtype).

Needs the standard library alone, since it runs inside an environment under test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from harness.errors import WeighbridgeError

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
MOST_HEADER_BYTES = 100_000_000
"""The longest header that safetensors takes."""
METADATA = "__metadata__"
_MOST_DEPTH = 126  # nested lists and tables in all: what serde_json, the library's parser, takes
_MOST_NUMBER = 1 << 64
_FIELDS = ("dtype", "shape", "data_offsets")
_WHITESPACE = b" \t\r\n"


class NoSafetensorsError(WeighbridgeError):
    """A file is no whole safetensors file.

    The message says what is wrong with it, and names no file.
    """


@dataclass(frozen=True)
class Dtype:
    """A dtype of safetensors: its name in a header, the bits of an element, and torch's name of
    it.
    """

    code: str
    bits: int
    torch: str | None
    """None where torch has none."""
    packed: int = 1
    """How many elements torch counts as one, the last dimension being so much shorter."""


_DTYPES = (
    Dtype("BOOL", 8, "bool"),
    Dtype("F4", 4, "float4_e2m1fn_x2", packed=2),
    Dtype("F6_E2M3", 6, None),
    Dtype("F6_E3M2", 6, None),
    Dtype("U8", 8, "uint8"),
    Dtype("I8", 8, "int8"),
    Dtype("F8_E5M2", 8, "float8_e5m2"),
    Dtype("F8_E4M3", 8, "float8_e4m3fn"),
    Dtype("F8_E8M0", 8, "float8_e8m0fnu"),
    Dtype("F8_E4M3FNUZ", 8, "float8_e4m3fnuz"),
    Dtype("F8_E5M2FNUZ", 8, "float8_e5m2fnuz"),
    Dtype("I16", 16, "int16"),
    Dtype("U16", 16, "uint16"),
    Dtype("F16", 16, "float16"),
    Dtype("BF16", 16, "bfloat16"),
    Dtype("I32", 32, "int32"),
    Dtype("U32", 32, "uint32"),
    Dtype("F32", 32, "float32"),
    Dtype("C64", 64, "complex64"),
    Dtype("F64", 64, "float64"),
    Dtype("I64", 64, "int64"),
    Dtype("U64", 64, "uint64"),
)
DTYPES: Mapping[str, Dtype] = {dtype.code: dtype for dtype in _DTYPES}
"""Every dtype that a header can name, by that name (safetensors 0.8.0)."""
BY_TORCH: Mapping[str, Dtype] = {dtype.torch: dtype for dtype in _DTYPES if dtype.torch}
"""Those that torch has, by torch's name."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a header.

    Its bytes lie from `start` to `end`, counted from where the data begin.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape as torch counts it."""
        return (
            (*self.shape[:-1], self.shape[-1] // self.dtype.packed)
            if self.dtype.packed > 1 and self.shape
            else self.shape
        )

    @property
    def refusal(self) -> str | None:
        """Why torch can hold no such tensor, or None."""
        if self.dtype.torch is None:
            return f"is of dtype {self.dtype.code}, which torch does not have"
        if self.dtype.packed > 1 and (not self.shape or self.shape[-1] % self.dtype.packed):
            return (
                f"is of dtype {self.dtype.code} and shape {list(self.shape)}, of which torch wants"
                " an even last dimension"
            )
        return None


@dataclass(frozen=True)
class Header:
    """A whole header: its tensors by name, in the order of the header, its metadata, and where the
    data begin in the file.
    """

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data: int


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file.

    Raises `NoSafetensorsError` for any other, also one cut short.
    """
    with path.open("rb") as file:
        return parse(file, path.stat().st_size)


def parse(file: IO[bytes], size: int) -> Header:
    """Return the header of a safetensors file of `size` bytes, which is read from its start.

    Raises `NoSafetensorsError`.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8:
        raise NoSafetensorsError(f"it has {len(start)} bytes, and the length of a header takes 8")
    if length > MOST_HEADER_BYTES:
        raise NoSafetensorsError(
            f"its header would be {length:,} bytes long, and safetensors takes"
            f" {MOST_HEADER_BYTES:,} at most"
        )
    if length > size - 8:
        raise NoSafetensorsError(
            f"its header is said to be {length:,} bytes long, and {size - 8:,} follow:"
            f" {length - size + 8:,} are missing"
        )
    content = file.read(length)
    tensors, metadata = _content(content)
    end = max((entry.end for entry in tensors.values()), default=0)
    missing = 8 + length + end - size
    if missing:
        words = f"{missing:,} are missing" if missing > 0 else f"{-missing:,} belong to no tensor"
        raise NoSafetensorsError(
            f"its header tells of {8 + length + end:,} bytes, and the file has {size:,}: {words}"
        )
    return Header(tensors, metadata, 8 + length)


def _content(content: bytes) -> tuple[dict[str, Entry], dict[str, str]]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoSafetensorsError(
            f"its header is no UTF-8 ({error.reason} at byte {error.start})"
        ) from None
    if not content.lstrip(_WHITESPACE).startswith(b"{"):
        raise NoSafetensorsError("its header is no JSON table")
    try:
        header = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_integer,
        )
    except NoSafetensorsError:
        raise
    except (ValueError, RecursionError) as error:
        raise NoSafetensorsError(f"its header is no JSON ({error})") from None
    metadata = _metadata(header.pop(METADATA, None))
    for name in header:
        if not _is_unicode(name):
            raise NoSafetensorsError(
                f"the name {name!r} holds half of a surrogate pair, which is no text"
            )
    tensors = {name: _entry(name, entry) for name, entry in header.items()}
    reached = 0
    for name, entry in sorted(tensors.items(), key=lambda pair: (pair[1].start, pair[1].end)):
        if entry.start != reached:
            raise NoSafetensorsError(
                f"{name!r} begins at byte {entry.start:,} of the data, where {reached:,} is reached"
            )
        reached = entry.end
    return tensors, metadata


def _metadata(metadata: Any) -> dict[str, str]:
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise NoSafetensorsError(f"its {METADATA} is no table of texts")
    if any(not _is_unicode(text) for pair in metadata.items() for text in pair):
        raise NoSafetensorsError(f"its {METADATA} holds half of a surrogate pair, which is no text")
    return metadata


def _entry(name: str, entry: Any) -> Entry:
    if not isinstance(entry, dict):
        raise NoSafetensorsError(f"{name!r} is no table of dtype, shape and data_offsets")
    for field in _FIELDS:
        if field not in entry:
            raise NoSafetensorsError(f"{name!r} has no {field}")
    if len(entry) > len(_FIELDS):
        _look_through(name, entry)
    code, shape, offsets = (entry[field] for field in _FIELDS)
    if not isinstance(code, str) or code not in DTYPES:
        raise NoSafetensorsError(f"{name!r} is of dtype {code!r}, which safetensors does not have")
    if not _are_counts(shape):
        raise NoSafetensorsError(
            f"{name!r} is of shape {shape!r}, which is no list of whole numbers"
        )
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise NoSafetensorsError(
            f"{name!r} has data_offsets {offsets!r}, which are no begin and end"
        )
    bits = _bits(shape, DTYPES[code])
    if bits is None:
        raise NoSafetensorsError(f"{name!r} is of shape {shape!r}, which no memory holds")
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise NoSafetensorsError(
            f"{name!r} is {offsets[1] - offsets[0]:,} bytes long, and {code} {shape} takes"
            f" {bits / 8:g}"
        )
    return Entry(DTYPES[code], tuple(shape), *offsets)


def _bits(shape: list[int], dtype: Dtype) -> int | None:
    """Return the bits that a tensor takes, or None where counting them, dimension by dimension,
    leaves 64 bits.
    """
    elements = 1
    for size in shape:
        elements *= size
        if elements >= _MOST_NUMBER:
            return None
    return bits if (bits := elements * dtype.bits) < _MOST_NUMBER else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise NoSafetensorsError(
            f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice"
        )
    return table


def _no_number(text: str) -> NoReturn:
    raise NoSafetensorsError(f"its header holds {text}, which is no JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise NoSafetensorsError(f"its header holds the number {text}, which is too large")
    return number


def _integer(text: str) -> float:
    """Return a whole number.

    As safetensors reads it, -0 is none, and neither is what takes more than 64 bits.
    """
    number = int(text[:40])
    return (
        float(text)
        if text == "-0" or len(text) > 20 or not -(_MOST_NUMBER >> 1) <= number < _MOST_NUMBER
        else number
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values
    )


def _is_unicode(text: str) -> bool:
    return (
        not any("\ud800" <= character <= "\udfff" for character in text)
        if not text.isascii()
        else True
    )


def _look_through(name: str, entry: Any) -> None:
    """Raise where what an entry holds beside its fields, which nobody looks at, is too deep or no
    text; without calling itself.
    """
    ahead = [(entry, 0)]
    while ahead:
        value, above = ahead.pop()
        if isinstance(value, str) and not _is_unicode(value):
            raise NoSafetensorsError(f"{name!r} holds half of a surrogate pair, which is no text")
        if isinstance(value, dict | list):
            if above == _MOST_DEPTH:
                raise NoSafetensorsError(f"{name!r} holds lists in lists too deep for safetensors")
            inside = (
                [text for pair in value.items() for text in pair]
                if isinstance(value, dict)
                else value
            )
            ahead += [(inner, above + 1) for inner in inside]
