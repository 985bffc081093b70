"""The manifest: everything a reader needs to know of where, with what and how a run was taken, and nothing that names its owner."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Manifest = dict[str, Any]


def fingerprint(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a machine the same one for a comparison of times: processor, cores, memory, kernel, GPUs and storage."""
    machine, place = manifest.get("machine") or {}, manifest.get("storage") or {}
    result = {name: machine.get(name) for name in ("cpu", "cpu_model", "cores", "memory_bytes", "kernel", "gpus")}
    return result | {f"storage {name}": place.get(name) for name in ("device", "file_system")}


def same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two manifests are of one machine, whatever was updated or booted in between; False where one does not tell.

    Its parts have to be the same, memory to the GB since kernels keep differently much, and so has the model of its processor: one name may
    stand for several generations. Where a run is too old to tell the model, nothing but the same kernel speaks for the same machine.
    """
    if not all(manifest.get(part) for manifest in (a, b) for part in ("machine", "storage")):
        return False
    mine, theirs = (fingerprint(manifest) | {"memory_bytes": _gigabytes(manifest["machine"].get("memory_bytes"))} for manifest in (a, b))
    deciding = "cpu_model" if mine["cpu_model"] and theirs["cpu_model"] else "kernel"
    return all(mine[name] == theirs[name] for name in mine if name == deciding or name not in ("cpu_model", "kernel"))


def _gigabytes(count: int | None) -> int | None:
    return None if count is None else round(count / 1e9)


def now() -> str:
    """Return the time, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
