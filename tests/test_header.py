"""The reader of safetensors headers, held against the library's own.

And every dtype in every format.
"""

from __future__ import annotations

import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.checkpoints.checksum import checksums
from harness.checkpoints.digest import tensor_digests
from harness.checkpoints.layout import ITEM_BYTES
from harness.checkpoints.mapped_files import open_mapped
from harness.checkpoints.safetensors_file import (
    BY_TORCH,
    DTYPES,
    NoSafetensorsError,
    parse,
    read_header,
)
from harness.checkpoints.sources import person_source
from harness.checkpoints.store import Store
from harness.cli import main
from harness.loaders import all_formats

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = struct.pack("<2f", 1, 2)
HEADER = {
    "__metadata__": {"format": "pt", "note": "a\u00e9"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "U8", "shape": [], "data_offsets": [16, 17]},
    "c": {"dtype": "F4", "shape": [3, 4], "data_offsets": [17, 23]},
    "none": {"dtype": "I64", "shape": [0, 7], "data_offsets": [23, 23]},
}
VALUES: tuple[Any, ...] = (
    0,
    1,
    -1,
    2,
    8,
    16,
    17,
    1 << 63,
    1 << 64,
    1.0,
    2.5,
    True,
    None,
    "",
    "0",
    "F32",
    "F6_E2M3",
    "F8_E8M0",
    [],
    [2],
    {},
    {"a": "b"},
    ["F32"],
)
TEXTS = (
    "NaN",
    "Infinity",
    "-0",
    "1e999",
    "1e2",
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    "\x00",
    "\ufeff",
    "//",
    "01",
    "1.",
    "'",
    "\t",
    "[" * 200 + "]" * 200,
)
STRICTER = ("stands in it twice", "is no table of dtype", "is of dtype {")
"""Where this reader refuses what the library takes, by words of the reason."""


