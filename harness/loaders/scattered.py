"""One rank reads and hands every other its share, through `torch.distributed`: what loaders do that
want one reader per storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.checkpoints.parts import Piece
from harness.checkpoints.safetensors_file import DTYPES
from harness.loaders import RankLoader, Shares, own

if TYPE_CHECKING:
    import torch

    from harness.loaders import Tensors


def _scatter(shares: Shares, device: str) -> Tensors:
    """Return this rank's pieces: rank 0 maps each file and sends, tensor by tensor.

    What every rank holds whole is broadcast.
    """
    from safetensors import safe_open

    tensors = {}
    for number, (path, pieces) in enumerate(shares.selections[shares.rank]):
        with safe_open(path, framework="pt", device=device) as file:
            for place, piece in enumerate(pieces):
                source = file.get_tensor(piece.tensor) if shares.rank == 0 else None
                cuts = [selections[number][1][place] for selections in shares.selections]
                tensors[piece.tensor] = _share(source, cuts, _empty(file, piece, device))
    return tensors


def _empty(file: Any, piece: Piece, device: str) -> torch.Tensor:
    """Return memory for a piece: its shape and dtype stand in the file's header, which every rank
    reads.
    """
    import torch

    part = file.get_slice(piece.tensor)
    shape = list(part.get_shape())
    if piece.axis is not None:
        shape[piece.axis] = piece.stop - piece.start
    return torch.empty(shape, dtype=_dtype(part.get_dtype()), device=device)


def _share(source: torch.Tensor | None, cuts: list[Piece], target: torch.Tensor) -> torch.Tensor:
    import torch.distributed as ranks

    if cuts[0].axis is None:
        if source is not None:
            target.copy_(source)
        ranks.broadcast(target, 0)
    else:
        ranks.scatter(
            target, [own(cut.of(source)) for cut in cuts] if source is not None else None, 0
        )
    return target


def _dtype(name: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[name].torch or "")
    return dtype


SHARE_LOADERS = (
    RankLoader("safetensors-scatter", "safetensors", _scatter, ("torch", "safetensors")),
)
