"""The conditions of a run: machine, storage, page cache, environments, and the run's own
settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.recorded_run import RecordedRun
from harness.records.sample import Sample
from harness.report.format import busy_line, size_text
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown

UNKNOWN = "unknown"


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the section about the machine."""
    return [writer.heading("The machine"), markdown(conditions_table(run.manifest, run.samples))]


def conditions_table(manifest: Mapping[str, Any], samples: Sequence[Sample] = ()) -> pd.DataFrame:
    """Return the conditions a run's figures hold under, a row each: what, and what was found."""
    machine, storage = _part(manifest, "machine"), _part(manifest, "storage")
    rows = [
        ("system", _joined(machine.get(name) for name in ("system", "kernel", "architecture"))),
        ("processor", _processor(machine)),
        ("memory", _memory(machine)),
        ("GPU", "; ".join(_gpu(name, entry) for name, entry in _gpus(machine)) or "none"),
        ("storage", _storage(storage)),
        ("readahead", _read_ahead(manifest, storage)),
        ("cold", _provable(manifest, "cold")),
        ("warm", _provable(manifest, "warm")),
        ("host cache", _host_cache(manifest)),
        *([("other work", busy)] if (busy := busy_line(manifest, samples)) else []),
        *_environments(manifest),
        ("run", _run(manifest)),
    ]
    return pd.DataFrame(rows, columns=["condition", "found"])


def _part(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return manifest.get(name) or {}


def _joined(values: Iterable[Any], separator: str = " ") -> str:
    return separator.join(str(value) for value in values if value not in (None, "")) or UNKNOWN


def _processor(machine: Mapping[str, Any]) -> str:
    named = _joined(
        [machine.get("cpu"), f"({machine['cpu_model']})" if machine.get("cpu_model") else None]
    )
    return _joined(
        [named, _counted(machine.get("cores"), "core"), _virtual(machine.get("hypervisor"))], ", "
    )


def _counted(number: int | None, what: str) -> str | None:
    return None if number is None else f"{number} {what}{'' if number == 1 else 's'}"


def _virtual(hypervisor: bool | None) -> str | None:
    return "under a hypervisor" if hypervisor else None


def _memory(machine: Mapping[str, Any]) -> str:
    limit, page = machine.get("memory_limit_bytes"), machine.get("page_bytes")
    return _joined(
        [
            size_text(machine["memory_bytes"]) if machine.get("memory_bytes") else UNKNOWN,
            f"limited to {size_text(limit)}" if limit else None,
            f"pages of {page} bytes" if page else None,
            (
                f"transparent huge pages: {machine['transparent_hugepages']}"
                if machine.get("transparent_hugepages")
                else None
            ),
            (
                "the kernel reclaims memory that is idle for seconds"
                if machine.get("proactive_reclaim")
                else None
            ),
        ],
        ", ",
    )


def _gpus(machine: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return each GPU's name, and what its driver told of it."""
    names, details = machine.get("gpus") or [], machine.get("gpu_details") or []
    return (
        (name, details[number] if number < len(details) else {})
        for number, name in enumerate(names)
    )


def _gpu(name: Any, entry: Mapping[str, Any]) -> str:
    link = (
        f"PCI Express {entry['pci_express_generation']} x{entry.get('pci_express_lanes')} at most"
        if entry.get("pci_express_generation")
        else None
    )
    driver = f"driver {entry['driver']}" if entry.get("driver") else None
    memory = size_text(entry["memory_bytes"]) if entry.get("memory_bytes") else None
    at_rest = entry.get("throttle_reasons_at_rest")
    throttled = (
        "throttle reasons that are also present at idle, so they invalidate no sample: "
        f"{', '.join(at_rest)}"
        if at_rest
        else None
    )
    return _joined([entry.get("name") or name, memory, link, driver, throttled], ", ")


def _storage(storage: Mapping[str, Any]) -> str:
    # None is no kind
    rotational = storage.get("rotational")
    kind = None if rotational is None else "rotational" if rotational else "not rotational"
    on = " on ".join(str(storage[name]) for name in ("file_system", "device") if storage.get(name))
    total = (
        f"{size_text(storage['total_bytes'])}, {size_text(storage.get('free_bytes'))} free"
        if storage.get("total_bytes")
        else None
    )
    return _joined([on, storage.get("model"), kind, total], ", ")


def _read_ahead(manifest: Mapping[str, Any], storage: Mapping[str, Any]) -> str:
    reason = UNKNOWN if storage.get("read_ahead_kb") is None else f"{storage['read_ahead_kb']} KiB"
    return _joined([reason, manifest.get("read_ahead_restored")], "; ")


def _provable(manifest: Mapping[str, Any], state: str) -> str:
    entry = _part(manifest, "page_cache")
    if entry.get(state) is None:
        return UNKNOWN
    if entry[state]:
        return f"can be set and proved, by `{entry.get('method') or UNKNOWN}`"
    return f"cannot be proved: {entry.get('reason') or 'no reason recorded'}"


def _host_cache(manifest: Mapping[str, Any]) -> str:
    entry = _part(manifest, "host_cache")
    if entry.get("likely") is None:
        return "not looked for"
    return _joined(["likely" if entry["likely"] else "no sign of one", entry.get("note")], ": ")


def _environments(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for label, environment in sorted(_part(manifest, "environments").items()):
        versions = {"python": environment.get("python"), "torch": environment.get("torch")} | (
            environment.get("versions") or {}
        )
        rows.append(
            (
                f"environment {label}",
                _joined(
                    (f"{name} {version}" for name, version in versions.items() if version), ", "
                ),
            )
        )
    return rows


def _run(manifest: Mapping[str, Any]) -> str:
    git, options = _part(manifest, "git"), _part(manifest, "options")
    commit = (
        f"commit {str(git['commit'])[:12]}{' with changes' if git.get('dirty') else ''}"
        if git.get("commit")
        else None
    )
    return _joined(
        [
            f"weighbridge {manifest['version']}" if manifest.get("version") else None,
            commit,
            f"profile {options['profile']}" if options.get("profile") else None,
            f"seed {manifest['seed']}" if manifest.get("seed") is not None else None,
            f"begun {manifest['created_at']}" if manifest.get("created_at") else None,
            (
                f"finished {manifest['finished_at']}"
                if manifest.get("finished_at")
                else "not finished: the figures cover only the samples taken so far"
            ),
        ],
        ", ",
    )
