"""Small files that make a loader use much memory, time, disk or processes. A limit or a refusal
ends each of them, and none writes anything outside its folder.
"""

from __future__ import annotations

import struct
from typing import Any

from harness.hostile import Family
from harness.hostile.archives import (
    FLOATS,
    Member,
    deflated_run,
    tensor,
    torch_members,
    torch_zip,
    zipped,
)
from harness.hostile.callables import SOURCE
from harness.hostile.opcodes import PROTO_2, PROTO_4, STOP, Global, pickled, push
from harness.records.trials import Harm

memory = Family("memory-bombs", "pickle", Harm.MEMORY)
time = Family("time-bombs", "pickle", Harm.TIME)
lengths = Family("huge-lengths", "pickle", Harm.MEMORY)
zip_bombs = Family("zip-bombs", "torch-zip", Harm.MEMORY)
resources = Family("greedy-payloads", "pickle", Harm.CODE)

_RUN = 1 + 258 * 8_000_000
"""Two billion bytes: more than any limit, and a number that `deflated_run` can make."""


def _in_zip(value: Any) -> bytes:
    """Return a torch file whose value holds a tensor, so that it looks like one, and a bomb."""
    return torch_zip({"a": tensor(), "b": value})


@memory.hostile_file("bytearray.bin", format_name="torch-zip")
def _bytearray(_: object) -> bytes:
    """A torch file calls bytearray, which weights_only allows, for a million gigabytes."""
    return _in_zip(Global("builtins", "bytearray")(1 << 50))


@memory.hostile_file("bytearrays.bin", format_name="torch-zip")
def _bytearrays(_: object) -> bytes:
    """Three hundred bytearrays of 16 MiB: each fits into memory, and all together do not."""
    return _in_zip([Global("builtins", "bytearray")(16 << 20) for _ in range(300)])


@memory.hostile_file("doubling-text.pkl")
def _doubling(_: object) -> bytes:
    """The pickle doubles a text forty times with str.join."""
    joined = Global("builtins", "str.join")
    text: Any = "xxxxxxxxxxxxxxxx"
    opcodes = push(text) + b"\x94"
    for level in range(40):
        opcodes += (
            push(joined)
            + push("")
            + b"h"
            + bytes([level])
            + b"h"
            + bytes([level])
            + b"\x86\x86R\x94"
        )
    return PROTO_4 + opcodes + STOP


@memory.hostile_file("range-list.pkl")
def _range_list(_: object) -> bytes:
    """The pickle makes a list of ten billion numbers from a range."""
    return pickled(Global("builtins", "list")(Global("builtins", "range")(10_000_000_000)))


@memory.hostile_file("expanded.bin", format_name="torch-zip")
def _expanded(_: object) -> bytes:
    """A tensor claims 10^13 floats in the memory of one float, with a stride of zero."""
    return torch_zip(
        {"a": tensor(numel=1, shape=(10_000_000, 1_000_000), stride=(0, 0))}, {"0": FLOATS[:4]}
    )


@memory.hostile_file("storage-numel.bin", format_name="torch-zip")
def _numel(_: object) -> bytes:
    """A tensor's memory claims to hold 4 * 10^12 floats and holds six."""
    return torch_zip({"a": tensor(numel=1 << 42, shape=(1 << 42,), stride=(1,))})


@memory.hostile_file("deep-lists.bin", format_name="torch-zip")
def _deep(_: object) -> bytes:
    """Thirty thousand nested lists: freeing them is recursive and can overflow the stack."""
    return torch_zip(PROTO_2 + b"]" * 30_000 + b"a" * 29_999 + STOP)


@time.hostile_file("hash-tower.bin", format_name="torch-zip")
def _hash_tower(_: object) -> bytes:
    """A dictionary key of forty nested tuples: its hash takes 10^12 steps, without any import."""
    storeys = b"".join(b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(40))
    return torch_zip(PROTO_2 + push(0) + b"q\x00" + storeys + b"}h\x28" + push(1) + b"s" + STOP)


@time.hostile_file("sleep.pkl")
def _sleep(_: object) -> bytes:
    """The payload sleeps for an hour."""
    return pickled(Global("time", "sleep")(3600))


@time.hostile_file("fifo.pkl")
def _fifo(_: object) -> bytes:
    """The payload opens a pipe that nobody writes to, so it waits forever."""
    return pickled((Global("os", "mkfifo")("pipe"), Global("builtins", "open")("pipe")))


