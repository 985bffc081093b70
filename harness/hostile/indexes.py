"""Indexes of sharded checkpoints that name a wrong file: outside their folder, missing, of another
format, or not JSON.
"""

from __future__ import annotations

import json

from harness.hostile import Family
from harness.hostile.archives import torch_zip
from harness.hostile.disguises import PAYLOAD
from harness.hostile.opcodes import pickled
from harness.hostile.safetensors_files import A, safetensors
from harness.records.trials import Harm

indexes = Family("indexes", "index", Harm.LIE)

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"
_GOOD = safetensors({"a": A})


def _index(names: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 24}, "weight_map": names}).encode()


indexes.table(
    "index-{}",
    (
        (
            "outside",
            "the index names a file by a path that leaves its folder and returns to it",
            _index({"a": f"../case/{SHARD}"}),
            Harm.LIE,
        ),
        (
            "absolute",
            "the index names a file by an absolute path, outside its folder",
            _index({"a": "/dev/zero"}),
            Harm.LIE,
        ),
        (
            "missing",
            "the index names a missing file",
            _index({"a": "model-00002-of-00002.safetensors"}),
            Harm.BROKEN,
        ),
        (
            "wrong",
            "the index names a file that does not hold the tensor",
            _index({"b": SHARD}),
            Harm.LIE,
        ),
        ("not-json", "the index is not JSON", b"{weight_map", Harm.BROKEN),
        ("good", "the index names the only file, which is valid", _index({"a": SHARD}), Harm.NONE),
    ),
    lambda content: {INDEX: content, SHARD: _GOOD},
    harms=True,
)


@indexes.hostile_file("index-of-a-pickle", harm=Harm.CODE)
def _of_a_pickle(_: object) -> dict[str, bytes]:
    """A safetensors index names a torch file with the payload."""
    return {
        INDEX: _index({"a": "pytorch_model.bin"}),
        "pytorch_model.bin": torch_zip({"a": PAYLOAD}),
    }


@indexes.hostile_file("index-of-a-disguise", harm=Harm.CODE)
def _of_a_disguise(_: object) -> dict[str, bytes]:
    """A safetensors index names a pickle with the payload that is called .safetensors."""
    return {INDEX: _index({"a": SHARD}), SHARD: pickled(PAYLOAD)}


@indexes.hostile_file("index-of-torch-files", harm=Harm.CODE)
def _of_torch_files(_: object) -> dict[str, bytes]:
    """An index of torch files names a file with the payload."""
    index = _index({"a": "pytorch_model-00001-of-00001.bin"})
    return {
        "pytorch_model.bin.index.json": index,
        "pytorch_model-00001-of-00001.bin": torch_zip({"a": PAYLOAD}),
    }


@indexes.hostile_file("index-deep", harm=Harm.BROKEN)
def _deep(_: object) -> dict[str, bytes]:
    """The index is a hundred thousand nested lists, so a recursive parser overflows."""
    return {INDEX: b"[" * 100_000 + b"]" * 100_000, SHARD: _GOOD}


@indexes.hostile_file("index-many", harm=Harm.BROKEN)
def _many(_: object) -> dict[str, bytes]:
    """The index names two hundred thousand missing files."""
    return {
        INDEX: _index({str(number): f"{number}.safetensors" for number in range(200_000)}),
        SHARD: _GOOD,
    }
