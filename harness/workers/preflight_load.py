"""Every loader once on the tiny checkpoint, each in a process of its own: what
`weighbridge preflight` finds out.

Run as `python -m harness.workers.preflight_load PARENT`: it reads one request from standard input
and writes a line of JSON for each loader. Loaders that require the same libraries share a process
that imports them, and each loads in a fork of it, as in a run.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from itertools import groupby
from typing import Any

from harness import loaders
from harness.checkpoints.checksum import Checksum, checksums, difference
from harness.records.privacy import without_paths
from harness.workers.device import device_of, numbered
from harness.workers.protocol import Answer, answering, fork, send


class PreflightResult(StrEnum):
    """How one small load ends."""

    OK = "ok"
    FAILED = "failed"
    ABSENT = "absent"


def main() -> None:
    """Answer the request on standard input and leave."""
    with answering() as answers:
        request = json.loads(sys.stdin.readline())
        import torch  # noqa: F401  # once, before the forks

        keys = sorted(request["loaders"], key=lambda key: loaders.by_key(key)[1].requires)
        for packages, group in groupby(keys, key=lambda key: loaders.by_key(key)[1].requires):
            members = list(group)
            timeout_s = request["import_timeout_s"] + len(members) * request["timeout_s"]
            result = fork(
                partial(_try_group, request, packages, members),
                timeout_s,
            )
            words = (
                f"importing {', '.join(packages)}: {result.get('failure')}: {result.get('detail')}"
            )
            for key in members:
                send(
                    answers,
                    {
                        "loader": key,
                        **result.get(key, {"status": PreflightResult.FAILED, "words": words}),
                    },
                )


def _try_group(request: Answer, packages: tuple[str, ...], keys: list[str]) -> Answer:
    """Import what some loaders require, and return what came of a load by each."""
    answers: dict[str, Answer] = {}
    importable: list[str] = []
    for key in keys:
        if reason := loaders.by_key(key)[1].absence():
            answers[key] = {"status": PreflightResult.ABSENT, "words": without_paths(reason)}
        else:
            importable.append(key)
    try:
        for package in packages if importable else ():
            importlib.import_module(package)
    except Exception as error:
        words = without_paths(
            f"{package} is installed and cannot be imported ({type(error).__name__}: {error})"
        )
        return answers | {
            key: {"status": PreflightResult.ABSENT, "words": words} for key in importable
        }
    for key in importable:
        answer = fork(
            partial(_load, key, request["loaders"][key], request["device"]),
            request["timeout_s"],
        )
        if "failure" in answer:
            words = f"{answer['failure']}: {answer['detail']}"
            answers[key] = {
                "status": PreflightResult.FAILED,
                "words": words,
                "traceback": answer.get("traceback", ""),
            }
        else:
            answers[key] = answer
    return answers


def _load(key: str, parameters: Mapping[str, Any], device_name: str) -> Answer:
    """Load once and check the content; return the status and what it took."""
    import time

    _, loader = loaders.by_key(key)
    name = numbered(device_name)
    device = device_of(name)
    context_s = device.make_context()
    device.begin()
    start = time.perf_counter()
    loaded = loader.load(parameters["files"], name)
    device.wait()
    first_call_s = time.perf_counter() - start
    tensors = loader.tensors(loaded)
    device_bytes = device.end().get("peak_device_bytes")
    with open(parameters["expected"], encoding="utf-8") as file:
        expected: dict[str, Checksum] = json.load(file)
    wrong = difference(checksums(tensors), expected) or device.misplaced(tensors)
    measured = {"first_call_s": first_call_s, "context_s": context_s, "device_bytes": device_bytes}
    return (
        {"status": PreflightResult.FAILED, "words": f"wrong tensors: {wrong}", **measured}
        if wrong
        else {"status": PreflightResult.OK, "words": "", **measured}
    )


if __name__ == "__main__":
    main()
