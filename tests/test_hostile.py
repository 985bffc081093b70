"""The corpus of hostile files: the same bytes everywhere, one function a file, none of it read
here; and the assembler it is made with.
"""

from __future__ import annotations

import pickle
import zlib
from collections import OrderedDict
from pathlib import Path
from random import Random

import pytest

from harness.hostile import FORMATS, Family, corpus, family_names, write_corpus
from harness.hostile.archives import deflated, deflated_run
from harness.hostile.opcodes import PROTO_4, Global, pickled
from harness.hostile.safetensors_files import HEADER_CAP
from harness.records.trials import Harm
from harness.run.hostile_trials import known_digests

NAMED = {
    "nested": "nested",
    "every callable class": "callables",
    "spelled by opcodes": "spelled",
    "memo tricks": "memo",
    "a second pickle": "second-pickles",
    "another member": "other-members",
    "formats": "formats",
    "compressed": "compressed",
    "renamed": "renamed",
    "truncated after the payload": "cut-after",
    "memory": "memory-bombs",
    "time": "time-bombs",
    "huge lengths": "huge-lengths",
    "zip bombs": "zip-bombs",
    "lying archives": "archives",
    "lying tensors": "lying-tensors",
    "header's length": "header-length",
    "enormous headers": "header-enormous",
    "broken JSON": "header-grammar",
    "wrong fields": "header-fields",
    "offsets": "offsets",
    "shapes": "shapes",
    "trailing, truncated": "around-the-data",
    "indexes": "indexes",
}
"""What a corpus of hostile files owes its readers, and the family that holds it."""


def test_there_are_two_hundred_files_or_more() -> None:
    found = corpus()
    assert len(found) >= 200
    assert len({one.name for one in found}) == len(found)
    assert {one.harm for one in found} == set(Harm)
    assert {one.format for one in found} <= set(FORMATS)
    assert all(one.says and "\n" not in one.says and not one.says.endswith(".") for one in found)


@pytest.mark.parametrize("family", NAMED.values(), ids=NAMED.keys())
def test_every_kind_of_harm_that_is_known_has_a_family_of_files(family: str) -> None:
    assert family in family_names()
    assert len(corpus([family])) >= 2


def test_the_corpus_is_the_same_bytes_on_every_machine(tmp_path: Path) -> None:
    written, digest = write_corpus(corpus(), tmp_path)
    assert digest == known_digests()["0"]
    assert [one.hostile_file.name for one in written] == [one.name for one in corpus()]
    assert all(
        path.is_relative_to(tmp_path) and path.is_file() for one in written for path in one.files
    )


def test_a_changed_byte_changes_the_digest(tmp_path: Path) -> None:
    family = Family("test", "pickle", Harm.NONE)
    family.table("{}.pkl", (("a", "says a", b"a"), ("b", "says b", b"b")), bytes)
    _, before = write_corpus(family.hostile_files, tmp_path / "before")
    family.hostile_files.pop()
    family.table("{}.pkl", (("b", "says b", b"c"),), bytes)
    _, after = write_corpus(family.hostile_files, tmp_path / "after")
    assert before != after


def test_adding_a_file_is_one_function(tmp_path: Path) -> None:
    family = Family("test", "pickle", Harm.CODE)

    @family.hostile_file("random.bin", format_name="none", harm=Harm.NONE)
    def _random(rng: Random) -> bytes:
        """Is what the seed makes of it."""
        return rng.randbytes(8)

    (hostile_file,) = family.hostile_files
    assert (hostile_file.name, hostile_file.family, hostile_file.harm, hostile_file.says) == (
        "random.bin",
        "test",
        Harm.NONE,
        "is what the seed makes of it",
    )
    assert hostile_file.files(0) == hostile_file.files(0) != hostile_file.files(1)
    written, _ = write_corpus(family.hostile_files, tmp_path, seed=3)
    assert written[0].files[0].read_bytes() == hostile_file.files(3)["random.bin"]


def test_the_header_s_limit_is_met_from_both_sides_to_the_byte() -> None:
    sizes = {
        one.name: int.from_bytes(next(iter(one.files(0).values()))[:8], "little")
        for one in corpus()
        if one.name.startswith("cap-")
    }
    assert sizes == {
        "cap-padded.safetensors": HEADER_CAP,
        "cap-text.safetensors": HEADER_CAP,
        "cap-text-over.safetensors": HEADER_CAP + 1,
    }


def test_the_plainest_payloads_come_in_both_torch_forms() -> None:
    plain = [one for one in corpus() if one.plain]
    assert len(plain) >= 10
    assert {one.format for one in plain} == {"pickle", "torch-zip", "torch-legacy"}
    assert all(one.harm == Harm.CODE for one in plain)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        5,
        -7,
        1 << 80,
        -(1 << 70),
        1.5,
        "ä\n",
        b"\x00\xff",
        (1, "a"),
        [1, [2]],
        {"a": (1,)},
    ],
)
def test_what_the_assembler_writes_is_what_pickle_reads(value: object) -> None:
    assert pickle.loads(pickled(value)) == value
    assert pickle.loads(pickled(value, PROTO_4)) == value


def test_the_assembler_writes_calls() -> None:
    assert pickle.loads(pickled(Global("collections", "OrderedDict")([("a", 1)]))) == OrderedDict(
        a=1
    )
    assert pickle.loads(pickled(Global("builtins", "str.upper")("a"), PROTO_4)) == "A"


@pytest.mark.parametrize("length", [259, 1 + 258 * 9, 1 + 258 * 1000])
def test_a_compressed_run_is_as_long_as_it_says(length: int) -> None:
    made = deflated_run(0x4E, length)
    assert zlib.decompress(made, -15) == b"N" * length
    assert len(made) < max(length / 100, 10)


def test_what_is_stored_as_deflated_comes_back() -> None:
    content = bytes(range(256)) * 600
    assert zlib.decompress(deflated(content), -15) == content
    with pytest.raises(ValueError, match="258"):
        deflated_run(0, 300)
