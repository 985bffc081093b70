"""Checkpoints: the sizes of real models, the same content in every format, made whole or not at
all, and a person's file only ever read.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from harness import atomic_write
from harness.atomic_write import ThreadedFile, write_atomically
from harness.checkpoints.checksum import checksum, checksums
from harness.checkpoints.content import _MASKS, make_tensor, make_tensors
from harness.checkpoints.digest import checkpoint_digest, tensor_digest, tensor_digests
from harness.checkpoints.formats import FORMATS
from harness.checkpoints.layout import ITEM_BYTES, Layout, TensorSpec
from harness.checkpoints.layouts import LAYOUTS, WARM_UP
from harness.checkpoints.sources import Source, layout_source, person_source
from harness.checkpoints.store import (
    KNOWN_DIGESTS_FILE,
    Checkpoint,
    DoesNotFitError,
    Store,
    known_digest,
)
from harness.checkpoints.store_location import default_store
from harness.errors import WeighbridgeError
from tests.helpers import hear, python

Tensors = dict[str, torch.Tensor]

SPECS = tuple(TensorSpec(f"layer.{dtype}", dtype, (3, 5)) for dtype in _MASKS)
WHOLE = Layout("whole", SPECS)
SHARDED = Layout("sharded", SPECS, shard_bytes=200)
SHARDS = 3

PUBLISHED = {
    "lora-1000": {"float32": 1_024_000},
    "all-minilm-l6-v2": {"float32": 22_713_216, "int64": 512},
    "gpt2": {"float32": 124_439_808},
    "bloom-560m": {"float16": 559_214_592},
    "llama-3.2-1b": {"bfloat16": 1_235_814_400},
    "mistral-7b-v0.1": {"bfloat16": 7_241_732_096},
    "stable-diffusion-2.1": {"float16": 865_910_724 + 340_387_840 + 83_653_863},
}
"""Elements of each dtype, as the models' own pages give them."""
OURS = ("bloom-slim", "qwen3-moe-slim", "small-stable-diffusion")
"""Layouts of real classes in sizes that nobody published."""


def _elements(layout: Layout) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in layout.tensors:
        counts[tensor.dtype] = (
            counts.get(tensor.dtype, 0) + tensor.bytes // ITEM_BYTES[tensor.dtype]
        )
    return counts


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _only_folder(store: Store) -> Path:
    (folder,) = store.folder.iterdir()
    return folder


def _recorded(checkpoint: Checkpoint) -> dict[str, str]:
    digests: dict[str, str] = json.loads(
        (checkpoint.checksums_file.parent / "digests.json").read_text()
    )
    return digests


# Layouts


def test_every_layout_has_its_published_size() -> None:
    assert {
        name: _elements(make()) for name, make in LAYOUTS.items() if name not in OURS
    } == PUBLISHED


def test_the_many_small_tensors_are_a_thousand_of_four_kibibytes() -> None:
    layout = LAYOUTS["lora-1000"]()
    assert (len(layout.tensors), layout.bytes) == (1000, 4_096_000)
    assert {tensor.bytes for tensor in layout.tensors} == {4096}


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_two_tensors_of_a_layout_share_a_name(name: str) -> None:
    layout = LAYOUTS[name]()
    assert layout.name == name
    assert len({tensor.name for tensor in layout.tensors}) == len(layout.tensors)


def test_item_sizes_are_those_of_torch() -> None:
    assert {dtype: getattr(torch, dtype).itemsize for dtype in ITEM_BYTES} == ITEM_BYTES
    assert {dtype: mask[0] for dtype, mask in _MASKS.items()} == {
        dtype: ITEM_BYTES[dtype] for dtype in _MASKS
    }


@pytest.mark.parametrize(
    "layout", [SHARDED, LAYOUTS["mistral-7b-v0.1"]()], ids=lambda layout: str(layout.name)
)
def test_shards_hold_every_tensor_in_order_and_none_is_too_large(layout: Layout) -> None:
    shards = layout.shards()
    assert len(shards) > 1
    assert tuple(tensor for shard in shards for tensor in shard) == layout.tensors
    limit = layout.shard_bytes or 0
    sizes = [sum(tensor.bytes for tensor in shard) for shard in shards]
    assert max(sizes) <= limit
    assert all(
        size + following[0].bytes > limit
        for size, following in zip(sizes, shards[1:], strict=False)
    ), "a shard was closed too early"


def test_a_tensor_larger_than_a_shard_gets_one_of_its_own() -> None:
    small, large = TensorSpec("small", "int8", (10,)), TensorSpec("large", "int8", (1000,))
    last = replace(small, name="last")
    assert Layout("l", (small, large, last), shard_bytes=100).shards() == [
        (small,),
        (large,),
        (last,),
    ]
    assert Layout("l", (small, last), shard_bytes=20).shards() == [(small, last)], (
        "what fits exactly fits"
    )
    assert Layout("l", (large, small), shard_bytes=100).shards() == [(large,), (small,)]


