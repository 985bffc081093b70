"""Shares: what each rank of a tensor-parallel job holds of a checkpoint.

Matrices whose outputs are shared out are split by rows of the weight as it is stored, those whose
inputs are by columns, the vocabulary by rows; norms and the biases added after a sum stand on every
rank (Shoeybi et al. 2019, and BLOOM's inference after it).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.parts import Piece
from harness.errors import WeighbridgeError

_BY_ROWS = (
    "word_embeddings.weight",
    "query_key_value.weight",
    "query_key_value.bias",
    "dense_h_to_4h.weight",
    "dense_h_to_4h.bias",
    "embed_tokens.weight",
    "q_proj.weight",
    "k_proj.weight",
    "v_proj.weight",
    "gate_proj.weight",
    "up_proj.weight",
    "lm_head.weight",
)
_BY_COLUMNS = (
    "self_attention.dense.weight",
    "dense_4h_to_h.weight",
    "o_proj.weight",
    "down_proj.weight",
)


def shares(layout: Layout, ranks: int) -> list[tuple[Piece, ...]]:
    """Return the pieces that each rank holds, in file order.

    Together they are the whole checkpoint.

    Raises `WeighbridgeError`, in one line that says why, where the layout cannot be split into this
    many.
    """
    if layout.heads is None:
        raise WeighbridgeError(
            f"{layout.name} cannot be split over ranks: no rule is known for how its matrices are"
            " shared out"
        )
    if ranks < 1 or layout.heads % ranks:
        known = ", ".join(
            str(count) for count in range(1, layout.heads + 1) if layout.heads % count == 0
        )
        raise WeighbridgeError(
            f"{layout.name} cannot be split over {ranks} ranks: its {layout.heads} attention heads"
            f" go evenly over {known} only"
        )
    return [
        tuple(_piece(layout, tensor, rank, ranks) for tensor in layout.tensors)
        for rank in range(ranks)
    ]


def shares_by_name(layout: Layout, ranks: int) -> dict[str, tuple[Piece, ...]]:
    """Return `shares` by the names that the store keeps them under, in the order of ranks."""
    return {f"rank-{rank}-of-{ranks}": share for rank, share in enumerate(shares(layout, ranks))}


def split_axis(name: str) -> int | None:
    """Return the axis along which ranks share a tensor out, None for one that stands on each of
    them.
    """
    return 0 if name.endswith(_BY_ROWS) else 1 if name.endswith(_BY_COLUMNS) else None


def _piece(layout: Layout, tensor: TensorSpec, rank: int, ranks: int) -> Piece:
    axis = split_axis(tensor.name)
    if axis is None and len(tensor.shape) > 1:
        raise WeighbridgeError(
            f"{layout.name} cannot be split over ranks: no rule is known for its matrix"
            f" {tensor.name}"
        )
    if axis is None or ranks == 1:
        return Piece(tensor.name)
    length, rest = divmod(tensor.shape[axis], ranks)
    if rest:
        raise WeighbridgeError(
            f"{layout.name} cannot be split over {ranks} ranks: {tensor.name} has"
            f" {tensor.shape[axis]} {('rows', 'columns')[axis]}"
        )
    return Piece(tensor.name, axis, rank * length, (rank + 1) * length)


def missing(tensors: Sequence[TensorSpec], shared: Sequence[Sequence[Piece]]) -> list[str]:
    """Return the names of tensors that the shares together do not make up, each index of the axis
    held exactly once or the whole by all.
    """
    pieces: dict[str, list[Piece]] = {}
    for share in shared:
        for piece in share:
            pieces.setdefault(piece.tensor, []).append(piece)
    return [
        tensor.name
        for tensor in tensors
        if not _whole(tensor, pieces.get(tensor.name, []), len(shared))
    ]


def _whole(tensor: TensorSpec, pieces: Sequence[Piece], ranks: int) -> bool:
    if len(pieces) != ranks or len({piece.axis for piece in pieces}) != 1:
        return False
    axis = pieces[0].axis
    if axis is None:
        return True
    edges = [0, *(piece.stop for piece in pieces)]
    return [piece.start for piece in pieces] == edges[:-1] and edges[-1] == tensor.shape[axis]
