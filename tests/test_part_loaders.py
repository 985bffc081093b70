"""Loaders of parts: all hand back the same private pieces, and the ceiling asks storage for no page
more than holds them.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.checkpoints.digest import tensor_digests
from harness.checkpoints.formats import FORMATS
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.parts import PARTS, Piece, part
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Store
from harness.loaders import PART, Contract, Selection, all_loaders, own
from harness.machine import page_cache, proof
from harness.machine.counters import counters
from harness.measure.validity import judge
from harness.workers.load_sample import not_private
from tests.helpers import ceiling_of

Tensors = dict[str, torch.Tensor]

LAYOUT = Layout(
    "parts",
    (
        TensorSpec("embedding.weight", "float32", (4096, 384)),
        *(
            TensorSpec(f"h.{layer}.{name}", dtype, shape)
            for layer in range(3)
            for name, dtype, shape in (
                ("weight", "bfloat16", (1536, 384)),
                ("narrow", "float16", (100_000, 8)),
                ("bias", "float32", (1537,)),
                ("cube", "int8", (9, 8, 7)),
            )
        ),
    ),
    shard_bytes=6_000_000,
)
DOCUMENTED = (
    "ceiling-read",
    "safetensors-get-slice",
    "safetensors-load-file",
    "safetensors-pread",
    "torch-load",
    "torch-load-mmap",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    source = layout_source(LAYOUT, 0)
    return Store(tmp_path_factory.mktemp("store")).checkpoint(
        source, [name for name, form in FORMATS.items() if form.index]
    )


def _wanted(checkpoint: Checkpoint, format_name: str, pieces: tuple[Piece, ...]) -> list[Selection]:
    files = checkpoint.artifacts[format_name].files
    shards = [{spec.name for spec in shard} for shard in checkpoint.shards]
    asked = [
        (str(file), [piece for piece in pieces if piece.tensor in names])
        for file, names in zip(files, shards, strict=True)
    ]
    return [(file, cut) for file, cut in asked if cut]


def _load(loader: Contract, wanted: list[Selection]) -> Tensors:
    return loader.content(loader.ready_to_load(wanted, "cpu")(), wanted)


def _expected(pieces: tuple[Piece, ...]) -> dict[str, str]:
    source = layout_source(LAYOUT, 0)
    tensors = {
        name: tensor
        for shard in range(len(source.shards))
        for name, tensor in source.make(shard).items()
    }
    return tensor_digests({piece.tensor: own(piece.of(tensors[piece.tensor])) for piece in pieces})


def test_every_documented_arm_is_there() -> None:
    assert set(DOCUMENTED) <= set(all_loaders(PART))
    assert {name: all_loaders(PART)[name][1].absence() for name in DOCUMENTED} == dict.fromkeys(
        DOCUMENTED
    )


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("loader", all_loaders(PART))
def test_every_arm_hands_back_the_exact_pieces_as_private_memory(
    loader: str, name: str, checkpoint: Checkpoint
) -> None:
    found, pieces = all_loaders(PART)[loader][1], part(name, "parts", LAYOUT.tensors)
    loaded = _load(found, _wanted(checkpoint, found.format, pieces))
    assert tensor_digests(loaded) == _expected(pieces)
    if not found.ceiling:  # which names its tensors in memory that it holds
        assert not_private(loaded) is None


@pytest.mark.parametrize("loader", all_loaders(PART))
def test_every_arm_cuts_along_any_axis(loader: str, checkpoint: Checkpoint) -> None:
    pieces = (Piece("h.0.cube", 1, 2, 5), Piece("h.1.cube", 2, 6, 7), Piece("h.2.cube", 0, 8, 9))
    found = all_loaders(PART)[loader][1]
    assert tensor_digests(_load(found, _wanted(checkpoint, found.format, pieces))) == _expected(
        pieces
    )


def _pages(wanted: list[Selection]) -> dict[str, set[int]]:
    """Return the numbers of the pages that hold the pieces of each safetensors file, reckoned byte
    by byte.
    """

    found: dict[str, set[int]] = {}
    for file, pieces in wanted:
        size = int.from_bytes(Path(file).read_bytes()[:8], "little") + 8
        start = {}
        for name, tensor in load_file(file).items():  # in the order of their offsets
            start[name], size = size, size + tensor.nbytes
        tensors = load_file(file)
        for piece in pieces:
            whole = tensors[piece.tensor]
            where = torch.arange(whole.numel(), dtype=torch.int64).reshape(whole.shape)
            at = piece.of(where).reshape(-1) * whole.element_size() + start[piece.tensor]
            last = at + whole.element_size() - 1
            found.setdefault(file, set()).update(
                (torch.cat([at, last]) // mmap.PAGESIZE).unique().tolist()
            )
    return found


@pytest.mark.parametrize("name", PARTS)
def test_the_ceiling_asks_storage_for_exactly_the_pages(name: str, checkpoint: Checkpoint) -> None:
    files = checkpoint.artifacts["safetensors"].files
    if not proof.capability(files[0].parent).cold:
        pytest.skip("nothing can be made cold here")
    ceiling = ceiling_of("ceiling-read", PART)
    wanted = _wanted(checkpoint, "safetensors", part(name, "parts", LAYOUT.tensors))
    pages = sum(map(len, _pages(wanted).values()))
    ceiling.reserve(wanted)  # finds out where the pieces are, which reads the header
    prepared = ceiling.setup(wanted, "cpu")
    given = []
    for _ in range(
        3
    ):  # the kernel may read something of its own in a busy machine, never less than was asked for
        assert page_cache.evict(files).fraction == 0.0
        before = counters().storage_read_bytes
        ceiling.load(wanted, "cpu", prepared)
        after = counters().storage_read_bytes
        assert before is not None
        assert after is not None
        given.append((after - before) / mmap.PAGESIZE)
    assert pages <= min(given) <= pages + 2, "its pages, and no others"


def test_the_ceilings_memory_is_held_before_it_is_timed(checkpoint: Checkpoint) -> None:
    ceiling = ceiling_of("ceiling-read", PART)
    wanted = _wanted(checkpoint, "safetensors", part("eighth-rows", "parts", LAYOUT.tensors))
    prepared = ceiling.setup(wanted, "cpu")
    held = {file: buffer.data_ptr() for file, buffer in prepared[0].items()}
    assert {
        file: buffer.data_ptr() for file, buffer in ceiling.load(wanted, "cpu", prepared).items()
    } == held


def test_borrowed_memory_is_not_private(tmp_path: Path) -> None:
    whole = torch.rand(64, 4096)
    save_file({"w": whole}, tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")
    assert not_private({"w": whole}) is None
    assert not_private({"w": whole[:, :8].contiguous()}) is None
    assert not_private(mapped) == "w lies in a mapped file"
    assert not_private({"w": own(mapped["w"])}) is None
    assert not_private({"w": whole[:, :8]}) == "w is not contiguous"
    assert (
        not_private({"w": whole[:8]})
        == f"w holds {whole.nbytes} bytes of memory and fills {whole.nbytes // 8}"
    )
    assert not_private({"none": torch.empty(0, 8)}) is None


def test_a_borrowed_part_is_an_invalid_sample() -> None:
    answer = {
        "content_ok": True,
        "not_private": "w lies in a mapped file",
        "storage_read_bytes": 1000,
    }
    judged = judge("cold", 0.0, 1000, answer)
    assert (judged.valid, judged.reason, judged.detail) == (
        False,
        "not-private",
        "w lies in a mapped file",
    )


def test_a_cold_part_needs_what_was_asked_for_from_storage() -> None:
    answer = {"content_ok": True, "not_private": None, "storage_read_bytes": 995}
    assert judge("cold", 0.0, 1000, answer).valid
    assert judge("cold", 0.0, 1010, answer).reason == "storage-short"
