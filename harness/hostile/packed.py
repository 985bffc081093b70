"""The same plain payload inside file formats: archives, torch's two formats, NumPy's, compressed
files, and files with another format's name.
"""

from __future__ import annotations

import bz2
import io
import struct
import tarfile
import zlib
from typing import Any

from harness.hostile import Family
from harness.hostile.archives import (
    Member,
    deflated,
    legacy_tensor,
    tensor,
    torch_legacy,
    torch_members,
    torch_zip,
    zipped,
)
from harness.hostile.disguises import PAYLOAD
from harness.hostile.opcodes import pickled
from harness.records.trials import Harm

formats = Family("formats", "torch-zip", Harm.CODE)
members = Family("other-members", "torch-zip", Harm.CODE)
compressed = Family("compressed", "none", Harm.CODE)
renamed = Family("renamed", "pickle", Harm.CODE)
archives = Family("archives", "torch-zip", Harm.LIE)

CLEAN, HOSTILE = pickled({"a": tensor()}), pickled({"a": tensor(), "b": PAYLOAD})


@formats.hostile_file("zip-data.bin", plain=True)
def _zip(_: object) -> bytes:
    """The data.pkl of a torch file holds a tensor and the payload."""
    return torch_zip(HOSTILE)


@formats.hostile_file("zip-tensor-hook.bin")
def _hook(_: object) -> bytes:
    """The payload is stored as the backward hooks of a tensor."""
    memory = tensor()
    return torch_zip({"a": memory.callable(*memory.arguments[:-1], PAYLOAD)})


@formats.hostile_file("torchscript.bin")
def _torchscript(_: object) -> bytes:
    """The file looks like TorchScript: constants.pkl lies beside data.pkl with the payload."""
    return zipped(
        [
            *torch_members(HOSTILE),
            Member("archive/constants.pkl", pickled(())),
            Member("archive/code/__torch__.py", b""),
        ]
    )


@formats.hostile_file("numpy-objects.npy", format_name="npy")
def _npy(_: object) -> bytes:
    """A NumPy array of objects is stored as a pickle with the payload."""
    return npy("|O", (1,), pickled([PAYLOAD]))


@formats.hostile_file("numpy-objects.npz", format_name="npz")
def _npz(_: object) -> bytes:
    """An archive of NumPy arrays holds one array of objects, a pickle with the payload."""
    return zipped([Member("arr_0.npy", npy("|O", (1,), pickled([PAYLOAD])))])