lengths.table(
    "{}.pkl",
    (
        (
            "long-text",
            "an integer is written as a million digits, which are slow to parse",
            b"L" + b"9" * 1_000_000 + b"L\n",
        ),
        (
            "frame",
            "FRAME claims 4 * 10^12 bytes, so an unpickler may allocate them",
            b"\x95" + struct.pack("<Q", 1 << 42) + b"N",
        ),
        (
            "unicode-eight",
            "BINUNICODE8 claims a text of 4 * 10^12 bytes, so an unpickler may allocate them",
            b"\x8d" + struct.pack("<Q", 1 << 42) + b"abc",
        ),
        (
            "memo-index",
            (
                "LONG_BINPUT uses memo index 4 * 10^9, so an unpickler may allocate a table of"
                " that size"
            ),
            b"Nr" + struct.pack("<I", 0xFFFFFFFE),
        ),
        ("marks", "a hundred thousand marks stay on the stack", b"(" * 100_000 + b"N"),
    ),
    lambda opcodes: PROTO_4 + opcodes + STOP,
)


@zip_bombs.hostile_file("pickle-of-nones.bin")
def _nones(_: object) -> bytes:
    """data.pkl holds two billion None opcodes and is compressed to 13 MB."""
    members = [
        Member("archive/data.pkl", b"", 8, deflated_run(0x4E, _RUN), size=_RUN),
        *torch_members(b"")[1:],
    ]
    return zipped(members)


@zip_bombs.hostile_file("zeros.bin")
def _zeros(_: object) -> bytes:
    """A tensor of two billion zeros is compressed to 13 MB; its stated size is true."""
    zeros = Member("archive/data/0", b"", 8, deflated_run(0, _RUN), size=_RUN, crc=0)
    value = pickled({"a": tensor(numel=_RUN, shape=(_RUN,), stride=(1,), kind="ByteStorage")})
    return zipped([Member("archive/data.pkl", value), zeros, *torch_members(b"")[2:]])


@zip_bombs.hostile_file("zeros.npz", format_name="npz")
def _zeros_npz(_: object) -> bytes:
    """An array's member holds two billion zeros, compressed to 13 MB, and has no array header."""
    return zipped([Member("arr_0.npy", b"", 8, deflated_run(0, _RUN), size=_RUN)])


@zip_bombs.hostile_file("overlapping.bin")
def _overlapping(_: object) -> bytes:
    """A hundred members of the zip directory are the same million bytes of the file."""
    body = Member("archive/data/x", b"", 8, deflated_run(0, 1 + 258 * 4000), size=1 + 258 * 4000)
    once = zipped([*torch_members(pickled({"a": tensor()})), body])
    start = once.rindex(b"PK\x05\x06")
    directory = once[once.index(b"PK\x01\x02") : start]
    entry = directory[directory.rindex(b"PK\x01\x02") :]
    count, size = 5 + 99, len(directory) + 99 * len(entry)
    end = struct.pack("<HHHHIIH", 0, 0, count, count, size, once.index(b"PK\x01\x02"), 0)
    return once[:start] + entry * 99 + b"PK\x05\x06" + end


def _runs(source: str) -> bytes:
    return pickled(Global("builtins", "exec")(f"{SOURCE}\n{source}"))


@resources.hostile_file("processes.pkl")
def _processes(_: object) -> bytes:
    """The payload forks seven times in every process, and all 128 processes wait."""
    return _runs("import os, time\nfor _ in range(7): os.fork()\ntime.sleep(3600)")


@resources.hostile_file("left-behind.pkl")
def _left_behind(_: object) -> bytes:
    """The payload starts a process in its own session, which outlives the load."""
    return _runs(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    time.sleep(3600)"
    )


@resources.hostile_file("disk.pkl")
def _disk(_: object) -> bytes:
    """The payload writes a file of four gigabytes."""
    return _runs(
        "with open('large', 'wb') as file:\n    for _ in range(4096): file.write(bytes(1 << 20))"
    )


@resources.hostile_file("elsewhere.pkl")
def _elsewhere(_: object) -> bytes:
    """The payload writes, renames and truncates files above its folder and in the temp folder."""
    tries = (
        "open('../outside', 'w')",
        "open('/tmp/weighbridge-outside', 'w')",
        "__import__('os').rename('case', '../case')",
    )
    return _runs("\n".join(f"try: {name}\nexcept OSError: pass" for name in tries))


@resources.hostile_file("parent.pkl")
def _parent(_: object) -> bytes:
    """The payload sends its parent process a signal that stops it."""
    return _runs(
        "import os, signal\ntry: os.kill(os.getppid(), signal.SIGSTOP)\nexcept OSError: pass"
    )


@resources.hostile_file("false-answer.pkl")
def _false_answer(_: object) -> bytes:
    """The payload writes a false report of a successful load to every open file."""
    line = r"b'{\"ended\": \"loaded\"}\n'"
    return _runs(
        f"import os\nfor fd in range(3, 64):\n    try: os.write(fd, {line})\n    except OSError:"
        " pass\nos._exit(0)"
    )
