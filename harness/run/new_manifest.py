"""The manifest of a new run: the machine, its conditions and the code, as they are now."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from harness import __version__
from harness.errors import WeighbridgeError
from harness.loaders import distributions
from harness.machine.description import describe_machine, packages
from harness.machine.proof import Capability
from harness.machine.storage import storage
from harness.records.manifest import Manifest, PageCacheRecord, StorageRecord, fingerprint, now
from harness.records.sample import SCHEMA
from harness.workers.code_digest import code_digest


def new_manifest(
    run: str, options: dict[str, Any], command: Sequence[str], store: Path, capability: Capability
) -> Manifest:
    """Return the manifest of a run that begins now.

    Cells, checkpoints and environments are filled in as they come.
    """
    return {
        "schema": SCHEMA,
        "run": run,
        "version": __version__,
        "created_at": now(),
        "finished_at": None,
        "command": " ".join(_quoted(_public(argument)) for argument in command),
        "options": options,
        "seed": options["seed"],
        **conditions_here(store),
        "page_cache": msgspec.convert(asdict(capability), PageCacheRecord),
        "packages": packages(distributions()),
        "git": git_here(),
        "code": code_digest(),
        "environments": {},
        "checkpoints": {},
        "skipped": [],
        "cells": [],
        "ceilings": {},
        "host_cache": None,
    }


def _quoted(argument: str) -> str:
    """Return an argument as a shell takes it; the mark of a folder left out is no special sign."""
    plain = argument.replace("…", "")
    return argument if shlex.quote(plain) == plain else shlex.quote(argument)


def fingerprint_here(store: Path) -> dict[str, Any]:
    """Return the fingerprint of this machine, its checkpoints lying in `store`, as the manifest of
    a run taken now would have it.
    """
    return fingerprint(conditions_here(store))


def conditions_here(store: Path) -> Manifest:
    """Return what the manifest of a run taken now would tell of this machine, its checkpoints lying
    in `store`.
    """
    return {
        "machine": describe_machine(),
        "storage": msgspec.convert(asdict(storage(store)), StorageRecord),
    }


def refuse_other_conditions(recorded: Manifest, fresh: Manifest) -> None:
    """Raise `WeighbridgeError` where a run would be completed under other conditions than it began
    with.
    """
    pairs: list[tuple[str, object, object]] = [
        (f"machine {name}", recorded["machine"].get(name), fresh["machine"].get(name))
        for name in ("cpu", "cpu_model", "kernel", "cores", "memory_bytes")
    ]
    pairs.append(
        ("storage device", recorded["storage"].get("device"), fresh["storage"].get("device"))
    )
    pairs += [
        (name, recorded["packages"].get(name), fresh["packages"].get(name))
        for name in ("python", "torch", "safetensors")
    ]
    pairs.append(("version", recorded["version"], fresh["version"]))
    pairs.append(
        ("commit", (recorded["git"] or {}).get("commit"), (fresh["git"] or {}).get("commit"))
    )
    for what, then, current in pairs:
        if then != current:
            raise WeighbridgeError(
                f"--resume {recorded['run']}: it began with {what} {then}, here it is {current};"
                " start a new run"
            )


def _public(argument: str) -> str:
    """Return a command's argument with every absolute path in it cut down to its last name."""
    option, equals, value = argument.partition("=")
    if equals and Path(value).is_absolute():
        return f"{option}=…/{Path(value).name}"
    return f"…/{Path(argument).name}" if Path(argument).is_absolute() else argument


def git_here() -> dict[str, Any] | None:
    """Return {commit, dirty} of the checkout this code runs from.

    Where it is none, `WEIGHBRIDGE_COMMIT` may name the commit (whether it was changed is unknown
    then); None without it.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        named = os.environ.get("WEIGHBRIDGE_COMMIT")
        return {"commit": named, "dirty": None} if named else None
