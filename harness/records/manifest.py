"""The manifest: everything a reader needs to know of where, with what and how a run was taken, and
nothing that names its owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from harness.scenarios import CacheState


class MachineRecord(TypedDict, total=False):
    """The machine: sizes in bytes, None for what it does not tell."""

    system: str
    architecture: str
    kernel: str
    hypervisor: bool | None
    cpu: str | None
    cpu_model: str | None
    cores: int
    memory_bytes: int | None
    memory_limit_bytes: int | None
    page_bytes: int
    transparent_hugepages: str | None
    proactive_reclaim: bool | None
    gpus: list[str]
    gpu_details: list[dict[str, Any]]


class StorageRecord(TypedDict, total=False):
    """Where the checkpoints lie."""

    device: str | None
    file_system: str | None
    model: str | None
    rotational: bool | None
    read_ahead_kb: int | None
    total_bytes: int | None
    free_bytes: int | None
    stack: list[str]


class PageCacheRecord(TypedDict, total=False):
    """What can be set and proved of the page cache there, and how."""

    method: str
    cold: bool
    warm: bool
    reason: str | None
    witness: str | None
    depth: str | None
    note: str | None


class CellRecord(TypedDict, total=False):
    """One cell: what it measures, and how far it came."""

    name: str
    scenario: str
    checkpoint: str
    cache_state: CacheState
    device: str
    part: str | None
    ranks: int | None
    read_ahead_kb: int | None
    storage: str
    arms: list[str]
    left_out: dict[str, str]
    status: Literal["going", "done", "refused", "cut"]
    reason: str | None
    stopped: str | None
    budget_s: float | None
    spent_s: float | None
    blocks: int
    finished_passes: int
    passes: list[Any]
    fresh: dict[str, Any]


class CheckpointRecord(TypedDict, total=False):
    """One checkpoint: the size of its tensors, and of its files by format, in bytes."""

    bytes: int
    tensors: int
    digest: str
    formats: dict[str, int]
    notes: list[str]


class EnvironmentRecord(TypedDict, total=False):
    """One installed environment: the versions in it, what it lacks and why."""

    absent: dict[str, str]
    first_calls: dict[str, float]
    versions: dict[str, str | None]
    requirements: list[str]


class CorpusRecord(TypedDict, total=False):
    """The hostile files that a run had loaders meet."""

    digest: str
    files: dict[str, dict[str, Any]]


class Manifest(TypedDict, total=False):
    """`manifest.json`: what a run records of itself once, all of it optional but the schema.

    Times are UTC, ISO 8601.
    """

    schema: int
    run: str
    version: str
    created_at: str
    finished_at: str | None
    command: str
    seed: int
    options: dict[str, Any]
    shapes: dict[str, dict[str, Any]]
    git: dict[str, Any] | None
    code: str
    packages: dict[str, str | None]
    machine: MachineRecord
    storage: StorageRecord
    page_cache: PageCacheRecord
    host_cache: dict[str, Any] | None
    read_ahead_restored: str | None
    memory_group: dict[str, str] | None
    cells: list[CellRecord]
    checkpoints: dict[str, CheckpointRecord]
    environments: dict[str, EnvironmentRecord]
    ceilings: dict[str, Any]
    skipped: list[Any]
    corpus: CorpusRecord
    loaders_under_test: dict[str, dict[str, Any]]
    hostile_limits: dict[str, int | float]
    not_checked: dict[str, str]
    not_met: dict[str, str]
    untried: dict[str, str]
    without_trials: dict[str, str]
    thresholds: dict[str, Any]
    calibration: dict[str, Any]


def fingerprint(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a machine the same one for a comparison of times: processor, cores, memory,
    kernel, GPUs and storage.
    """
    machine, place = manifest.get("machine") or {}, manifest.get("storage") or {}
    result = {
        name: machine.get(name)
        for name in ("cpu", "cpu_model", "cores", "memory_bytes", "kernel", "gpus")
    }
    return result | {f"storage {name}": place.get(name) for name in ("device", "file_system")}


def same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two manifests are of one machine, whatever was updated or booted in between.

    False where one does not tell.

    Its parts have to be the same, memory to the GB since kernels keep differently much, and so has
    the model of its processor: one name may stand for several generations. Where a run is too old
    to tell the model, nothing but the same kernel speaks for the same machine.
    """
    if not all(manifest.get(part) for manifest in (a, b) for part in ("machine", "storage")):
        return False
    mine, theirs = (
        fingerprint(manifest)
        | {"memory_bytes": _gigabytes(manifest["machine"].get("memory_bytes"))}
        for manifest in (a, b)
    )
    deciding = "cpu_model" if mine["cpu_model"] and theirs["cpu_model"] else "kernel"
    return all(
        mine[name] == theirs[name]
        for name in mine
        if name == deciding or name not in ("cpu_model", "kernel")
    )


def _gigabytes(count: int | None) -> int | None:
    return None if count is None else round(count / 1e9)


def now() -> str:
    """Return the time, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
