"""The machines of stored runs, told apart by what their manifests record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.recorded_run import RecordedRun
from harness.records.manifest import same_machine


@dataclass(frozen=True)
class Machine:
    """A machine by a short plain name, with its runs, oldest first."""

    name: str
    runs: tuple[RecordedRun, ...]


def machines_of(evidence: Sequence[RecordedRun]) -> list[Machine]:
    """Return the machines of these runs, the one met first standing first.

    Runs that do not tell of theirs are left aside.

    Those that tell the model of their processor come first, so that an older one, which does not,
    finds the machine it belongs to.
    """
    telling = [
        recorded
        for recorded in evidence
        if recorded.manifest.get("machine") and recorded.manifest.get("storage")
    ]
    groups: list[list[RecordedRun]] = []
    for run in sorted(
        telling, key=lambda entry: entry.manifest["machine"].get("cpu_model") is None
    ):
        own = next(
            (
                group
                for group in groups
                if any(same_machine(run.manifest, other.manifest) for other in group)
            ),
            None,
        )
        if own is None:
            groups.append(own := [])
        own.append(run)
    runs = sorted(
        (sorted(group, key=telling.index) for group in groups),
        key=lambda group: telling.index(group[0]),
    )
    for name in (_short, _with_device, _with_model):
        names = [name(group[-1].manifest) for group in runs]
        if len(set(names)) == len(names):
            return [Machine(name, tuple(group)) for name, group in zip(names, runs, strict=True)]
    return [
        Machine(f"{name} (number {number})", tuple(group))
        for number, (name, group) in enumerate(zip(names, runs, strict=True), 1)
    ]


def _short(manifest: Mapping[str, Any]) -> str:
    machine, storage = manifest["machine"], manifest["storage"]
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    parts = [
        machine.get("cpu") or "unknown processor",
        f"{cores} core{'' if cores == 1 else 's'}" if cores else None,
        f"{memory / 1e9:.0f} GB" if memory else None,
        ", ".join(map(str, machine.get("gpus") or [])),
        storage.get("file_system"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _with_device(manifest: Mapping[str, Any]) -> str:
    return f"{_short(manifest)} on {manifest['storage'].get('device') or 'unknown storage'}"


def _with_model(manifest: Mapping[str, Any]) -> str:
    """Return its name with the model of the processor.

    One that was not told is told apart by its kernel, and so goes by that.
    """
    machine = manifest["machine"]
    return ", ".join(
        (_short(manifest), machine.get("cpu_model") or f"kernel {machine.get('kernel')}")
    )
