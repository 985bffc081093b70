"""What a person's torch file holds: the tensors by name, wherever a training script put them.

Needs the standard library and torch alone, since `convert_file` also runs inside an environment
under test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import WeighbridgeError

PLACES = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "params",
    "params_ema",
    "ema",
    "ema_state_dict",
    "net",
)
"""Where training scripts put a state dict: Lightning, torch's own tutorial, DETR and fairseq,
DeepSpeed, BasicSR, diffusion models.
"""

_DEEPEST = 3


@dataclass(frozen=True)
class StateDict:
    """Tensors by name, where in the file they lay (None: nowhere but at its top), and what was left
    out, each with what it is.
    """

    tensors: dict[str, torch.Tensor]
    place: str | None = None
    left_out: tuple[str, ...] = ()

    @property
    def note(self) -> str | None:
        """What a person should know of it in a line: where the tensors lay, and what is no part of
        them.
        """
        phrases = [f"its tensors lie under {self.place!r}"] if self.place else []
        phrases += [f"left out: {', '.join(self.left_out)}"] if self.left_out else []
        return "; ".join(phrases) or None


def state_dict_of(loaded: Any, key: str | None = None) -> StateDict:
    """Return the state dict in what `torch.load` gave: at its top, under one of `PLACES`, or under
    `key` (levels joined by dots).

    Raises `WeighbridgeError`, without the file's name, where there is none, or several and no
    `key`.
    """
    if not isinstance(loaded, Mapping):
        raise WeighbridgeError(f"holds {_what(loaded)}; a checkpoint maps names to tensors")
    if key is not None:
        table, around = (
            _under(loaded, key),
            _others(loaded, key.split(".")[0] if key not in loaded else key),
        )
        return _state_dict(table, key, around)
    if any(isinstance(value, torch.Tensor) for value in loaded.values()):
        return _state_dict(loaded, None, [])
    places = list(_places(loaded, _DEEPEST))
    if not places:
        inside = (
            ", ".join(f"{name!r} ({_what(value)})" for name, value in list(loaded.items())[:5])
            or "nothing"
        )
        raise WeighbridgeError(
            f"holds no tensors, at its top or under {', '.join(PLACES)}; there is {inside}"
        )
    if len(places) > 1:
        choices = ", ".join(f"{place} ({_count(table)} tensors)" for place, table in places)
        raise WeighbridgeError(f"holds several sets of tensors: {choices}; say which one by --key")
    ((place, table),) = places
    return _state_dict(table, place, _others(loaded, place.split(".")[0]))


def _places(table: Mapping[Any, Any], deepest: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for name in PLACES:
        inner = table.get(name)
        if not isinstance(inner, Mapping):
            continue
        if any(isinstance(value, torch.Tensor) for value in inner.values()):
            yield name, inner
        elif deepest > 1:
            yield from ((f"{name}.{place}", value) for place, value in _places(inner, deepest - 1))


def _under(loaded: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    table: Any = loaded
    for name in [key] if key in loaded else key.split("."):
        if not isinstance(table, Mapping) or name not in table:
            there = (
                ", ".join(str(name) for name, value in table.items() if isinstance(value, Mapping))
                if isinstance(table, Mapping)
                else ""
            )
            raise WeighbridgeError(
                f"has no {name!r} for --key {key}; there are: {there or 'no tables'}"
            )
        table = table[name]
    if not isinstance(table, Mapping):
        raise WeighbridgeError(
            f"holds {_what(table)} under --key {key}; a checkpoint maps names to tensors"
        )
    return table


def _state_dict(table: Mapping[Any, Any], place: str | None, beside: list[str]) -> StateDict:
    tensors = {name: value for name, value in table.items() if isinstance(value, torch.Tensor)}
    for name in tensors:
        if not isinstance(name, str):
            raise WeighbridgeError(
                f"names a tensor by {_what(name)} ({name!r}), and a name is text; rename its"
                " tensors and save them again"
            )
    if not tensors:
        raise WeighbridgeError(
            f"holds no tensors{f' under {place}' if place else ''}; there is nothing to read"
        )
    inside = [
        f"{place + '.' if place else ''}{name} ({_what(value)})"
        for name, value in table.items()
        if name not in tensors
    ]
    return StateDict(tensors, place, tuple(inside + beside))


def _others(loaded: Mapping[Any, Any], text: str) -> list[str]:
    return [f"{name} ({_what(value)})" for name, value in loaded.items() if name != text]


def _count(table: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, torch.Tensor) for value in table.values())


def _what(value: Any) -> str:
    """Return what a value is in a word or two."""
    if value is None:
        return "nothing"
    if isinstance(value, torch.Tensor):
        return "a tensor"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", bytes: "bytes"}
    if isinstance(value, Mapping):
        return f"a table of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return names.get(type(value), type(value).__name__)