def _file(path: Path, header: bytes | dict[str, Any], data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _mutated(chance: random.Random) -> bytes:
    """Return a header with one to three faults: a value put in place of another, a field removed, a
    text put into the text, a byte changed.
    """

    header = json.loads(json.dumps(HEADER))
    for _ in range(chance.choice((0, 1, 1, 2))):
        table = header[chance.choice(list(header))] if chance.random() < 0.8 else header
        if isinstance(table, dict) and table:
            field = chance.choice([*table, "more"])
            if isinstance(table.get(field), list) and table[field] and chance.random() < 0.6:
                table[field][chance.randrange(len(table[field]))] = chance.choice(VALUES)
            elif chance.random() < 0.2:
                table.pop(field, None)
            else:
                table[field] = chance.choice(VALUES)
    text = json.dumps(header)
    if chance.random() < 0.4:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(TEXTS) + text[at + chance.choice((0, 1)) :]
    content = bytearray(
        text.encode(errors="surrogatepass") + chance.choice((b"", b"", b" ", b"\n\t ", b"\0", b"x"))
    )
    if chance.random() < 0.3:
        content[chance.randrange(len(content))] = chance.choice(
            b'\xff\x00 {}[]",:-+.0123456789eE\\aFtrn'
        )
    return bytes(content)


def test_no_header_is_taken_that_the_library_refuses(
    tmp_path: Path,
) -> None:
    chance, taken, refused = random.Random(0), 0, 0
    for number in range(3000):
        path = _file(
            tmp_path / "x.safetensors",
            _mutated(chance) if number else json.dumps(HEADER).encode(),
            bytes(range(23)),
        )
        try:
            with safe_open(path, framework="pt") as file:
                library = sorted(file.keys())
        except Exception:
            library = None
        try:
            mine, words = sorted(read_header(path).tensors), ""
        except NoSafetensorsError as error:
            mine, words = None, str(error)
        assert mine == library or (mine is None and any(reason in words for reason in STRICTER)), (
            path.read_bytes(),
            library,
            words,
        )
        assert "\n" not in words
        taken, refused = taken + (mine is not None), refused + (mine is None)
    assert taken >= 300 and refused >= 1000, "both happen"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"w":%b,"w":%b}' % ((json.dumps(ENTRY).encode(),) * 2), "'w' stands in it twice"),
        ({"w": ENTRY, "__metadata__": {"epoch": 0}}, "its __metadata__ is no table of texts"),
        ({"w": ENTRY, "__metadata__": {"tags": ["a"]}}, "its __metadata__ is no table of texts"),
        ({"w": ENTRY, "__metadata__": ["pt"]}, "its __metadata__ is no table of texts"),
        ({"w": ENTRY, "__metadata__": "pt"}, "its __metadata__ is no table of texts"),
        ({"w": {"shape": [2], "data_offsets": [0, 8]}}, "'w' has no dtype"),
        ({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, "'w' has no shape"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "'w' has no data_offsets"),
        ({"w": ENTRY | {"shape": [-2]}}, "of shape [-2]"),
        ({"w": ENTRY | {"shape": [2.0]}}, "of shape [2.0]"),
        ({"w": ENTRY | {"shape": [1 << 40, 1 << 40]}}, "which no memory holds"),
        ({"w": ENTRY | {"shape": "2"}}, "of shape '2'"),
        ({"w": ENTRY | {"dtype": ["F32"]}}, "of dtype ['F32']"),
        ({"w": ENTRY | {"dtype": "F99"}}, "of dtype 'F99'"),
        ({"w": ENTRY | {"data_offsets": [0.0, 8]}}, "data_offsets [0.0, 8]"),
        ({"w": ENTRY | {"data_offsets": ["0", "8"]}}, "data_offsets ['0', '8']"),
        ({"w": ENTRY | {"data_offsets": [8, 0]}}, "data_offsets [8, 0]"),
        (
            {"w": ENTRY, "v": {"dtype": "F32", "shape": [0], "data_offsets": ["8", "8"]}},
            "data_offsets ['8', '8']",
        ),
        ({"w": ENTRY | {"shape": [3]}}, "'w' is 8 bytes long, and F32 [3] takes 12"),
        ({"w": ENTRY, "v": ENTRY}, "'v' begins at byte 0 of the data, where 8 is reached"),
        ({}, "8 belong to no tensor"),
        ({"w": ENTRY | {"shape": [4], "data_offsets": [0, 16]}}, "8 are missing"),
        (b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":NaN}}', "its header holds NaN"),
        (json.dumps({"w": ENTRY}).encode("utf-16"), "its header is no UTF-8"),
        (b"[]", "its header is no JSON table"),
        (b"{", "its header is no JSON"),
    ],
)
def test_verify_answers_a_file_that_no_loader_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: bytes | dict[str, Any], words: str
) -> None:
    torch.save({"w": torch.tensor([1.0, 2.0])}, tmp_path / "pytorch_model.bin")
    path = _file(tmp_path / "x.safetensors", header, DATA)
    assert main(["verify", str(tmp_path / "pytorch_model.bin"), str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and words in line
    assert main(["scan", str(path)]) == 2
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"format": "pt", "modelspec.trigger": "w"}, {"ss_network_module": "networks.lora"}],
)
def test_metadata_that_the_library_takes_is_no_difference(tmp_path: Path, metadata: Any) -> None:
    torch.save({"w": torch.tensor([1.0, 2.0])}, tmp_path / "pytorch_model.bin")
    path = _file(tmp_path / "x.safetensors", {"w": ENTRY, "__metadata__": metadata}, DATA)
    assert main(["verify", str(tmp_path / "pytorch_model.bin"), str(path)]) == 0


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (0, "it has 0 bytes"),
        (7, "it has 7 bytes"),
        (20, "are missing"),
        (-1, ": 1 are missing"),
        (-5, ": 5 are missing"),
    ],
)
def test_a_file_cut_short_is_told_with_the_bytes_that_it_lacks(
    tmp_path: Path, kept: int, words: str
) -> None:
    save_file({"w": torch.ones(100)}, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()[:kept]
    with pytest.raises(NoSafetensorsError, match=words):
        parse(io.BytesIO(content), len(content))


def test_the_list_of_dtypes_is_the_librarys(tmp_path: Path) -> None:
    """The library names all that it knows where it meets one that it does not."""
    with (
        pytest.raises(Exception, match="unknown variant") as refused,
        safe_open(_file(tmp_path / "x.safetensors", {"w": ENTRY | {"dtype": "?"}}, DATA), "pt"),
    ):
        pass
    assert set(str(refused.value).split("expected one of ")[1].split("`")[1::2]) == set(DTYPES)
    for name, dtype in BY_TORCH.items():
        assert getattr(torch, name).itemsize * 8 == dtype.bits * dtype.packed


def _filled(name: str) -> torch.Tensor:
    dtype = getattr(torch, name)
    chance = torch.Generator().manual_seed(0)
    octets = torch.randint(
        0,
        2 if name == "bool" else 120,
        (4, 6 * dtype.itemsize),
        dtype=torch.uint8,
        generator=chance,
    )
    return octets.view(dtype)


@pytest.mark.parametrize("name", BY_TORCH)
def test_a_tensor_of_every_dtype_is_read_as_the_library_reads_it(tmp_path: Path, name: str) -> None:
    tensors = {"w": _filled(name), "none": torch.empty(0, 4, dtype=getattr(torch, name))}
    save_file(tensors, tmp_path / "x.safetensors")
    opened = open_mapped(tmp_path / "x.safetensors").tensors
    assert (
        tensor_digests(opened)
        == tensor_digests(load_file(tmp_path / "x.safetensors"))
        == tensor_digests(tensors)
    )
    assert checksums(opened) == checksums(tensors)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("name", ITEM_BYTES)
def test_a_format_holds_a_dtype_whole_or_is_left_out_by_name(tmp_path: Path, name: str) -> None:
    torch.save(
        {"w": _filled(name), "norm": torch.ones(16, dtype=torch.bfloat16)}, tmp_path / "own.bin"
    )
    formats = [
        form.name for form in all_formats().values() if not form.beside and not form.requires
    ]
    made = Store(tmp_path / "store", formats=all_formats()).checkpoint(
        person_source(tmp_path / "own.bin", "own"), formats
    )
    assert sorted([*made.artifacts, *made.refused]) == sorted(formats)
    assert all(name in reason for reason in made.refused.values())
    assert ("safetensors" in made.artifacts) == (name in BY_TORCH)


@pytest.mark.parametrize(
    "name", ["", "__metadata__", "\ud800", "a/b", "../x", "a\0b", "x" * 400, "arr_0"]
)
def test_a_name_that_a_format_cannot_hold_leaves_only_it_out(tmp_path: Path, name: str) -> None:
    torch.save({name: torch.arange(6.0), "other": torch.ones(3)}, tmp_path / "own.bin")
    formats = [
        form.name for form in all_formats().values() if not form.beside and not form.requires
    ]
    made = Store(tmp_path / "store", formats=all_formats()).checkpoint(
        person_source(tmp_path / "own.bin", "own"), formats
    )
    assert {"torch-zip", "torch-legacy", "pickle"} <= set(made.artifacts)
    refused = {"safetensors", "dcp-safetensors"} if name in ("__metadata__", "\ud800") else set()
    assert set(made.refused) == refused