@formats.hostile_file("tar.pt", format_name="torch-legacy")
def _tar(_: object) -> bytes:
    """A tar archive of torch before 0.1.10 has the payload in its pickle."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (
            ("storages", pickled(0)),
            ("tensors", pickled(0)),
            ("pickle", pickled(PAYLOAD)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def _legacy(place: str) -> bytes:
    state_dict: Any = {"a": legacy_tensor(), "b": PAYLOAD} if place == "value" else PAYLOAD
    given: dict[str, Any] = {"value": {"a": legacy_tensor()}} | {place: pickled(state_dict)}
    return torch_legacy(**given)


formats.table(
    "legacy-{}.bin",
    [
        (
            place,
            f"a legacy torch file (before zip) has the payload in its pickle of the {place}",
            place,
        )
        for place in ("magic", "system")
    ],
    _legacy,
    format_name="torch-legacy",
)


@formats.hostile_file("legacy-value.bin", format_name="torch-legacy", plain=True)
def _legacy_value(_: object) -> bytes:
    """A legacy torch file (before zip) has the payload in its pickle of the value."""
    return _legacy("value")


members.table(
    "{}.bin",
    (
        (
            "other-pickle",
            "a second pickle beside a clean data.pkl holds the payload",
            [*torch_members(CLEAN), Member("archive/other.pkl", HOSTILE)],
        ),
        (
            "twice-last",
            "the archive has two data.pkl, and the second has the payload",
            [*torch_members(CLEAN), Member("archive/data.pkl", HOSTILE)],
        ),
        (
            "twice-first",
            "the archive has two data.pkl, and the first has the payload",
            [Member("archive/data.pkl", HOSTILE), *torch_members(CLEAN)],
        ),
        (
            "local-name",
            "the local zip header of data.pkl names it data.txt",
            [
                Member("archive/data.pkl", HOSTILE, local_name="archive/data.txt"),
                *torch_members(CLEAN)[1:],
            ],
        ),
        (
            "record",
            "the bytes of a tensor are a pickle with the payload",
            torch_members(CLEAN, {"0": HOSTILE}),
        ),
    ),
    zipped,
)


@compressed.hostile_file("deflated.bin", format_name="torch-zip")
def _deflated(_: object) -> bytes:
    """The data.pkl with the payload is compressed in its archive."""
    return zipped(
        [Member("archive/data.pkl", HOSTILE, 8, deflated(HOSTILE)), *torch_members(CLEAN)[1:]]
    )


@compressed.hostile_file("gzip.pkl.gz")
def _gzip(_: object) -> bytes:
    """A pickle with the payload is compressed by gzip."""
    content = pickled(PAYLOAD)
    return (
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
        + deflated(content)
        + struct.pack("<II", zlib.crc32(content), len(content))
    )


@compressed.hostile_file("bzip2.pkl.bz2")
def _bzip2(_: object) -> bytes:
    """A pickle with the payload is compressed by bzip2."""
    return bz2.compress(pickled(PAYLOAD))


renamed.table(
    "pickle.{}",
    (
        ("safetensors", "a pickle with the payload is named as safetensors"),
        ("bin", "a pickle with the payload is named as a torch file"),
    ),
    lambda: pickled(PAYLOAD),
)
renamed.table(
    "zip.{}",
    (
        ("safetensors", "a torch file with the payload is named as safetensors"),
        ("pkl", "a torch file with the payload is named as a pickle"),
    ),
    lambda: torch_zip(HOSTILE),
    format_name="torch-zip",
)


@renamed.hostile_file("legacy.safetensors", format_name="torch-legacy")
def _legacy_renamed(_: object) -> bytes:
    """A legacy torch file (before zip) with the payload is named as safetensors."""
    return torch_legacy({"a": legacy_tensor(), "b": PAYLOAD})


@renamed.hostile_file("two-in-one.safetensors", format_name="safetensors")
def _two_in_one(_: object) -> bytes:
    """Valid safetensors hold a torch file with the payload; each reader sees its own format."""
    size = len(torch_zip(HOSTILE))
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    return zipped(torch_members(HOSTILE), before=struct.pack("<Q", len(header)) + header)


archives.table(
    "{}.bin",
    (
        (
            "climbs",
            "a member's path leaves the archive's folder, so extracting it writes elsewhere",
            [*torch_members(CLEAN), Member("../../climbed.pkl", HOSTILE)],
            Harm.LIE,
        ),
        (
            "data-climbs",
            "the path of data.pkl leaves the archive's folder",
            [Member("../data.pkl", HOSTILE), *torch_members(CLEAN)[1:]],
            Harm.LIE,
        ),
        (
            "size-lies",
            "data.pkl claims 4 GB and holds a hundred bytes",
            [
                Member("archive/data.pkl", CLEAN, 8, deflated(CLEAN), size=0xFFFFFFFE),
                *torch_members(CLEAN)[1:],
            ],
            Harm.LIE,
        ),
    ),
    zipped,
    harms=True,
)


@archives.hostile_file("directory-cut.bin", harm=Harm.BROKEN)
def _directory_cut(_: object) -> bytes:
    """A torch file ends in the middle of its zip directory."""
    return torch_zip(CLEAN)[:-60]


@archives.hostile_file("comment-is-an-archive.bin", harm=Harm.LIE)
def _comment(_: object) -> bytes:
    """A clean archive's comment is the end of another one, so a reader may find either."""
    other = zipped([Member("archive/data.pkl", HOSTILE), *torch_members(CLEAN)[1:]])
    return zipped(torch_members(CLEAN), comment=other)


def npy(kind: str, shape: object, content: bytes, *, header: str | None = None) -> bytes:
    """Return a NumPy array's file, whatever it says of itself."""
    text = (
        header
        if header is not None
        else f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    )
    padded = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded) & 0xFFFF) + padded + content
