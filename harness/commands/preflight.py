"""`weighbridge preflight`: does every loader work here at all? Each loads the tiny checkpoint once,
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints.store import Store
from harness.checkpoints.store_location import default_store
from harness.console import say
from harness.errors import WeighbridgeError
from harness.loaders import DEVICES, EVERYTHING, MODEL, Contract, all_formats, all_loaders
from harness.machine.description import NO_GPU, gpus
from harness.machine.lock import only_run
from harness.records.loader_keys import key_of
from harness.report.format import megabytes, significant
from harness.workers.client import under_test
from harness.workers.preflight_load import PreflightResult
from harness.workers.protocol import ROOT

TOTAL_S, LOAD_S, IMPORT_S = 85.0, 15.0, 30.0
"""Time limits, in seconds: the whole command, one load, and the imports before it."""
FORMATS = {"pickle": "torch-load", "safetensors": "safetensors-load-file"}
"""The loader that stands for each format: if neither works there is nothing to measure."""
TRACEBACKS = "preflight-tracebacks.txt"
_WORDS = 110


@dataclass(frozen=True)
class Trial:
    """What came of one loader's load; times in s, None where it was not taken."""

    loader: str
    status: str
    words: str
    first_call_s: float | None = None
    context_s: float | None = None
    device_bytes: int | None = None
    traceback: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `preflight` may be asked."""
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="where to load to (default: cuda where there is a GPU, cpu otherwise)",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where checkpoints are kept (default: the store of all runs)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where the file of tracebacks is written (default: results)",
    )
    parser.add_argument(
        "--formats-only",
        action="store_true",
        help="fail only if neither format loads, as before a run",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the table; return 0 where all loaders are ok or absent, 1 where one failed.

    Raises `WeighbridgeError`.
    """
    device = arguments.device or ("cuda" if gpus() else "cpu")
    if device == "cuda" and not gpus():
        raise WeighbridgeError(f"--device cuda: {NO_GPU}; ask for --device cpu")
    with only_run(arguments.results.resolve()):
        trials = list(try_loaders(device, arguments.store or default_store()))
    for line in table(trials):
        say(line)
    raised = [trial for trial in trials if trial.traceback]
    if raised:
        path = arguments.results / TRACEBACKS
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "\n".join(f"=== {trial.loader}\n{trial.traceback}" for trial in raised),
                encoding="utf-8",
            )
        except OSError as error:
            raise WeighbridgeError(
                f"--results {arguments.results}: cannot be written to ({error.strerror})"
            ) from None
        say(f"tracebacks: {path}")
    working = {trial.loader for trial in trials if trial.status == PreflightResult.OK}
    if not working & set(FORMATS.values()):
        say(f"Neither format loads on {device}: there is nothing to measure here.")
        return 1
    return (
        1
        if not arguments.formats_only
        and any(trial.status == PreflightResult.FAILED for trial in trials)
        else 0
    )


def try_loaders(device: str, store: Path) -> Iterator[Trial]:
    """Yield what comes of each loader that a device has, ceilings aside.

    Those that the time does not reach have failed, and say so.
    """
    loaders = {
        key_of(module, name, kind): (name, loader)
        for kind in (EVERYTHING, MODEL)
        for name, (module, loader) in all_loaders(kind).items()
        if device in loader.devices and not loader.ceiling
    }
    deadline = time.monotonic() + TOTAL_S
    parameters, missing = _checkpoints(store, loaders)
    for key, words in missing.items():
        yield Trial(loaders[key][0], PreflightResult.ABSENT, words)
    request = {
        "device": device,
        "loaders": parameters,
        "timeout_s": LOAD_S,
        "import_timeout_s": IMPORT_S,
    }
    answered = set()
    for answer in _answers(request, deadline):
        key = answer.pop("loader")
        answered.add(key)
        yield Trial(loaders[key][0], **answer)
    for key in sorted(parameters.keys() - answered):
        yield Trial(
            loaders[key][0],
            PreflightResult.FAILED,
            f"not tried: {TOTAL_S:.0f} s were over, or the process that tries them died",
        )


def _checkpoints(
    folder: Path, loaders: dict[str, tuple[str, Contract]]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return for each loader its files and the file of their checksums, and why the others have
    none.
    """
    store = Store(folder, lambda _: None, all_formats())
    parameters: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    tiny = store.warm_up(sorted({loader.format for _, loader in loaders.values()}))
    for key, (_, loader) in loaders.items():
        if loader.format not in tiny:
            missing[key] = (
                loader.absence() or f"no checkpoint in the format {loader.format} can be made here"
            )
            continue
        files = tiny[loader.format]
        sums = next(
            parent / "checksums.json"
            for parent in files[0].parents
            if (parent / "checksums.json").is_file()
        )
        parameters[key] = {"files": [str(file) for file in files], "expected": str(sums)}
    return parameters, missing


def _answers(request: dict[str, Any], deadline: float) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.workers.preflight_load", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=under_test(),
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        text = b""
        while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return
            *lines, text = (text + piece).split(b"\n")
            yield from map(json.loads, lines)
    except BrokenPipeError:
        return
    finally:
        process.kill()  # the processes it forked are tied to it
        process.communicate()


def table(trials: Sequence[Trial]) -> list[str]:
    """Return the lines of the table: failed loaders first, then those that work, then the
    absent.
    """
    order = (PreflightResult.FAILED, PreflightResult.OK, PreflightResult.ABSENT)
    width = max((len(trial.loader) for trial in trials), default=0)
    lines = [f"{'loader':<{width}}  status  first call  context  device MB  words"]
    for trial in sorted(trials, key=lambda trial: order.index(trial.status)):
        first = (
            f"{significant(1e3 * trial.first_call_s)} ms" if trial.first_call_s is not None else "-"
        )
        context = f"{significant(trial.context_s)} s" if trial.context_s is not None else "-"
        memory = megabytes(trial.device_bytes) if trial.device_bytes is not None else "-"
        words = " ".join(trial.words.split())
        words = words if len(words) <= _WORDS else f"{words[: _WORDS - 1]}…"
        lines.append(
            f"{trial.loader:<{width}}  {trial.status:<6}  {first:>10}  {context:>7}  {memory:>9} "
            f" {words}".rstrip()
        )
    counts = {
        status: sum(trial.status == status for trial in trials)
        for status in (PreflightResult.OK, PreflightResult.FAILED, PreflightResult.ABSENT)
    }
    return [*lines, ", ".join(f"{count} {status}" for status, count in counts.items())]