# Content


@pytest.mark.parametrize("dtype", _MASKS)
@pytest.mark.parametrize("shape", [(200_000,), (33, 7), (5,), (), (0, 3)], ids=str)
def test_content_is_finite_non_zero_and_of_the_shape_asked_for(
    dtype: str, shape: tuple[int, ...]
) -> None:
    tensor = make_tensor("layout", 0, TensorSpec("t", dtype, shape), seed=0)
    assert (tensor.dtype, tuple(tensor.shape), tensor.is_contiguous()) == (
        getattr(torch, dtype),
        shape,
        True,
    )
    assert torch.isfinite(tensor).all()
    assert (tensor != 0).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_floats_are_of_either_sign_and_of_ordinary_size(dtype: str) -> None:
    values = make_tensor("layout", 0, TensorSpec("t", dtype, (10_000,)), seed=0).double()
    assert 2**-7 <= values.abs().min() < values.abs().max() < 2
    assert values.abs().max() / values.abs().min() > 10
    assert 0.45 < (values < 0).double().mean() < 0.55


@pytest.mark.parametrize("dtype", [dtype for dtype in _MASKS if dtype != "bool"])
def test_content_depends_on_layout_number_and_seed(dtype: str) -> None:
    spec = TensorSpec("t", dtype, (64,))
    first = make_tensor("layout", 0, spec, seed=0)
    assert torch.equal(first, make_tensor("layout", 0, replace(spec, name="renamed"), seed=0))
    for other in (
        make_tensor("layout", 0, spec, 1),
        make_tensor("layout", 1, spec, 0),
        make_tensor("tuoyal", 0, spec, 0),
    ):
        assert not torch.equal(first, other)


def test_content_does_not_depend_on_the_number_of_cores() -> None:
    numbered = list(enumerate(SPECS))
    one_by_one = {spec.name: make_tensor("whole", number, spec, 7) for number, spec in numbered}
    assert tensor_digests(make_tensors("whole", 7, numbered)) == tensor_digests(one_by_one)


def test_a_shard_holds_the_content_it_would_hold_unsharded() -> None:
    sharded, whole = (
        layout_source(replace(SHARDED, name="same"), 0),
        layout_source(replace(WHOLE, name="same"), 0),
    )
    assert sharded.shard_bytes == (180, 180, 135)
    together = {
        name: tensor for shard in range(SHARDS) for name, tensor in sharded.make(shard).items()
    }
    assert tensor_digests(together) == tensor_digests(whole.make(0))
    assert sharded.identity != whole.identity


@pytest.mark.parametrize("name", ["lora-1000", "all-minilm-l6-v2"])
def test_the_content_is_the_same_on_every_machine(name: str) -> None:
    """Recomputed against the committed digest: figures of two machines compare only if this holds
    on both.
    """

    digest = checkpoint_digest(tensor_digests(layout_source(LAYOUTS[name](), 0).make(0)))
    assert digest == known_digest(name, 0)


def test_every_layout_has_a_committed_digest_for_seed_0_alone() -> None:
    recorded = json.loads(KNOWN_DIGESTS_FILE.read_text())
    assert list(recorded) == list(LAYOUTS)
    assert {len(bytes.fromhex(digest)) for digest in recorded.values()} == {32}
    assert known_digest("gpt2", 0) == recorded["gpt2"]
    assert known_digest("gpt2", 1) is None
    assert known_digest("somebody's own", 0) is None


# Digests


def test_a_digest_tells_dtype_shape_and_content_apart() -> None:
    tensor = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
    others = [
        tensor.view(torch.uint32),
        tensor.reshape(2, 2),
        tensor.reshape(1, 4),
        torch.tensor([1, 2, 3, 5], dtype=torch.int32),
    ]
    assert len({tensor_digest(other) for other in [tensor, *others]}) == 5
    assert tensor_digest(tensor) == tensor_digest(tensor.clone())


def test_a_digest_does_not_see_how_a_tensor_lies_in_memory() -> None:
    tensor = torch.arange(12).reshape(3, 4)
    assert tensor_digest(tensor.t().contiguous().t()) == tensor_digest(tensor)
    assert tensor_digest(torch.empty(0)) == tensor_digest(torch.ones(3)[:0])


def test_large_checkpoints_are_digested_as_small_ones_are() -> None:
    tensors = {
        f"t{number}": torch.arange(number, number + 3_000_000, dtype=torch.int32)
        for number in range(3)
    }
    assert sum(tensor.nbytes for tensor in tensors.values()) > 32 << 20
    digests = tensor_digests(tensors)
    assert list(digests.items()) == [
        (name, tensor_digest(tensor)) for name, tensor in tensors.items()
    ]


def test_a_checkpoint_digest_depends_on_names() -> None:
    digest = checkpoint_digest({"a": "1", "b": "2"})
    assert digest == checkpoint_digest({"b": "2", "a": "1"})
    assert digest != checkpoint_digest({"a": "2", "b": "1"})
    assert digest != checkpoint_digest({"a": "1"})


