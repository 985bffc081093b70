"""Loaders that do what no loader should, once their warm-up load is over: each must end as an
invalid sample with its own reason.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.loaders import Loader
from harness.selftest.faulty_loaders import faulty, load_file

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

loads_in_this_process = 0
leaked: list[bytearray] = []


def _then(name: str, misbehave: Callable[[Tensors], Tensors]) -> Loader:
    """Return a loader that behaves on the warm-up load and misbehaves on the checkpoint."""
    return faulty(name, lambda file: misbehave(load_file(file)))


class _Busy(Loader):
    def ready_to_load(self, target: Sequence[str], device: str) -> Callable[[], Tensors]:
        tensors = {name: tensor.clone() for name, tensor in load_file(target[0]).items()}

        def load() -> Tensors:
            self.load(target, device)
            return tensors

        return load


def _busy(name: str, seconds: float) -> Loader:
    """Return a loader that is known to take this long: it brings its tensors up beforehand and then
    only waits.
    """

    def load(files: Sequence[str], _device: str) -> None:
        end = time.perf_counter_ns() + (0 if "warm-up" in files[0] else int(seconds * 1e9))
        while time.perf_counter_ns() < end:
            pass

    return _Busy(name, "safetensors", load)


def _exit(_: Tensors) -> Tensors:
    os._exit(3)


def _die(_: Tensors) -> Tensors:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)
    raise AssertionError("a process outlived its SIGSEGV")


def _hang(_: Tensors) -> Tensors:
    while True:
        time.sleep(60)


def _raise(_: Tensors) -> Tensors:
    raise RuntimeError("no such tensor in this file")


def _raise_a_path(_: Tensors) -> Tensors:
    raise FileNotFoundError(2, "No such file or directory", "/home/somebody/weights/secret.bin")


def _change_one_byte(tensors: Tensors) -> Tensors:
    import torch

    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    changed[max(changed)].view(torch.uint8).view(-1)[-1] ^= 1
    return changed


def _to_another_dtype(tensors: Tensors) -> Tensors:
    import torch

    return {
        name: tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor
        for name, tensor in tensors.items()
    }


def _flatten(tensors: Tensors) -> Tensors:
    return {name: tensor.reshape(-1) for name, tensor in tensors.items()}


def _rename(tensors: Tensors) -> Tensors:
    return {f"{name}.": tensor for name, tensor in tensors.items()}


def _kill_the_server(tensors: Tensors) -> Tensors:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return tensors


def _count(tensors: Tensors) -> Tensors:
    """Misbehave in every process but a fresh one: a second load in the same process would raise."""
    global loads_in_this_process
    loads_in_this_process += 1
    if loads_in_this_process > 1:
        raise RuntimeError("this process has loaded before")
    return tensors


def _chatter(tensors: Tensors) -> Tensors:
    print('{"failure": "raised"}', flush=True)
    return tensors


def _leak(tensors: Tensors) -> Tensors:
    """Keep as much again as the tensors, for as long as the process lives."""
    leaked.append(bytearray(b"\1") * sum(tensor.nbytes for tensor in tensors.values()))
    return tensors


def _burst(tensors: Tensors) -> Tensors:
    """Need half as much as the tensors for 5 ms, and give it back."""
    scratch = mmap.mmap(-1, sum(tensor.nbytes for tensor in tensors.values()) // 2)
    scratch[:: mmap.PAGESIZE] = bytes(-(-len(scratch) // mmap.PAGESIZE))
    time.sleep(0.005)
    scratch.close()
    return tensors


LOADERS = (
    _busy("busy-10-ms", 0.010),
    _busy("busy-100-ms", 0.100),
    _busy("busy-1000-ms", 1.000),
    _then("behaves", lambda tensors: tensors),
    _then("exits", _exit),
    _then("dies", _die),
    _then("hangs", _hang),
    _then("raises", _raise),
    _then("raises-a-path", _raise_a_path),
    _then("wrong-byte", _change_one_byte),
    _then("wrong-name", _rename),
    _then("wrong-dtype", _to_another_dtype),
    _then("wrong-shape", _flatten),
    _then("loses-a-tensor", lambda tensors: dict(list(tensors.items())[1:])),
    _then("adds-a-tensor", lambda tensors: tensors | {"added": next(iter(tensors.values()))}),
    _then("kills-server", _kill_the_server),
    _then("wants-a-fresh-process", _count),
    _then("chatters", _chatter),
    _then("leaks", _leak),
    _then("bursts", _burst),
)
