"""Indexes of sharded checkpoints that point elsewhere: out of their folder, at nothing, at the
wrong file, at themselves.
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
            "leaves its folder and comes back to it",
            _index({"a": f"../case/{SHARD}"}),
            Harm.LIE,
        ),
        ("absolute", "names a file by an absolute path", _index({"a": "/dev/zero"}), Harm.LIE),
        (
            "missing",
            "names a file that is not there",
            _index({"a": "model-00002-of-00002.safetensors"}),
            Harm.BROKEN,
        ),
        ("wrong", "names a file that does not hold the tensor", _index({"b": SHARD}), Harm.LIE),
        ("not-json", "is no JSON", b"{weight_map", Harm.BROKEN),
        ("good", "names the one file there is, which is whole", _index({"a": SHARD}), Harm.NONE),
    ),
    lambda content: {INDEX: content, SHARD: _GOOD},
    harms=True,
)


@indexes.hostile_file("index-of-a-pickle", harm=Harm.CODE)
def _of_a_pickle(_: object) -> dict[str, bytes]:
    """An index of safetensors that names a torch file with the payload."""
    return {
        INDEX: _index({"a": "pytorch_model.bin"}),
        "pytorch_model.bin": torch_zip({"a": PAYLOAD}),
    }


@indexes.hostile_file("index-of-a-disguise", harm=Harm.CODE)
def _of_a_disguise(_: object) -> dict[str, bytes]:
    """An index of safetensors that names a pickle with the payload, called safetensors."""
    return {INDEX: _index({"a": SHARD}), SHARD: pickled(PAYLOAD)}


@indexes.hostile_file("index-of-torch-files", harm=Harm.CODE)
def _of_torch_files(_: object) -> dict[str, bytes]:
    """An index of torch files that names one with the payload."""
    index = _index({"a": "pytorch_model-00001-of-00001.bin"})
    return {
        "pytorch_model.bin.index.json": index,
        "pytorch_model-00001-of-00001.bin": torch_zip({"a": PAYLOAD}),
    }


@indexes.hostile_file("index-deep", harm=Harm.BROKEN)
def _deep(_: object) -> dict[str, bytes]:
    """An index that is a hundred thousand lists, each in the next."""
    return {INDEX: b"[" * 100_000 + b"]" * 100_000, SHARD: _GOOD}


@indexes.hostile_file("index-many", harm=Harm.BROKEN)
def _many(_: object) -> dict[str, bytes]:
    """An index of two hundred thousand files that are not there."""
    return {
        INDEX: _index({str(number): f"{number}.safetensors" for number in range(200_000)}),
        SHARD: _GOOD,
    }