# Checksums

LARGE = (1 << 16) + 3  # 64-bit words: two rows and a rest, in the sum that large tensors get


def test_a_checksum_tells_dtype_shape_and_content_apart() -> None:
    for count in (64, LARGE):
        tensor = torch.arange(count)
        others = [
            tensor.view(torch.float64),
            tensor.reshape(1, -1),
            tensor + (tensor == count - 1),
            tensor[:-1],
        ]
        assert len({str(checksum(other)) for other in [tensor, *others]}) == 5
        assert (
            checksum(tensor) == checksum(tensor.clone()) == json.loads(json.dumps(checksum(tensor)))
        )


@pytest.mark.parametrize("place", [0, 7, 8, 1 << 18, 8 * LARGE - 1, 8 * LARGE, 8 * LARGE + 4])
@pytest.mark.parametrize("bit", [1, 128])
def test_one_changed_bit_anywhere_changes_a_large_checksum(place: int, bit: int) -> None:
    """The last five bytes fill no word."""
    octets = torch.zeros(8 * LARGE + 5, dtype=torch.uint8)
    before = checksum(octets)
    octets[place] = bit
    assert checksum(octets) != before


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [(0, 1, 1), (5, (1 << 15) + 5, 1), (0, 1 << 15, 1 << 15), ((1 << 15) - 1, LARGE - 1, 1)],
)
def test_moved_words_change_a_large_checksum(here: int, there: int, words: int) -> None:
    """Two words of a row, one place in two rows, two whole rows, a word of a row and one of the
    rest.
    """

    tensor = torch.arange(LARGE)
    moved = tensor.clone()
    moved[here : here + words], moved[there : there + words] = (
        tensor[there : there + words],
        tensor[here : here + words],
    )
    assert checksum(moved) != checksum(tensor)


