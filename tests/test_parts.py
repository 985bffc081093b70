"""Parts and shares: which pieces are asked for, what they hold, and what cannot be split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.checkpoints.checksum import checksums
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.parts import PARTS, Piece, part
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Store
from harness.checkpoints.tensor_parallel import missing, shares, split_axis
from harness.errors import WeighbridgeError

TWO_SHARDS = Layout(
    "two-shards",
    tuple(
        TensorSpec(f"h.{layer}.{name}", "float16", shape)
        for layer in range(3)
        for name, shape in (("weight", (24, 16)), ("bias", (24,)), ("last", (3, 2)))
    ),
    shard_bytes=1200,
)


def _specs(*shapes: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"t{number}", "float32", shape) for number, shape in enumerate(shapes))


def _size(checkpoint: str, name: str) -> tuple[int, int]:
    """Return (pieces, bytes) of a part."""
    tensors = {tensor.name: tensor for tensor in LAYOUTS[checkpoint]().tensors}
    pieces = part(name, checkpoint, list(tensors.values()))
    sizes = []
    for piece in pieces:
        whole = tensors[piece.tensor]
        sizes.append(
            whole.bytes
            if piece.axis is None
            else whole.bytes * (piece.stop - piece.start) // whole.shape[piece.axis]
        )
    return len(pieces), sum(sizes)


@pytest.mark.parametrize(
    ("name", "pieces", "size"),
    [
        ("one-tensor", 1, 4 * 768 * 3072),
        ("one-layer", 12, 4 * (12 * 768 * 768 + 13 * 768)),
        ("eighth-rows", 50, None),
        ("eighth-columns", 50, None),
    ],
)
def test_parts_of_a_published_layout_are_what_their_names_say(
    name: str, pieces: int, size: int | None
) -> None:
    found = _size("gpt2", name)
    assert found[0] == pieces
    if size is not None:
        assert found[1] == size
    else:
        matrices = sum(
            tensor.bytes for tensor in LAYOUTS["gpt2"]().tensors if len(tensor.shape) == 2
        )
        assert abs(found[1] * 8 / matrices - 1) < 0.001


def test_the_layer_is_the_middle_one_and_the_tensor_its_largest() -> None:
    tensors = LAYOUTS["gpt2"]().tensors
    assert {
        piece.tensor.rsplit(".", 2)[0].split(".")[1] for piece in part("one-layer", "gpt2", tensors)
    } == {"6"}
    assert part("one-tensor", "gpt2", tensors) == (Piece("h.6.mlp.c_fc.weight"),)


def test_every_eighth_tensor_is_taken_in_file_order_and_whole() -> None:
    tensors = _specs(*[(4,)] * 20)
    assert part("every-8th-tensor", "x", tensors) == (Piece("t4"), Piece("t12"))


def test_an_eighth_of_a_matrix_is_one_of_eight() -> None:
    (piece,) = part("eighth-rows", "x", _specs((20, 3), (20,), (3, 9)))[:1]
    assert (piece.axis, piece.start, piece.stop) == (0, 10, 12)
    assert [
        found.tensor for found in part("eighth-columns", "x", _specs((20, 3), (20,), (3, 9)))
    ] == ["t2"]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_piece_is_the_same_as_a_view_and_as_an_index(axis: int) -> None:
    whole = torch.arange(24 * 16).reshape(24, 16)
    piece = Piece("w", axis, 3, 9)
    assert torch.equal(piece.of(whole), whole[piece.index])
    assert piece.of(whole).shape[axis] == 6
    assert Piece("w").of(whole) is whole
    assert Piece("w").index == ()


@pytest.mark.parametrize(
    ("name", "tensors", "why"),
    [
        ("one-tensor", (), "it has no tensor"),
        ("one-layer", _specs((8, 8)), "no tensor's name holds the number of a layer"),
        ("every-8th-tensor", _specs(*[(4,)] * 7), "fewer than 8 tensors"),
        ("eighth-rows", _specs((3, 80), (800,)), "no matrix of enough rows"),
        ("eighth-columns", _specs((80, 3), (0, 80)), "no matrix of enough columns"),
    ],
)
def test_a_part_that_a_layout_does_not_have_says_why_in_one_line(
    name: str, tensors: tuple[TensorSpec, ...], why: str
) -> None:
    with pytest.raises(WeighbridgeError, match=why) as refused:
        part(name, "x", tensors)
    assert str(refused.value).startswith(f"x has no part {name}: ")
    assert "\n" not in str(refused.value)


def test_a_part_nobody_knows_is_answered_with_those_there_are() -> None:
    with pytest.raises(WeighbridgeError, match=r"unknown part 'half'.*one-tensor.*eighth-columns"):
        part("half", "x", _specs((8, 8)))


def test_what_a_layout_that_is_measured_has_of_every_part() -> None:
    for checkpoint in ("all-minilm-l6-v2", "gpt2", "llama-3.2-1b", "mistral-7b-v0.1"):
        assert all(_size(checkpoint, name)[1] > 0 for name in PARTS)


@pytest.mark.parametrize(
    ("checkpoint", "ranks"),
    [("bloom-560m", 1), ("bloom-560m", 8), ("bloom-560m", 16), ("llama-3.2-1b", 8)],
)
def test_shares_of_all_ranks_together_are_the_checkpoint(checkpoint: str, ranks: int) -> None:
    layout = LAYOUTS[checkpoint]()
    found = shares(layout, ranks)
    assert len(found) == ranks
    assert missing(layout.tensors, found) == []
    assert [piece.tensor for piece in found[-1]] == [tensor.name for tensor in layout.tensors], (
        "in file order"
    )


def test_bloom_is_split_as_tensor_parallel_inference_splits_it() -> None:
    last = {piece.tensor: piece for piece in shares(LAYOUTS["bloom-560m"](), 8)[7]}
    assert last["word_embeddings.weight"] == Piece(
        "word_embeddings.weight", 0, 250880 // 8 * 7, 250880
    )
    assert last["h.0.self_attention.query_key_value.weight"].axis == 0
    assert last["h.0.self_attention.query_key_value.bias"] == Piece(
        "h.0.self_attention.query_key_value.bias", 0, 3072 // 8 * 7, 3072
    )
    assert last["h.0.self_attention.dense.weight"] == Piece(
        "h.0.self_attention.dense.weight", 1, 896, 1024
    )
    assert last["h.0.mlp.dense_4h_to_h.weight"].axis == 1
    whole = {name for name, piece in last.items() if piece.axis is None}
    assert {name.split(".", 2)[2] for name in whole if name.startswith("h.3.")} == {
        "input_layernorm.weight",
        "input_layernorm.bias",
        "self_attention.dense.bias",
        "post_attention_layernorm.weight",
        "post_attention_layernorm.bias",
        "mlp.dense_4h_to_h.bias",
    }


def test_shares_that_overlap_or_leave_a_gap_are_found_out() -> None:
    tensors = _specs((8, 4), (4,))
    good = [[Piece("t0", 0, 0, 4), Piece("t1")], [Piece("t0", 0, 4, 8), Piece("t1")]]
    assert missing(tensors, good) == []
    for wrong in (
        [good[0], [Piece("t0", 0, 3, 8), Piece("t1")]],
        [good[0], [Piece("t0", 0, 5, 8), Piece("t1")]],
        [good[0], [Piece("t0", 0, 4, 7), Piece("t1")]],
        [good[0], [Piece("t0", 1, 2, 4), Piece("t1")]],
        [good[0], [Piece("t1")]],
    ):
        assert missing(tensors, wrong) == ["t0"]
    assert missing(tensors, [good[0], good[1][:1]]) == ["t1"]


@pytest.mark.parametrize(
    ("layout", "ranks", "why"),
    [
        (LAYOUTS["gpt2"](), 2, "gpt2 cannot be split over ranks: no rule is known"),
        (
            LAYOUTS["bloom-560m"](),
            3,
            "over 3 ranks: its 16 attention heads go evenly over 1, 2, 4, 8, 16 only",
        ),
        (LAYOUTS["bloom-560m"](), 0, "over 0 ranks"),
        (Layout("odd", _specs((8, 8)), heads=2), 2, "no rule is known for its matrix t0"),
        (
            Layout("odd", (TensorSpec("q_proj.weight", "float32", (7, 8)),), heads=2),
            2,
            "q_proj.weight has 7 rows",
        ),
        (
            Layout("odd", (TensorSpec("o_proj.weight", "float32", (8, 7)),), heads=2),
            2,
            "o_proj.weight has 7 columns",
        ),
    ],
)
def test_what_cannot_be_split_says_why_in_one_line(layout: Layout, ranks: int, why: str) -> None:
    with pytest.raises(WeighbridgeError, match=why) as refused:
        shares(layout, ranks)
    assert "\n" not in str(refused.value)


def test_the_bias_added_after_a_sum_stands_on_every_rank() -> None:
    assert split_axis("h.0.self_attention.dense.bias") is None
    assert split_axis("h.0.mlp.dense_h_to_4h.bias") == 0
    assert split_axis("model.layers.0.mlp.down_proj.weight") == 1


def test_a_selection_knows_the_content_of_its_pieces_shard(tmp_path: Path) -> None:
    source = layout_source(TWO_SHARDS, 0)
    assert len(source.shards) > 1
    pieces = part("eighth-rows", "two-shards", TWO_SHARDS.tensors)
    (selection,) = Store(tmp_path).selections(source, {"eighth-rows": pieces}).values()
    noted = json.loads(selection.file.read_text())
    tensors = {
        name: tensor
        for shard in range(len(source.shards))
        for name, tensor in source.make(shard).items()
    }
    cut = {piece.tensor: piece.of(tensors[piece.tensor]).contiguous() for piece in pieces}
    assert noted["checksums"] == json.loads(json.dumps(checksums(cut)))
    assert selection.bytes == noted["bytes"] == sum(tensor.nbytes for tensor in cut.values())
    assert [[piece[0] for piece in shard] for shard in noted["pieces"]] == [
        [spec.name for spec in shard if spec.name in cut] for shard in source.shards
    ]


def test_a_selection_is_noted_once_for_the_same_pieces(tmp_path: Path) -> None:
    said: list[str] = []
    store, source = Store(tmp_path, said.append), layout_source(TWO_SHARDS, 0)
    first = store.selections(source, {"x": (Piece("h.0.weight"),)})["x"]
    assert store.selections(source, {"x": (Piece("h.0.weight"),)})["x"] == first
    assert len(said) == 1
    other = store.selections(source, {"x": (Piece("h.0.weight", 0, 0, 3),)})["x"]
    assert other.file != first.file
    assert other.bytes == first.bytes // 8
