"""`weighbridge doctor`: what this machine can do, in lines a person reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from harness.checkpoints.store_location import default_store
from harness.console import say
from harness.errors import WeighbridgeError
from harness.loaders import (
    CONVERTER,
    EVERYTHING,
    MODEL,
    PART,
    SCANNER,
    SHARE,
    all_loaders,
    distributions,
)
from harness.machine import memory_group, shape_mount, throttle
from harness.machine.description import NO_GPU, available_memory, describe_machine, packages
from harness.machine.proof import Capability, capability
from harness.machine.read_ahead import setting_refused
from harness.machine.storage import storage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="the folder whose storage is examined (default: where checkpoints are kept)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the examination and return 0; raises `WeighbridgeError`."""
    say(examine(arguments.store))
    return 0


def examine(store: Path | None) -> str:
    """Return the examination of this machine and of the storage under `store`, one fact a line.

    Raises `WeighbridgeError` for a bad folder.
    """
    folder = store or default_store()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeighbridgeError(
            f"--store {folder}: cannot be written to ({error.strerror}); name a folder you may"
            " write to"
        ) from None
    able = capability(folder)
    return "\n".join(
        f"{name:<12}{text}"
        for name, text in (
            *_cache_states(able),
            *_machine(),
            *_storage(folder),
            *_shapes(folder),
            *_packages(),
            *_loaders(),
        )
    )


def _cache_states(able: Capability) -> Iterator[tuple[str, str]]:
    call = (
        f"fsync and posix_fadvise(DONTNEED), proved by {able.method}"
        if able.method
        else "the resident pages cannot be read"
    )
    seen = f"; {able.witness} during a load tell that it read" if able.witness else ""
    depth = f" {able.depth}" if able.depth else ""
    note = f" ({able.note})" if able.note else ""
    yield "cold", f"yes{depth}: {call}{seen}{note}" if able.cold else f"no: {able.reason}"
    yield (
        "warm",
        (f"yes: read through, proved by {able.method}" if able.warm else f"no: {able.reason}"),
    )


def _shapes(folder: Path) -> Iterator[tuple[str, str]]:
    delayed, limited = shape_mount.refused(), throttle.refused(folder)
    yield "shaped", f"by latency, no: {delayed}" if delayed else "by latency, yes: FUSE"
    yield (
        "",
        f"by requests a second, no: {limited}"
        if limited
        else "by requests a second, yes: a control group",
    )
    bounded, reason = memory_group.description(), memory_group.refused()
    yield (
        "limited",
        f"memory, yes: {bounded['limit']} of cgroup {bounded['version']}"
        if bounded
        else f"memory, no: {reason}",
    )


def _machine() -> Iterator[tuple[str, str]]:
    machine = describe_machine()
    virtual = (
        " (a virtual machine: the host may cache what is cold here)"
        if machine["hypervisor"]
        else ""
    )
    yield "kernel", f"{machine['system']} {machine['kernel']} {machine['architecture']}{virtual}"
    model = f" ({machine['cpu_model']})" if machine["cpu_model"] else ""
    yield "processor", f"{machine['cpu']}{model}, {machine['cores']} cores"
    available = available_memory()
    limit = machine["memory_limit_bytes"]
    room = f", {available / 1e9:.1f} GB available" if available is not None else ""
    bound = f", limited to {limit / 1e9:.1f} GB by the control group" if limit else ""
    size = machine["memory_bytes"]
    there = "not told" if size is None else f"{size / 1e9:.1f} GB"
    yield "memory", f"{there}{room}{bound}"
    if machine["proactive_reclaim"]:
        yield (
            "reclaim",
            (
                "on: idle memory is paged out although memory is free; warm files are locked"
                " where this is allowed"
            ),
        )
    yield "GPU", ", ".join(machine["gpus"]) or NO_GPU


def _storage(folder: Path) -> Iterator[tuple[str, str]]:
    device = storage(folder)
    kind = {True: ", reported as rotational", False: ", reported as solid state", None: ""}[
        device.rotational
    ]
    settable = "you cannot set it" if setting_refused(folder) else "can be set"
    ahead = (
        f", readahead {device.read_ahead_kb} KiB ({settable})"
        if device.read_ahead_kb is not None
        else ""
    )
    yield "store", str(folder)
    yield (
        "storage",
        (
            f"{device.file_system or 'unknown file system'} on"
            f" {device.device or 'unknown device'}{kind}{ahead}, {device.free_bytes / 1e9:.0f} GB"
            " free"
        ),
    )


def _packages() -> Iterator[tuple[str, str]]:
    yield (
        "packages",
        ", ".join(
            f"{name} {version or 'not installed'}"
            for name, version in packages(distributions()).items()
        ),
    )


def _loaders() -> Iterator[tuple[str, str]]:
    kinds = {
        EVERYTHING: "everything",
        MODEL: "a model",
        PART: "a part",
        SHARE: "shares over ranks",
        CONVERTER: "another file",
        SCANNER: "a scan",
    }
    able: dict[str, list[str]] = {}
    known = {}
    for kind, words in kinds.items():
        for name, (_, loader) in all_loaders(kind).items():
            able.setdefault(name, []).append(words)
            known[name] = loader
    width = max(map(len, known)) + 2
    for number, (name, loader) in enumerate(known.items()):
        absent = loader.absence()
        reads = f"yes, reads {loader.format}: {', '.join(able[name])}"
        yield (
            ("loaders" if number == 0 else ""),
            f"{name:<{width}}{f'no: {absent}' if absent else reads}",
        )