@pytest.mark.parametrize("size", [100, 8 * LARGE + 5])
def test_a_checksum_does_not_see_how_a_tensor_lies_in_memory(size: int) -> None:
    octets = torch.from_numpy(np.random.default_rng(0).integers(0, 256, size + 1, dtype=np.uint8))
    unaligned = octets[1:]
    assert unaligned.data_ptr() % 8
    assert checksum(unaligned) == checksum(unaligned.clone())
    square = octets[: size // 4 * 4].reshape(4, -1)
    assert checksum(square.t()) == checksum(square.t().contiguous()) != checksum(square)


def test_a_checksum_is_the_same_on_every_machine() -> None:
    """It is written into the store by one environment and compared in others, which may hold
    another release of torch.
    """

    assert checksum(torch.arange(10, dtype=torch.int16)) == ["torch.int16", [10], 829781878]
    assert checksum(torch.arange(LARGE)) == ["torch.int64", [LARGE], 5409658161241727817]
    assert checksum(torch.empty(0, 3)) == ["torch.float32", [0, 3], 0]


def test_large_checkpoints_are_summed_as_small_ones_are() -> None:
    tensors = {
        f"t{number}": torch.arange(number, number + 3_000_000, dtype=torch.int32)
        for number in range(3)
    }
    assert list(checksums(tensors).items()) == [
        (name, checksum(tensor)) for name, tensor in tensors.items()
    ]


# Formats and the store


def test_every_format_of_a_checkpoint_holds_identical_tensors(tmp_path: Path) -> None:
    checkpoint = Store(tmp_path / "store").checkpoint(layout_source(WHOLE, 0), FORMATS)
    expected = tensor_digests(layout_source(WHOLE, 0).make(0))
    assert _recorded(checkpoint) == expected
    assert (checkpoint.digest, checkpoint.bytes, checkpoint.tensors) == (
        checkpoint_digest(expected),
        WHOLE.bytes,
        len(SPECS),
    )
    assert json.loads(checkpoint.checksums_file.read_text()) == checksums(
        layout_source(WHOLE, 0).make(0)
    )
    assert list(checkpoint.artifacts) == list(FORMATS)
    for name, artifact in checkpoint.artifacts.items():
        (file,) = artifact.files
        assert tensor_digests(FORMATS[name].read(file)) == expected
        assert (artifact.format, artifact.file_bytes) == (name, file.stat().st_size)


def test_each_format_is_the_format_it_is_called(tmp_path: Path) -> None:
    artifacts = Store(tmp_path / "store").checkpoint(layout_source(WHOLE, 0), FORMATS).artifacts
    starts = {name: artifact.files[0].read_bytes()[:16] for name, artifact in artifacts.items()}
    assert starts["torch-zip"].startswith(b"PK\x03\x04")
    assert starts["torch-legacy"].startswith(
        b"\x80\x02\x8a\x0a"
    )  # protocol 2, then the magic number as a LONG1
    assert starts["pickle"].startswith(b"\x80" + bytes([pickle.HIGHEST_PROTOCOL]))
    assert starts["safetensors"][8:10] == b'{"'


def test_a_sharded_checkpoint_has_an_index(tmp_path: Path) -> None:
    checkpoint = Store(tmp_path / "store").checkpoint(layout_source(SHARDED, 0), FORMATS)
    expected = tensor_digests(
        {
            name: tensor
            for shard in range(SHARDS)
            for name, tensor in layout_source(SHARDED, 0).make(shard).items()
        }
    )
    assert _recorded(checkpoint) == expected
    assert checkpoint.sharded
    assert list(checkpoint.artifacts) == [
        "torch-zip",
        "safetensors",
    ], "only these two are ever sharded"
    for name, artifact in checkpoint.artifacts.items():
        form = FORMATS[name]
        index = json.loads((checkpoint.checksums_file.parent / str(form.index)).read_text())
        assert index["metadata"] == {"total_size": SHARDED.bytes}
        assert [file.name for file in artifact.files] == [
            f"{form.stem}-0000{number}-of-00003{form.suffix}" for number in (1, 2, 3)
        ]
        held = {file.name: form.read(file) for file in artifact.files}
        assert index["weight_map"] == {
            tensor: file for file, tensors in held.items() for tensor in tensors
        }
        assert (
            tensor_digests(
                {
                    tensor: content
                    for tensors in held.values()
                    for tensor, content in tensors.items()
                }
            )
            == expected
        )
        assert (artifact.format, artifact.file_bytes) == (
            f"{name}-sharded",
            sum(file.stat().st_size for file in artifact.files),
        )


@pytest.mark.parametrize("layout", [WHOLE, SHARDED], ids=lambda layout: str(layout.name))
def test_each_file_is_made_once(tmp_path: Path, layout: Layout) -> None:
    said: list[str] = []
    store = Store(tmp_path / "store", said.append)
    first = store.checkpoint(layout_source(layout, 0), FORMATS)
    made = {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in _only_folder(store).iterdir()
    }
    assert said
    said.clear()
    again = Store(tmp_path / "store", said.append).checkpoint(layout_source(layout, 0), FORMATS)
    assert again == first
    assert {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in _only_folder(store).iterdir()
    } == made
    assert said == []


def test_a_format_asked_for_later_joins_those_that_are_there(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (file,) = (
        store.checkpoint(layout_source(WHOLE, 0), ["safetensors"]).artifacts["safetensors"].files
    )
    made = file.stat().st_mtime_ns
    artifacts = store.checkpoint(layout_source(WHOLE, 0), ["safetensors", "pickle"]).artifacts
    assert list(artifacts) == ["safetensors", "pickle"]
    assert file.stat().st_mtime_ns == made


def test_nothing_is_left_under_a_temporary_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.checkpoint(layout_source(WHOLE, 0), FORMATS)
    files = [form.file_names(1)[0] for form in FORMATS.values()]
    assert _names(_only_folder(store)) == sorted(
        [*files, *(f"{name}.receipt.json" for name in FORMATS), "checksums.json", "digests.json"]
    )


def test_another_seed_is_another_checkpoint(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    one, two = (store.checkpoint(layout_source(WHOLE, seed), ["safetensors"]) for seed in (0, 1))
    assert one.digest != two.digest
    assert one.checksums_file.parent != two.checksums_file.parent


def test_a_file_that_lost_bytes_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (file,) = (
        store.checkpoint(layout_source(WHOLE, 0), ["safetensors"]).artifacts["safetensors"].files
    )
    content = file.read_bytes()
    os.truncate(file, len(content) - 1)
    store.checkpoint(layout_source(WHOLE, 0), ["safetensors"])
    assert file.read_bytes() == content


@pytest.mark.parametrize("damage", ["a value", "a name", "a shape"])
def test_what_does_not_read_back_the_same_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    form = FORMATS["safetensors"]

    def write(tensors: Tensors, path: Path) -> None:
        damaged = dict(tensors)
        name, tensor = damaged.popitem()
        if damage == "a value":
            damaged[name] = tensor ^ 1
        if damage == "a shape":
            damaged[name] = tensor.reshape(-1)
        form.write(damaged, path)

    store = Store(tmp_path / "store")
    integers = Layout("integers", tuple(spec for spec in SPECS if "int" in spec.dtype))
    monkeypatch.setitem(FORMATS, "safetensors", replace(form, write=write))
    made = store.checkpoint(layout_source(integers, 0), ["safetensors", "torch-zip"])
    assert "does not read back as the same tensors" in made.refused["safetensors"]
    assert list(made.artifacts) == ["torch-zip"], "it takes no other format with it"
    assert not [name for name in _names(_only_folder(store)) if "safetensors" in name]
    monkeypatch.undo()
    assert store.checkpoint(layout_source(integers, 0), ["safetensors"]).tensors == len(
        integers.tensors
    )


def test_content_other_than_the_committed_one_is_refused(tmp_path: Path) -> None:
    source = layout_source(WHOLE, 0)
    digest = Store(tmp_path / "store").checkpoint(source, ["safetensors"]).digest
    assert Store(tmp_path / "store").checkpoint(source, ["safetensors"], digest).digest == digest
    with pytest.raises(
        WeighbridgeError, match=rf"digest {digest[:12]} here and {'0' * 12} elsewhere"
    ):
        Store(tmp_path / "store").checkpoint(source, ["safetensors"], "0" * 64)


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from harness.checkpoints.formats import FORMATS
from harness.checkpoints.layouts import WARM_UP
from harness.checkpoints.store_location import default_store
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Store
form, stage = FORMATS["safetensors"], sys.argv[2]
def stop(path):
    print(path.name, path.stat().st_size, flush=True)
    sys.stdin.read()
def write(tensors, path):
    if stage == "write":
        path.write_bytes(b"half of it")
        stop(path)
    form.write(tensors, path)
def read(path):
    stop(path)
FORMATS["safetensors"] = replace(form, write=write, read=read)
Store(Path(sys.argv[1])).checkpoint(layout_source(WARM_UP, 0), ["safetensors"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["write", "read back"])
def test_a_kill_while_a_file_is_made_leaves_nothing_finished(tmp_path: Path, stage: str) -> None:
    with python(KILLED, tmp_path / "store", stage) as maker:
        name, size = hear(maker).split()
        assert int(size) > 0, "it was killed before it had written anything"
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
    store = Store(tmp_path / "store")
    assert _names(_only_folder(store)) == [name]
    assert re.fullmatch(rf"\.model\.[0-9a-f]{{8}}-{maker.pid}-\d+\.part\.safetensors", name), (
        "the name is the process's own"
    )
    (file,) = store.warm_up(["safetensors"])["safetensors"]
    assert tensor_digests(FORMATS["safetensors"].read(file)) == tensor_digests(
        layout_source(WARM_UP, 0).make(0)
    )
    assert _names(_only_folder(store)) == [
        "checksums.json",
        "digests.json",
        "model.safetensors",
        "safetensors.receipt.json",
    ]


def _never_made(shard: int) -> Tensors:
    pytest.fail("content was made although it does not fit")


BIG = Source("big", "0123", (5_000_000_000, 3_000_000_000), ((), ()), _never_made)


def test_what_does_not_fit_on_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "harness.checkpoints.store.shutil.disk_usage",
        lambda folder: SimpleNamespace(free=(1 << 30) + 15_900_000_000),
    )
    monkeypatch.setattr("harness.checkpoints.store.available_memory", lambda: 1 << 50)
    store = Store(tmp_path / "store")
    with pytest.raises(
        DoesNotFitError,
        match=r"big: its missing formats need 16.0 GB of disk in the store, 15.9 GB can be had",
    ):
        store.checkpoint(BIG, FORMATS)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


def test_what_does_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest shard decides, not the whole: shards are made one by one."""
    monkeypatch.setattr(
        "harness.checkpoints.store.shutil.disk_usage", lambda folder: SimpleNamespace(free=1 << 50)
    )
    monkeypatch.setattr("harness.checkpoints.store.available_memory", lambda: 10_900_000_000)
    store = Store(tmp_path / "store")
    with pytest.raises(
        DoesNotFitError, match=r"big: making it needs 11.0 GB of memory, 10.9 GB can be had"
    ):
        store.checkpoint(BIG, FORMATS)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []


def test_what_is_there_already_is_used_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    made = store.checkpoint(layout_source(WHOLE, 0), FORMATS)
    monkeypatch.setattr(
        "harness.checkpoints.store.shutil.disk_usage", lambda folder: SimpleNamespace(free=0)
    )
    monkeypatch.setattr("harness.checkpoints.store.available_memory", lambda: 0)
    assert store.checkpoint(layout_source(WHOLE, 0), FORMATS) == made


def test_a_store_that_cannot_be_made_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeighbridgeError, match=r"--store .*: cannot be made \(Not a directory\)"):
        Store(tmp_path / "file" / "store")


def test_the_store_is_where_the_person_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_STORE", str(tmp_path / "chosen"))
    assert default_store() == tmp_path / "chosen"
    monkeypatch.delenv("WEIGHBRIDGE_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_store() == tmp_path / "cache" / "weighbridge"


# Writing a file whole


def test_a_threaded_file_holds_what_was_written_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces from 100 bytes on count as large: smaller ones, larger ones and ones as large, in
    every order.
    """

    monkeypatch.setattr(atomic_write, "_LARGE_BYTES", 100)
    pieces = [os.urandom(size) for size in (0, 1, 99, 100, 101, 250, *range(200))]
    with ThreadedFile(tmp_path / "file") as file:
        assert [file.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_a_threaded_file_copies_a_small_piece(
    tmp_path: Path,
) -> None:
    buffer = bytearray(b"first")
    with ThreadedFile(tmp_path / "file") as file:
        file.write(memoryview(buffer))
        buffer[:] = b"other"
        file.write(memoryview(buffer))
    assert (tmp_path / "file").read_bytes() == b"firstother"


@pytest.mark.skipif(
    not Path("/dev/full").exists(),
    reason="this machine has no /dev/full, the device that is always full",
)
@pytest.mark.parametrize("size", [1, 100_000], ids=["known at the end", "known while writing"])
def test_a_full_disk_is_told_to_the_writer(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "_LARGE_BYTES", 100)
    with (
        pytest.raises(OSError, match="No space left on device"),
        ThreadedFile(Path("/dev/full")) as file,
    ):
        file.write(bytes(size))


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("before")

    def write(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_atomically(path, write)
    assert _names(tmp_path) == ["file.json"]
    assert path.read_text() == "before"


# A person's own checkpoint


def _tensors() -> Tensors:
    return {
        "wte": torch.arange(12.0).reshape(3, 4),
        "half": torch.ones(5, dtype=torch.bfloat16),
        "count": torch.tensor([7]),
    }


def _write(path: Path, format_name: str, tensors: Tensors) -> Path:
    FORMATS[format_name].write(tensors, path)
    return path


def _folder_with_index(folder: Path, format_name: str) -> Path:
    form, tensors = FORMATS[format_name], _tensors()
    names = form.file_names(2)
    parts = [{"wte": tensors["wte"]}, {"half": tensors["half"], "count": tensors["count"]}]
    for name, part in zip(names, parts, strict=True):
        form.write(part, folder / name)
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    (folder / str(form.index)).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _folder_with_one(folder: Path, name: str, format_name: str) -> Path:
    _write(folder / name, format_name, _tensors())
    return folder


PERSONS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "safetensors file": (
        lambda folder: _write(folder / "mine.safetensors", "safetensors", _tensors()),
        "safetensors",
    ),
    "zip file": (lambda folder: _write(folder / "mine.bin", "torch-zip", _tensors()), "torch-zip"),
    "zip file called .pt": (
        lambda folder: _write(folder / "mine.pt", "torch-zip", _tensors()),
        "torch-zip",
    ),
    "legacy file": (
        lambda folder: _write(folder / "mine.bin", "torch-legacy", _tensors()),
        "torch-legacy",
    ),
    "folder with safetensors index": (
        lambda folder: _folder_with_index(folder, "safetensors"),
        "safetensors",
    ),
    "folder with torch index": (
        lambda folder: _folder_with_index(folder, "torch-zip"),
        "torch-zip",
    ),
    "folder with one safetensors": (
        lambda folder: _folder_with_one(folder, "model.safetensors", "safetensors"),
        "safetensors",
    ),
    "folder with one zip": (
        lambda folder: _folder_with_one(folder, "pytorch_model.bin", "torch-zip"),
        "torch-zip",
    ),
    "folder with one legacy": (
        lambda folder: _folder_with_one(folder, "pytorch_model.bin", "torch-legacy"),
        "torch-legacy",
    ),
}


@pytest.mark.parametrize("what", PERSONS)
def test_a_persons_checkpoint_is_measured_as_it_is(tmp_path: Path, what: str) -> None:
    make, format_name = PERSONS[what]
    folder = tmp_path / "person"
    folder.mkdir()
    path = make(folder)
    before = {
        file: (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_mode)
        for file in folder.iterdir()
    }
    source = person_source(path, "mine")
    checkpoint = Store(tmp_path / "store").checkpoint(source, FORMATS)
    expected = tensor_digests(_tensors())
    assert (source.name, sum(map(len, source.shards)), source.bytes) == (
        "mine",
        3,
        sum(tensor.nbytes for tensor in _tensors().values()),
    )
    assert checkpoint.digest == checkpoint_digest(expected)
    assert set(checkpoint.artifacts[format_name].files) == {
        file for file in before if file.suffix != ".json"
    }, "not their own files"
    for name, artifact in checkpoint.artifacts.items():
        held = {
            tensor: content
            for file in artifact.files
            for tensor, content in FORMATS[name].read(file).items()
        }
        assert tensor_digests(held) == expected
    assert {
        file: (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_mode)
        for file in folder.iterdir()
    } == before


def test_no_mapping_of_a_person_s_file_outlives_the_look_at_it(tmp_path: Path) -> None:
    """Mapped pages cannot be evicted, so a mapping left behind would make every cold sample an
    invalid one.
    """

    path = _write(tmp_path / "mine.safetensors", "safetensors", {"large": torch.ones(1 << 20)})
    person_source(path, "mine")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list a process's mappings")
    assert str(path) not in maps.read_text()


def test_a_persons_file_on_another_device_is_copied(tmp_path: Path) -> None:
    """Arms on different storage would compare the storage."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system at /dev/shm")
    path = _write(memory / f"weighbridge-test-{os.getpid()}.safetensors", "safetensors", _tensors())
    try:
        checkpoint = Store(tmp_path / "store").checkpoint(
            person_source(path, "mine"), ["safetensors"]
        )
        assert checkpoint.artifacts["safetensors"].files == (
            checkpoint.checksums_file.parent / "model.safetensors",
        )
    finally:
        path.unlink()


def test_a_changed_file_of_the_same_name_is_another_checkpoint(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.safetensors", "safetensors", _tensors())
    before = person_source(path, "mine").identity
    assert person_source(path, "mine").identity == before
    _write(path, "safetensors", _tensors() | {"count": torch.tensor([8])})
    assert person_source(path, "mine").identity != before


class Hostile:
    """Makes a folder when it is unpickled by a reader that runs what it finds."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_by_what_it_asks_for(tmp_path: Path, zipped: bool) -> None:
    path, canary = tmp_path / "hostile.bin", tmp_path / "canary"
    torch.save(
        {"w": torch.ones(2), "evil": Hostile(canary)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(
        WeighbridgeError,
        match=(
            rf"hostile.bin: torch.load .* it asks for {os.mkdir.__module__}.mkdir, which is not"
            r" allowed"
        ),
    ):
        person_source(path, "mine")
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the pickle was not hostile, so nothing was shown"


def _saved(what: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        torch.save(what, folder / "mine.bin")
        return folder / "mine.bin"

    return save


def _text(name: str, content: str, *given: str) -> Callable[[Path], Path]:
    """Return what makes a file, and returns its path, or the one given instead."""

    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder.joinpath(*given) if given else folder / name

    return write


def _index(weight_map: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        _write(folder.parent / "outside.safetensors", "safetensors", _tensors())
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return write


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a suffix that is no weights file's": (
        _text("mine.txt", "x"),
        (
            "a weights file ends in .safetensors, .sft, .bin, .pt, .pth, .ckpt, .pth.tar, an index"
            " in .index.json; this one ends in .txt"
        ),
    ),
    "no suffix": (_text("mine", "x"), "this one ends in nothing"),
    "a path where nothing is": (
        lambda folder: folder / "gone.bin",
        "there is no such file or folder",
    ),
    "a folder without weights": (
        lambda folder: folder,
        (
            "the folder holds no weights, neither safetensors nor files of torch: name the weights"
            " file itself"
        ),
    ),
    "an empty torch file": (_text("mine.bin", ""), "no file of torch: it is empty"),
    "a torch file of something else": (
        _text("mine.bin", "hello there"),
        "weights_only=True refuses it: ",
    ),
    "a safetensors file of something else": (
        _text("mine.safetensors", "hello there"),
        "not a whole safetensors file: ",
    ),
    "one tensor and no names": (
        _saved(torch.ones(2)),
        "holds a tensor; a checkpoint maps names to tensors",
    ),
    "names of other things than tensors": (
        _saved({"step": 3, "loss": None}),
        (
            "holds no tensors, at its top or under state_dict, model_state_dict, model, module,"
            " params, params_ema, ema, ema_state_dict, net; there is 'step' (a number), 'loss'"
            " (nothing)"
        ),
    ),
    "two sets of tensors": (
        _saved({"params": {"w": torch.ones(2)}, "params_ema": {"w": torch.ones(2)}}),
        (
            "holds several sets of tensors: params (1 tensors), params_ema (1 tensors); say which"
            " one by --key"
        ),
    ),
    "tensors without content": (
        _saved({"w": torch.ones(0)}),
        "holds no tensors, or none with content",
    ),
    "no tensors": (
        lambda folder: _write(folder / "mine.safetensors", "safetensors", {}),
        "holds no tensors, or none with content",
    ),
    "an index that is no JSON": (
        _text("model.safetensors.index.json", "{", ""),
        "not an index with a weight_map",
    ),
    "an index without a map": (
        _text("model.safetensors.index.json", "[]", ""),
        "not an index with a weight_map",
    ),
    "an index of no file": (_index({}), "its weight_map names no file"),
    "an index of a number": (
        _index({"wte": 3}),
        "the index names '3', which is not a file of its folder",
    ),
    "an index of a file that is not there": (
        _index({"wte": "gone.safetensors"}),
        "the index names 'gone.safetensors', which is not a file of its folder",
    ),
    "an index of a file outside": (
        _index({"wte": "../outside.safetensors"}),
        "the index names '../outside.safetensors', which is not a file of its folder",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_useful_line(tmp_path: Path, what: str) -> None:
    make, said = REFUSED[what]
    folder = tmp_path / "person"
    folder.mkdir()
    path = make(folder)
    with pytest.raises(WeighbridgeError) as refused:
        person_source(path, "mine")
    message = str(refused.value)
    assert message.startswith(f"--model {folder}")
    assert said in message
    assert "\n" not in message


def test_an_index_cannot_lead_outside_by_an_absolute_path(tmp_path: Path) -> None:
    outside = _write(tmp_path / "outside.safetensors", "safetensors", _tensors())
    (tmp_path / "person").mkdir()
    with pytest.raises(WeighbridgeError, match="which is not a file of its folder"):
        person_source(_index({"wte": str(outside)})(tmp_path / "person"), "mine")


def test_a_checkpoint_saved_from_a_gpu_is_read_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    torch.save({"w": torch.ones(3)}, tmp_path / "mine.bin")
    monkeypatch.undo()
    assert {
        name: tensor.device.type
        for name, tensor in person_source(tmp_path / "mine.bin", "mine").make(0).items()
    } == {"w": "cpu"}


BASE = torch.arange(20.0)

SHARED_MEMORY: dict[str, tuple[Tensors, Tensors]] = {
    "tied": ({"embed": BASE, "head": BASE}, {"embed": BASE}),
    "overlapping": ({"a": BASE[:12], "b": BASE[8:]}, {"a": BASE[:12], "b": BASE[8:]}),
    "seen in another shape": ({"a": BASE, "b": BASE.view(4, 5)}, {"a": BASE, "b": BASE.view(4, 5)}),
    "seen transposed": (
        {"a": BASE.view(4, 5), "b": BASE.view(4, 5).t()},
        {"a": BASE.view(4, 5), "b": BASE.view(4, 5).t()},
    ),
    "cut from one": ({"q": BASE[:10], "k": BASE[10:]}, {"q": BASE[:10], "k": BASE[10:]}),
    "expanded": ({"a": BASE[:1].clone().expand(1000)}, {"a": BASE[:1].expand(1000)}),
}


@pytest.mark.parametrize("how", SHARED_MEMORY)
def test_tensors_that_share_memory_are_made_anew_in_every_format(tmp_path: Path, how: str) -> None:
    """A file that shares is smaller than its tensors, so reading it accounts for too little.

    Of two names for the same, one is kept.
    """

    given, expected = SHARED_MEMORY[how]
    torch.save(given, tmp_path / "mine.bin")
    source = person_source(tmp_path / "mine.bin", "mine")
    checkpoint = Store(tmp_path / "store").checkpoint(source, FORMATS)
    size = sum(tensor.nbytes for tensor in expected.values())
    assert (source.given, sum(map(len, source.shards)), source.bytes) == (None, len(expected), size)
    for name, artifact in checkpoint.artifacts.items():
        assert artifact.files[0].is_relative_to(tmp_path / "store")
        assert artifact.file_bytes >= size
        assert tensor_digests(FORMATS[name].read(artifact.files[0])) == tensor_digests(expected)


def test_tensors_that_do_not_lie_in_order_are_packed(tmp_path: Path) -> None:
    transposed = torch.arange(12.0).reshape(3, 4).t()
    torch.save({"a": transposed, "b": torch.ones(2)}, tmp_path / "mine.bin")
    source = person_source(tmp_path / "mine.bin", "mine")
    checkpoint = Store(tmp_path / "store").checkpoint(source, FORMATS)
    assert checkpoint.artifacts["torch-zip"].files == (tmp_path / "mine.bin",), (
        "it shares no memory and is measured as it is"
    )
    for name, artifact in checkpoint.artifacts.items():
        held = FORMATS[name].read(artifact.files[0])
        assert torch.equal(held["a"], transposed)
        assert held["a"].is_contiguous() == (name != "torch-zip")


def test_a_part_of_a_large_memory_takes_no_more_than_its_size(
    tmp_path: Path,
) -> None:
    torch.save({"a": torch.ones(100_000)[:10]}, tmp_path / "mine.bin")
    checkpoint = Store(tmp_path / "store").checkpoint(
        person_source(tmp_path / "mine.bin", "mine"), FORMATS
    )
    assert checkpoint.artifacts["torch-zip"].file_bytes > 400_000
    assert (
        max(
            artifact.file_bytes
            for name, artifact in checkpoint.artifacts.items()
            if name != "torch-zip"
        )
        < 5_000
    )


def test_legacy_shards_are_not_taken_for_zip_shards(tmp_path: Path) -> None:
    folder = tmp_path / "person"
    folder.mkdir()
    _folder_with_index(folder, "torch-zip")
    for file in folder.glob("*.bin"):
        _write(file, "torch-legacy", torch.load(file, weights_only=True))
    checkpoint = Store(tmp_path / "store").checkpoint(person_source(folder, "mine"), FORMATS)
    assert all(
        file.is_relative_to(tmp_path / "store") for file in checkpoint.artifacts["torch-zip"].files
    )
    assert checkpoint.digest == checkpoint_digest(tensor_digests(_tensors()))


def test_safetensors_files_say_they_hold_torch_tensors(tmp_path: Path) -> None:
    """Without `format` in its metadata transformers refuses a file."""
    artifact = (
        Store(tmp_path / "store")
        .checkpoint(layout_source(WHOLE, 0), ["safetensors"])
        .artifacts["safetensors"]
    )
    with safetensors.safe_open(artifact.files[0], framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
