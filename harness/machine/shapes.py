"""Shapes of storage: what a kind of storage answers with, in numbers.

A shape is one of two kinds. A latency shape is a file system in a process of its own that answers
each request after a delay (FUSE). A throttled shape is the block device as it is, its rate and its
requests a second limited by a control group. They answer differently: by latency, mapping and
reading wait alike; by requests a second, mapping waits longer, since a fault asks for no more than
the readahead and a `read` for as much as the device takes at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.errors import WeighbridgeError
from harness.scenarios import AS_IS

FSTYPE = "weighbridge"
"""The file system's type in the mount table, behind `fuse.`."""
LARGEST_REQUEST = 1 << 20
"""Most bytes of one request to a latency shape: what FUSE allows."""
_UNLIMITED = 1e12
_SIZES = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
EXAMPLE = "latency=2ms,rate=500MB/s,depth=16,readahead=128KiB"


@dataclass(frozen=True)
class Shape:
    """A kind of storage: times in s, rate in bytes per s."""

    name: str
    latency_s: float = 0.0
    """From a request's arrival to its answer, at least."""
    seek_s: float = 0.0
    """What a request costs on top that does not go on where the last one ended."""
    rate: float = _UNLIMITED
    requests_per_s: int | None = None
    """Most requests a second; a shape that has it is throttled, not delayed."""
    depth: int = 16
    """How many requests are answered at once."""
    read_ahead_kb: int | None = None
    """The readahead in KiB, None for the kernel's own."""
    keeps_pages: bool = True
    """Whether the pages of a file outlive its being opened again, as `kernel_cache` has it."""

    @property
    def kind(self) -> Literal["delayed", "throttled"]:
        """How the shape is made."""
        return "throttled" if self.requests_per_s is not None else "delayed"

    @property
    def limits_rate(self) -> bool:
        """Whether it has a rate at all."""
        return self.rate < _UNLIMITED

    def likely_s(self, size: int, read_ahead_kb: int | None) -> float:
        """Return roughly how many s a cold load of `size` bytes takes, two requests being under
        way at a time.
        """
        ahead = read_ahead_kb if read_ahead_kb is not None else self.read_ahead_kb
        request = min(max((128 if ahead is None else ahead) << 10, 4096), LARGEST_REQUEST)
        requests = size / request
        waits = requests * self.latency_s / min(self.depth, 2)
        return max(waits, size / self.rate, requests / (self.requests_per_s or requests))

    @property
    def words(self) -> str:
        """The shape's numbers in a line."""
        parts = [
            f"{1e3 * self.latency_s:g} ms a request" if self.latency_s else "",
            f"{1e3 * self.seek_s:g} ms a seek" if self.seek_s else "",
            f"{self.rate / 1e6:,.0f} MB/s" if self.limits_rate else "",
            f"{self.requests_per_s:,} requests a second" if self.requests_per_s else "",
            "" if self.kind == "throttled" else f"{self.depth} at once",
            f"readahead {self.read_ahead_kb} KiB" if self.read_ahead_kb is not None else "",
        ]
        return ", ".join(filter(None, parts))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("cloud-volume", rate=125e6, requests_per_s=3000),
        Shape("network-disk", latency_s=1e-3, rate=1e9, depth=16),
        Shape("object-store", latency_s=20e-3, rate=500e6, depth=64),
        Shape("hard-disk", seek_s=8e-3, rate=150e6, depth=1),
    )
}
"""The shapes that have a name."""


def shapes_of(text: str) -> tuple[Shape | None, ...]:
    """Return the shapes that a `--storage` option names, None standing for storage as it is.

    Items are separated by commas; those of the form `key=value` that follow one another describe
    one shape of one's own, up to a key that it has already or that the other kind of shape has.
    Raises `WeighbridgeError` for what names none.
    """
    shapes: list[Shape | None] = []
    own: dict[str, str] = {}
    for item in [part.strip() for part in text.split(",")] + [""]:
        key, equals, value = item.partition("=")
        if equals and key not in own and not _excludes(key, own):
            own[key] = value
            continue
        if own:
            shapes.append(_own(own))
            own = {key: value} if equals else {}
        if not item or equals:
            continue
        if ":" in item:  # a shape of one's own by the name that a run records
            shapes.append(shape_named(item))
            continue
        if item != AS_IS and item not in SHAPES:
            raise WeighbridgeError(
                f"--storage {item}: no such storage; there are {AS_IS}, {', '.join(SHAPES)}, or"
                f" your own as {EXAMPLE}"
            )
        shapes.append(SHAPES.get(item))
    if own:
        shapes.append(_own(own))
    if not shapes:
        raise WeighbridgeError(f"--storage: names nothing; name {AS_IS} or {', '.join(SHAPES)}")
    return tuple(dict.fromkeys(shapes))


def storage_names(text: str | None) -> tuple[str, ...]:
    """Return the names of the storages that a `--storage` option names, storage as it is for no
    option; raises as `shapes_of` does.
    """
    shapes = shapes_of(text) if text is not None else (None,)
    return tuple(shape.name if shape else AS_IS for shape in shapes)


def _excludes(key: str, parts: Iterable[str]) -> bool:
    """Return whether a key is of the other kind of shape than some of `parts`."""
    delayed = {"latency", "seek", "depth"}
    if key == "requests":
        return bool(delayed & set(parts))
    return key in delayed and "requests" in parts


def shape_named(name: str) -> Shape:
    """Return the shape that a cell's `storage` names; raises `WeighbridgeError` for none."""
    if name in SHAPES:
        return SHAPES[name]
    return _own(dict(part.split(":", 1) for part in name.split("+") if ":" in part))


def _own(parts: dict[str, str]) -> Shape:
    """Return the shape that `key=value` parts describe, named after them."""
    known = {
        "latency": ("latency_s", _time),
        "seek": ("seek_s", _time),
        "rate": ("rate", _rate),
        "requests": ("requests_per_s", _count),
        "depth": ("depth", _count),
        "readahead": ("read_ahead_kb", _kib),
    }
    values: dict[str, float | int] = {}
    for key, text in parts.items():
        if key not in known:
            raise WeighbridgeError(
                f"--storage {key}={text}: unknown part; there are {', '.join(known)}, as in"
                f" {EXAMPLE}"
            )
        field, read = known[key]
        values[field] = read(key, text)
    name = "+".join(f"{key}:{parts[key].replace('/s', 'ps')}" for key in known if key in parts)
    return Shape(name, **values)  # type: ignore[arg-type]


def _number(key: str, text: str, units: dict[str, float], example: str) -> float:
    matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)", text)
    if not matched or matched[2] not in units or not float(matched[1]):
        raise WeighbridgeError(
            f"--storage {key}={text}: not a number above 0 with a unit of {', '.join(units)};"
            f" as in {key}={example}"
        )
    return float(matched[1]) * units[matched[2]]


def _time(key: str, text: str) -> float:
    return _number(key, text, _TIMES, "2ms")


def _rate(key: str, text: str) -> float:
    bare = text.removesuffix("/s").removesuffix("ps")
    return _number(key, bare, dict(_SIZES), "500MB/s")


def _kib(key: str, text: str) -> int:
    if text in ("0", "0KiB"):
        return 0
    return int(_number(key, text, dict(_SIZES), "128KiB")) >> 10


def _count(key: str, text: str) -> int:
    if not re.fullmatch("[1-9][0-9]*", text):
        raise WeighbridgeError(f"--storage {key}={text}: not a whole number above 0")
    return int(text)
