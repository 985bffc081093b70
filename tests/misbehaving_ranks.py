"""Loaders of shares of which one rank does what none should, once its warm-up load is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.loaders import PartLoader, Selection, all_loaders

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

ODD_ONE = 1


def _slices(wanted: Sequence[Selection], device: str) -> Tensors:
    tensors: Tensors = all_loaders("PART_LOADERS")["safetensors-get-slice"][1].load(wanted, device)
    return tensors


def _one(name: str, misbehave: Callable[[Tensors], Tensors]) -> PartLoader:
    """Return a loader that behaves on every rank but one."""

    def load(wanted: Sequence[Selection], device: str) -> Tensors:
        import torch.distributed as ranks

        tensors = _slices(wanted, device)
        return (
            misbehave(tensors)
            if "warm-up" not in wanted[0][0] and ranks.get_rank() == ODD_ONE
            else tensors
        )

    return PartLoader(name, "safetensors", load)


def _die(_: Tensors) -> Tensors:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived its SIGKILL")


def _hang(_: Tensors) -> Tensors:
    time.sleep(600)
    raise AssertionError("a rank was left hanging")


def _raise(_: Tensors) -> Tensors:
    raise RuntimeError("this rank's disk is on fire")


def _lie(tensors: Tensors) -> Tensors:
    next(iter(tensors.values())).view(-1)[0] += 1
    return tensors


def _dawdle(tensors: Tensors) -> Tensors:
    time.sleep(0.5)
    return tensors


def _save(wanted: Sequence[Selection], device: str) -> Tensors:
    """Leave what this rank brought up beside the checkpoint, for a test to look at."""
    import torch
    import torch.distributed as ranks

    tensors = _slices(wanted, device)
    if "warm-up" not in wanted[0][0]:
        torch.save(tensors, Path(wanted[0][0]).with_name(f"seen-{ranks.get_rank()}.pt"))
    return tensors


kept: list[Any] = []


def _map_and_keep(wanted: Sequence[Selection], device: str) -> Tensors:
    """Keep the whole file mapped and every page of it touched, beside this rank's share."""
    from safetensors.torch import load_file

    from harness.workers.touch_pages import touch

    kept.append(load_file(wanted[0][0]))
    touch(kept[-1].values())
    return _slices(wanted, device)


PART_LOADERS = (
    _one("behaves", lambda tensors: tensors),
    _one("one-dies", _die),
    _one("one-hangs", _hang),
    _one("one-raises", _raise),
    _one("one-lies", _lie),
    _one("one-dawdles", _dawdle),
    PartLoader("keeps-the-mapping", "safetensors", _map_and_keep),
    PartLoader("saves", "safetensors", _save),
)
