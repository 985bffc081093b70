"""The machines of stored runs, told apart by what their manifests record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.recorded_run import RecordedRun
from harness.records.manifest import same_machine


@dataclass(frozen=True)
class Machine:
    """A machine by its number among those of a page, with its runs, oldest first."""

    short: str
    """Such as `machine 2`."""
    hardware: str
    """Such as `2-core EPYC, ext4`."""
    runs: tuple[RecordedRun, ...]

    @property
    def name(self) -> str:
        """Both, such as `machine 2: 2-core EPYC, ext4`."""
        return f"{self.short}: {self.hardware}"


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
    return [
        Machine(f"machine {number}", _hardware(group[-1].manifest), tuple(group))
        for number, group in enumerate(runs, 1)
    ]


_BRAND = re.compile(
    r"\((?:R|TM|C)\)|\bCPU\b|\bProcessor\b|\d+-Core|@.*|\b(?:AMD|Intel|Ampere|ARM)\b", re.IGNORECASE
)
"""What the name of a processor says beside its own."""


def _hardware(manifest: Mapping[str, Any]) -> str:
    """Return what a machine is in a few words: cores, processor, GPU, file system."""
    machine, storage = manifest["machine"], manifest["storage"]
    full = str(machine.get("cpu") or "unknown processor")
    processor = " ".join(_BRAND.sub(" ", full).split()) or full
    cores = machine.get("cores")
    parts = [
        f"{cores}-core {processor}" if cores else processor,
        *dict.fromkeys(map(str, machine.get("gpus") or [])),
        storage.get("file_system"),
    ]
    return ", ".join(str(part) for part in parts if part)
