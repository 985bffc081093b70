"""This machine in words and figures, without anything that names its owner."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.machine.nvidia import describe_gpus
from harness.records.manifest import MachineRecord

NO_GPU = "no NVIDIA GPU: looked for /proc/driver/nvidia/gpus and /dev/nvidia0"
PACKAGES = (
    "torch",
    "safetensors",
    "numpy",
    "pytest",
    "pytest-benchmark",
    "pandas",
    "matplotlib",
    "nvidia-ml-py",
)
"""Distributions whose versions every manifest records, beside those of its loaders."""


def describe_machine() -> MachineRecord:
    """Return kernel, processor, memory (bytes) and what is known of a hypervisor, ready for JSON.

    None where the system does not tell.
    """
    cpu = _cpu()
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": cpu.get("model name") or platform.processor() or None,
        "cpu_model": _cpu_model(cpu),
        "cores": usable_cores(),
        "hypervisor": "hypervisor" in cpu.get("flags", "").split(),
        "memory_bytes": _meminfo("MemTotal") or _sysconf_memory(),
        "memory_limit_bytes": _memory_limit(),
        "page_bytes": os.sysconf("SC_PAGESIZE"),
        "proactive_reclaim": _reclaims_proactively(),
        "transparent_hugepages": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "gpus": gpus(),
        "gpu_details": describe_gpus(),
    }


def available_memory() -> int | None:
    """Return how many bytes can be had without swapping: `MemAvailable`, or the room under the
    control group's limit where that is less.
    """
    available, limit = _meminfo("MemAvailable"), _memory_limit()
    if limit is not None:
        anonymous = next(
            (
                int(line.split()[1])
                for line in _lines(Path("/sys/fs/cgroup/memory.stat"))
                if line.startswith("anon ")
            ),
            0,
        )
        available = (
            min(available, limit - anonymous) if available is not None else limit - anonymous
        )
    return available


def usable_cores() -> int:
    """Return the number of processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the model of each NVIDIA GPU whose driver is loaded, without importing torch."""
    named = [
        line.partition(":")[2].strip()
        for info in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        for line in _lines(info)
        if line.startswith("Model")
    ]
    return named or ["NVIDIA GPU" for _ in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def packages(of_loaders: Iterable[str] = ()) -> dict[str, str | None]:
    """Return the version of each of `PACKAGES` and of the loaders' distributions, None for one that
    is not installed, and Python's own.
    """
    return {"python": platform.python_version()} | {
        name: version(name) for name in dict.fromkeys((*PACKAGES, *of_loaders))
    }


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _cpu_model(cpu: Mapping[str, str]) -> str | None:
    """Return what tells a processor from others of its name: a host may call every generation the
    same.
    """
    kinds = (
        {"family": "cpu family", "model": "model", "stepping": "stepping"},
        {
            "implementer": "CPU implementer",
            "part": "CPU part",
            "variant": "CPU variant",
            "revision": "CPU revision",
        },
    )
    return next(
        (
            ", ".join(f"{name} {cpu[field]}" for name, field in kind.items())
            for kind in kinds
            if set(kind.values()) <= set(cpu)
        ),
        None,
    )


def _meminfo(field: str) -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _sysconf_memory() -> int | None:
    return (
        os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") if sys.platform != "win32" else None
    )


def _memory_limit() -> int | None:
    text = "".join(_lines(Path("/sys/fs/cgroup/memory.max"))).strip()
    return int(text) if text.isdigit() else None


def _reclaims_proactively() -> bool | None:
    """Return whether the kernel pages out what has not been used for a while, though memory is free
    (DAMON); None where that is unknown.
    """
    module = "".join(_lines(Path("/sys/module/damon_reclaim/parameters/enabled"))).strip()
    admin = Path("/sys/kernel/mm/damon/admin/kdamonds")
    if not admin.is_dir() and not module:
        return None
    running = [kdamond for kdamond in admin.glob("[0-9]*") if _lines(kdamond / "state") == ["on"]]
    return module == "Y" or any(
        _lines(action) == ["pageout"]
        for path in running
        for action in path.glob("contexts/*/schemes/*/action")
    )


def _chosen(path: Path) -> str | None:
    """Return the bracketed word of a sysfs choice such as `always [madvise] never`."""
    _, _, rest = "".join(_lines(path)).partition("[")
    return rest.partition("]")[0] or None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
