"""Devices: no clock is read before the device is done, and what only a GPU can tell is told where
there is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch.cuda._utils import _get_device_index

from harness.checkpoints.checksum import checksums
from harness.loaders import KINDS, Loader, all_loaders
from harness.machine import nvidia
from harness.workers import device
from harness.workers.client import CLEAN_FORK, LOCAL_ONLY
from harness.workers.device import Cpu, Cuda, device_of
from harness.workers.load_sample import Task, first_call, take

pytestmark = pytest.mark.slow

LATE_S = 0.25
TENSORS = {"w": torch.arange(1000, dtype=torch.float32)}


class Late(Cpu):
    """A device that goes on copying after the call that asked it to has returned, as a GPU does."""

    copies: ClassVar[list[threading.Thread]] = []

    def wait(self) -> None:
        while self.copies:
            self.copies.pop().join()

    def bring_up(self, tensors: Iterable[torch.Tensor]) -> None:
        self.wait()

    def misplaced(self, tensors: Mapping[str, torch.Tensor]) -> str | None:
        return None


class Unwaited(Late):
    """The same, by a harness that forgets to wait."""

    def wait(self) -> None: ...


def _copy_late(asked: Any, _device: str) -> dict[str, torch.Tensor]:
    target = {"w": torch.zeros(1000)}
    if asked == "warm_up":
        return target

    def copy() -> None:
        time.sleep(LATE_S)
        target["w"].copy_(TENSORS["w"])

    thread = threading.Thread(target=copy)
    Late.copies.append(thread)
    thread.start()
    return target


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(device.DEVICES, "late", Late)
    monkeypatch.setitem(device.DEVICES, "unwaited", Unwaited)
    yield
    Late("").wait()


def _sample(name: str) -> dict[str, Any]:
    return take(
        Task(
            Loader("late", "safetensors", _copy_late),
            "checkpoint",
            "warm_up",
            name,
            checksums(TENSORS),
            0,
        )
    )


def test_the_clock_waits_for_a_device_whose_copy_finishes_late(devices: None) -> None:
    taken = _sample("late")
    assert LATE_S <= taken["returned_s"] <= taken["ready_s"] < LATE_S + 0.1
    assert taken["content_ok"]


def test_a_clock_that_does_not_wait_would_be_told_by_its_time(
    devices: None,
) -> None:
    """So the test above can fail."""
    taken = _sample("unwaited")
    assert taken["ready_s"] < LATE_S / 2
    assert taken["wrong"] == "w of other bytes"


def test_what_an_earlier_load_left_is_not_the_next_ones(
    devices: None,
) -> None:
    thread = threading.Thread(target=time.sleep, args=(LATE_S,))
    Late.copies.append(thread)
    thread.start()
    at_once = Loader("at-once", "safetensors", lambda *_: dict(TENSORS))
    taken = take(Task(at_once, "checkpoint", "warm_up", "late", checksums(TENSORS), 0))
    assert taken["returned_s"] < LATE_S / 2


def test_tensors_left_on_the_processor_are_misplaced() -> None:
    assert Cuda("cuda").misplaced(TENSORS) == "w is on cpu"
    assert device_of("cpu").misplaced(TENSORS) is None
    assert device_of("cpu").misplaced({"w": torch.empty(1, device="meta")}) == "w is on meta"


def test_a_device_is_found_by_its_kind_whatever_its_number() -> None:
    assert isinstance(device_of("cuda:3"), Cuda)
    with pytest.raises(KeyError):
        device_of("abacus")


class Binding(SimpleNamespace):
    """NVIDIA's binding as far as it is asked, with one GPU whose driver does not tell the memory's
    clock.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    mask = 1

    def nvmlInit(self) -> None: ...  # noqa: N802  # the binding's own names, here and below

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-1"
        return uuid

    def nvmlDeviceGetClockInfo(self, _handle: str, kind: int) -> int:  # noqa: N802
        if kind == self.NVML_CLOCK_MEM:
            raise RuntimeError("not supported")
        return 1980

    def nvmlDeviceGetCurrPcieLinkGeneration(self, _handle: str) -> int:  # noqa: N802
        return 4

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: str) -> int:  # noqa: N802
        return self.mask


