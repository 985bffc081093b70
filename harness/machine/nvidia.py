"""NVIDIA GPUs as NVIDIA's own Python binding (`nvidia-ml-py`) tells of them.

Nothing is told where it or the driver is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_REASONS = {
    "GpuIdle": "idle",
    "ApplicationsClocksSetting": "applications clocks set",
    "SwPowerCap": "software power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "software thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "hardware power brake",
    "DisplayClockSetting": "display clocks set",
}
"""The binding's names of what holds clocks back, in words."""

THROTTLED = (
    "software power cap",
    "hardware slowdown",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "hardware power brake",
)
"""Those of them that make a GPU slower than it is asked to be."""


STATE = ("sm_clock_mhz", "memory_clock_mhz", "pcie_generation", "pcie_lanes", "throttle_reasons")
"""What can be read of a GPU while it is used."""


def describe_gpus() -> list[dict[str, Any]]:
    """Return what each GPU is, ready for JSON: name, driver, memory in bytes, PCI Express
    generation and lanes and clocks (MHz) at most.

    `throttle_reasons_at_rest` are those it gives now: asked before anything is loaded, they say
    what it always reports.

    Empty where there is no GPU, no driver or no binding.
    """
    nvml = _nvml()
    if nvml is None:
        return []
    return [
        _described(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
        for index in range(nvml.nvmlDeviceGetCount())
    ]


def state_of(uuid: str) -> Callable[[], dict[str, Any]]:
    """Return what reads a GPU's state: `STATE`, each None where the system does not tell."""
    nvml = _nvml()
    handle = nvml and _told(
        lambda: nvml.nvmlDeviceGetHandleByUUID(uuid.encode() if _old(nvml) else uuid)
    )
    if nvml is None or handle is None:
        return lambda: dict.fromkeys(STATE)
    return lambda: {
        "sm_clock_mhz": _told(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        "memory_clock_mhz": _told(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
        "pcie_generation": _told(lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)),
        "pcie_lanes": _told(lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
        "throttle_reasons": _throttle_reasons(nvml, handle),
    }


def _throttle_reasons(nvml: Any, handle: Any) -> list[str] | None:
    reasons: list[str] | None = _told(
        lambda: in_words(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    )
    return reasons


def in_words(nvml: Any, mask: int) -> list[str]:
    """Return the words of a mask of what holds clocks back, what only says that the GPU rests left
    out.
    """
    words = [
        word
        for name, word in _REASONS.items()
        if mask & getattr(nvml, f"nvmlClocksThrottleReason{name}", 0)
    ]
    return [word for word in words if word != "idle"]


def _nvml() -> Any:
    """Return the binding, ready, or None."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the binding, its library or the driver is missing: there is nothing to ask
        return None
    return pynvml


def _described(nvml: Any, handle: Any) -> dict[str, Any]:
    return {
        "name": _told(lambda: _text(nvml.nvmlDeviceGetName(handle))),
        "driver": _told(lambda: _text(nvml.nvmlSystemGetDriverVersion())),
        "memory_bytes": _told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total),
        "pci_express_generation": _told(lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
        "pci_express_lanes": _told(lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
        "sm_clock_most_mhz": _told(
            lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
        ),
        "memory_clock_most_mhz": _told(
            lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        ),
        "throttle_reasons_at_rest": [
            reason for reason in _throttle_reasons(nvml, handle) or () if reason in THROTTLED
        ],
    }


def _told(ask: Callable[[], Any]) -> Any:
    """Return the answer, None where the driver has none."""
    try:
        return ask()
    except Exception:  # the binding raises a class of its own for each kind of silence
        return None


def _text(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text


def _old(nvml: Any) -> bool:
    """Return whether the binding is of the time when it took bytes."""
    return isinstance(_told(nvml.nvmlSystemGetDriverVersion), bytes)
