"""Devices: what a clock waits for, what brings up a tensor where it is to be used, and what is
asked of the device around a load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from harness.machine.nvidia import state_of
from harness.workers.touch_pages import touch

if TYPE_CHECKING:
    import torch


class Device(Protocol):
    """One device, in the process that takes a sample."""

    def make_context(self) -> float | None:
        """Make what a process needs before its first use of the device.

        Return what that cost in s, None where there is no such thing.
        """

    def begin(self) -> None:
        """Note how the device stands before a load."""

    def wait(self) -> None:
        """Return once the device has done everything it was given: no clock is read before."""

    def bring_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Return once every page of every tensor is there to be used."""

    def end(self) -> dict[str, Any]:
        """Return the device's fields of a sample, after the last clock has been read."""

    def misplaced(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """Return which tensor lies elsewhere, or None."""


class Cpu:
    """The processor: nothing to wait for, and a page is there once it has been read."""

    def __init__(self, _name: str) -> None: ...

    def make_context(self) -> float | None:
        """Return None: there is no context."""
        return None

    def begin(self) -> None:
        """Note nothing."""

    def wait(self) -> None:
        """Return at once."""

    def bring_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Read one byte of every page."""
        touch(tensors)

    def end(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def misplaced(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """Return which tensor is not in the processor's memory, or None."""
        return _elsewhere(tensors, "cpu")


class Cuda:
    """An NVIDIA GPU: it works on after a call has returned, so every clock waits for it."""

    def __init__(self, name: str) -> None:
        self._name = numbered(name)
        self._state: Callable[[], dict[str, Any]] = dict
        self._before: dict[str, Any] = {}
        self._free_before = self._allocated_before = self._reserved_before = 0

    def make_context(self) -> float | None:
        """Make the device's context and return its cost in s."""
        import torch

        start = time.perf_counter_ns()
        torch.cuda.set_device(self._name)
        torch.empty(1, device=self._name)
        self.wait()
        return (time.perf_counter_ns() - start) / 1e9

    def begin(self) -> None:
        """Note clocks, what holds them back, and memory."""
        import torch

        self._state = state_of(f"GPU-{torch.cuda.get_device_properties(self._name).uuid}")
        self._before = self._state()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._name)
        self._allocated_before = torch.cuda.memory_allocated(self._name)
        self._reserved_before = torch.cuda.memory_reserved(self._name)
        self.wait()
        self._free_before = torch.cuda.mem_get_info(self._name)[0]

    def wait(self) -> None:
        """Wait for everything the device was given."""
        import torch

        torch.cuda.synchronize(self._name)

    def bring_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Wait: memory of a GPU is there when it is given."""
        self.wait()

    def end(self) -> dict[str, Any]:
        """Return the peak of device memory in bytes, the clocks, the PCI Express link, and all that
        held the clocks back before or after.

        The peak is torch's own, or what the driver has given out since where that is more: not
        every library allocates by torch. Then it is a lower bound: what such a library took and
        gave back before it returned is in neither.
        """
        import torch

        after = self._state()
        peak = torch.cuda.max_memory_allocated(self._name) - self._allocated_before
        given = self._free_before - torch.cuda.mem_get_info(self._name)[0]
        known = [
            state["throttle_reasons"]
            for state in (self._before, after)
            if state.get("throttle_reasons") is not None
        ]
        reasons = (
            sorted({reason for reasons_here in known for reason in reasons_here}) if known else None
        )
        beside_torch = given > torch.cuda.memory_reserved(self._name) - self._reserved_before
        return after | {
            "peak_device_bytes": max(peak, given),
            "peak_device_is_lower_bound": beside_torch,
            "throttle_reasons": reasons,
        }

    def misplaced(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        """Return which tensor is not on the GPU, or None."""
        return _elsewhere(tensors, "cuda")


DEVICES: dict[str, Callable[[str], Device]] = {"cpu": Cpu, "cuda": Cuda}
"""What makes a device of each kind from its name, such as `cuda:1`."""


def numbered(name: str) -> str:
    """Return the name of a device with its index: `torch.cuda.set_device` and fastsafetensors
    accept no bare `cuda`.
    """
    return "cuda:0" if name == "cuda" else name


def device_of(name: str) -> Device:
    """Return a device by name."""
    return DEVICES[name.partition(":")[0]](name)


def _elsewhere(tensors: Mapping[str, torch.Tensor], kind: str) -> str | None:
    return next(
        (
            f"{name} is on {tensor.device.type}"
            for name, tensor in tensors.items()
            if tensor.device.type != kind
        ),
        None,
    )