def test_a_gpu_s_state_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"GpuIdle": 1, "SyncBoost": 16, "HwThermalSlowdown": 64}
    binding = Binding(**{f"nvmlClocksThrottleReason{name}": bit for name, bit in names.items()})
    monkeypatch.setattr(nvidia, "_nvml", lambda: binding)
    read = nvidia.state_of("GPU-1")
    link = {"pcie_generation": 4, "pcie_lanes": None}
    assert read() == {
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": None,
        "throttle_reasons": [],
        **link,
    }
    binding.mask = 1 | 16 | 64
    assert read()["throttle_reasons"] == ["sync boost", "hardware thermal slowdown"]


def test_every_reason_that_spoils_a_sample_is_one_the_binding() -> None:
    pynvml = pytest.importorskip("pynvml")
    assert set(nvidia.THROTTLED) <= set(nvidia._REASONS.values())
    for name, word in nvidia._REASONS.items():
        mask = getattr(pynvml, f"nvmlClocksThrottleReason{name}")
        assert nvidia.in_words(pynvml, mask) == ([] if word == "idle" else [word])


def test_without_a_binding_or_a_gpu_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_nvml", lambda: None)
    assert nvidia.describe_gpus() == []
    assert set(nvidia.state_of("GPU-1")().values()) == {None}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_is_waited_for_and_tells_its_memory_and_clocks() -> None:
    pytest.importorskip("pynvml")
    gpu = Cuda("cuda")
    assert (gpu.make_context() or 0) > 0
    gpu.begin()
    held = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    torch.cuda._sleep(200_000_000)
    start = time.perf_counter()
    gpu.wait()
    assert time.perf_counter() - start > 0.05
    told = gpu.end()
    assert told["peak_device_bytes"] >= held.nbytes
    assert told["sm_clock_mhz"] > 0
    assert gpu.misplaced({"w": held}) is None


def test_every_device_that_a_loader_is_given_has_a_number() -> None:
    """`torch.cuda.set_device` and fastsafetensors raise for a bare `cuda`."""
    names: list[str] = []

    def load(_asked: Any, device: str) -> dict[str, torch.Tensor]:
        names.append(device)
        return TENSORS

    loader = Loader("records-its-device", "safetensors", load, devices=("cuda",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(device.DEVICES, "cuda", Cpu)
        take(Task(loader, "files", "warm_up", "cuda", checksums(TENSORS), 0))
        first_call(loader, "warm_up")
    assert len(names) == 3
    assert {_get_device_index(name) for name in names} == {0}
    assert Cuda("cuda")._name == "cuda:0"


_IMPORTS = """
import importlib, os, sys
os.environ.update({environment!r})
import torch
counted = []
torch._C._cuda_getDeviceCount = lambda: counted.append(1) or 0
torch._C._cuda_getCurrentRawStream = lambda *_: 0
torch.cuda._is_compiled = lambda: True
torch.cuda._device_count_nvml = lambda: 1
for package in {packages!r}:
    try:
        importlib.import_module(package)
    except ImportError:
        pass
if "diffusers" in sys.modules:
    # both are imported when they are named
    sys.modules["diffusers"].StableDiffusionPipeline, sys.modules["transformers"].GPT2Model
torch.cuda.is_available()  # what diffusers asks where torch is built for CUDA
print("asked the CUDA runtime", len(counted), "times")
"""


@pytest.mark.parametrize("clean", [True, False])
def test_importing_what_loaders_require_leaves_cuda_alone(clean: bool) -> None:
    """A worker that has asked the CUDA runtime anything cannot fork a child that uses the GPU.

    Without the variable, asking whether there is one does.
    """

    packages = sorted(
        {
            package
            for kind in KINDS
            for _, found in all_loaders(kind).values()
            for package in found.requires
        }
    )
    program = _IMPORTS.format(
        environment={**LOCAL_ONLY, **(CLEAN_FORK if clean else {})}, packages=packages
    )
    without = {name: value for name, value in os.environ.items() if name not in CLEAN_FORK}
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=without
    ).stdout
    asked = int(told.split()[-2])
    assert asked == (0 if clean else 1)
