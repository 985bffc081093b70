"""Loaders that are known to be slower than they are by so many per cent, for checks that are put on
trial by a slow-down they must find.

Both clocks grow by the same share: the wait after the call is of what the call took, and the wait
after the page touch of what the page touch took. It is slept, not computed, so that no counter
moves and what finds it has found it by the clocks alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.loaders import Contract, all_loaders
from harness.records.loader_keys import key_of

if TYPE_CHECKING:
    import torch

    _Values = dict[str, torch.Tensor]
else:
    _Values = dict

PERCENTS = (2, 5, 10, 15, 25, 50, 100)
_SPUN_NS = 300_000
"""The end of a wait that is spun away: a sleep comes back late."""


class _Slowed(_Values):
    """Tensors by name, of which going through the values takes a share longer than it does."""

    share = 0.0

    def values(self) -> Iterator[torch.Tensor]:  # type: ignore[override]
        start = time.perf_counter_ns()
        yield from super().values()
        _wait(start, self.share)


def slowed_key(name: str, percent: int) -> str:
    """Return the key of a loader that brings everything up, slowed by one of `PERCENTS`."""
    return key_of(__name__, _name(name, percent))


def _slowed(loader: Contract, percent: int) -> Contract:
    def load(files: Sequence[str], device: str) -> _Values:
        start = time.perf_counter_ns()
        tensors = _Slowed(loader.load(files, device))
        tensors.share = percent / 100
        _wait(start, tensors.share)
        return tensors

    return replace(loader, name=_name(loader.name, percent), load=load)


def _wait(start: int, share: float) -> None:
    """Return once a share more than what has passed since `start` has passed."""
    now = time.perf_counter_ns()
    end = now + int((now - start) * share)
    if end - now > _SPUN_NS:
        time.sleep((end - now - _SPUN_NS) / 1e9)
    while time.perf_counter_ns() < end:
        pass


def _name(name: str, percent: int) -> str:
    return f"{name}+{percent}"


LOADERS = tuple(
    _slowed(loader, percent)
    for _, loader in all_loaders().values()
    if not loader.ceiling
    for percent in PERCENTS
)
