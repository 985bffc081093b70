"""The load worker of one environment under test: imports torch and the loaders once, then forks one
child per sample.

It never calls a loader itself, because some start threads and threads do not survive a fork; a
scout child makes each loader's first call and tells which modules that imported, and the worker
imports the same, so that no sample pays for imports.

Run as `python -m harness.workers.load_worker PARENT`, where PARENT is the process id it must not
outlive.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any

from harness import loaders
from harness.checkpoints.checksum import Checksum
from harness.checkpoints.parts import Piece
from harness.errors import WeighbridgeError
from harness.machine.heap import collapse_heap
from harness.machine.libraries import hold_libraries
from harness.machine.memory_group import MemoryGroup
from harness.records.loader_keys import label_of
from harness.records.privacy import without_paths
from harness.workers import load_sample
from harness.workers.device import device_of
from harness.workers.memory_stages import end_in_group
from harness.workers.protocol import Answer, fork, serve

_POISON_TIMEOUT_S = 30.0
_WARM_UP_PIECES = (Piece("a", 0, 1, 3), Piece("b"), Piece("c", 1, 0, 1))


def main() -> None:
    """Serve until standard input ends or the parent dies."""
    serve({"prepare": prepare, "sample": _sample})


def prepare(request: Answer, join: Callable[[], Callable[[], None]] | None = None) -> Answer:
    """Import the loaders' libraries and whatever their first calls import.

    Tell which are absent, the first calls' cost and versions.
    """
    start = time.perf_counter()
    import torch

    absent, first_calls, modules, tracebacks = {}, {}, set(), {}
    spoiled_by: str | None = None
    for key, files in request["loaders"].items():
        kind, loader = loaders.by_key(key)
        if reason := loader.absence() or _import_failure(loader.requires):
            absent[key] = reason
            continue
        if request.get("gpu") and spoiled_by is None and _cuda_is_poisoned():
            spoiled_by = key
        warm_up = warm_up_of(kind, files, 0, 1)
        answer = fork(
            partial(load_sample.first_call, loader, warm_up, join),
            request["timeout_s"],
        )
        if "failure" in answer:
            absent[key] = f"its warm-up load {answer['failure']}: {answer['detail']}"
            tracebacks[key] = answer.get("traceback", "")
            continue
        first_calls[key] = answer["first_call_s"]
        modules |= set(answer["modules"])
    for module in sorted(modules):
        with suppress(
            Exception
        ):  # one that only exists in the middle of a call is not needed outside of it
            importlib.import_module(module)
    # in a child: what reading every package's metadata leaves on the heap would blur the samples'
    versions = fork(partial(_versions, request), request["timeout_s"])
    locked_bytes = hold_libraries()
    gc.collect()
    # what is here by now is no garbage, and a collection in a child would copy every page of it
    gc.freeze()
    huge_bytes = collapse_heap()
    return {
        "absent": absent,
        "tracebacks": tracebacks,
        "gpu_refused": (
            _gpu_refusal(spoiled_by, request["timeout_s"]) if request.get("gpu") else None
        ),
        "first_calls": first_calls,
        "import_s": time.perf_counter() - start,
        "heap_in_huge_pages_bytes": huge_bytes,
        "libraries_locked_bytes": locked_bytes,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "versions": versions.get("versions", {}),
    }


def _import_failure(packages: Sequence[str]) -> str | None:
    """Return why one of the packages cannot be imported, or None: being installed does not mean
    that it can be.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except Exception as error:
            return without_paths(
                f"{package} is installed and cannot be imported ({type(error).__name__}: {error})"
            )
    return None


def _cuda_is_poisoned() -> bool:
    """Return whether this process has used CUDA, after which no child of a fork can: asked of
    torch, without making a context.
    """
    import torch

    return bool(
        fork(lambda: {"poisoned": torch.cuda._is_in_bad_fork()}, _POISON_TIMEOUT_S).get("poisoned")
    )


def _gpu_refusal(spoiled_by: str | None, timeout_s: float) -> str | None:
    """Return why a forked child cannot use the GPU, with the loader whose imports are to blame
    where that is known, or None.
    """
    answer = fork(lambda: {"context_s": device_of("cuda").make_context()}, timeout_s)
    if "failure" not in answer:
        return None
    blame = (
        f"; importing what {label_of(spoiled_by)} requires used CUDA before the fork"
        if spoiled_by
        else ""
    )
    return f"a forked process cannot use the GPU ({answer['failure']}: {answer['detail']}){blame}"


def _sample(request: Answer) -> Answer:
    task = task_of(request)
    task.loader.reserve(task.target)
    if asked := request.get("in_group"):
        return _in_group(task, asked["limit_bytes"], asked["stays"], request["timeout_s"])
    return fork(lambda: load_sample.take(task), request["timeout_s"])


def _in_group(
    task: load_sample.Task, limit_bytes: int | None, stays: bool, timeout_s: float
) -> Answer:
    """Take a sample whose child enters a control group of its own just before it loads."""
    try:
        group = MemoryGroup(limit_bytes)
    except WeighbridgeError as error:
        return {"failure": "unprepared", "detail": str(error)}
    try:
        confined = replace(task, group=group, stays=stays)
        answer = fork(lambda: load_sample.take(confined), timeout_s)
        return answer | end_in_group(group, answer)
    finally:
        group.remove()


def task_of(request: Answer) -> load_sample.Task:
    """Return what a request for a sample asks of the child."""
    kind, loader = loaders.by_key(request["loader"])
    target, expected = asked_for(kind, request["files"], request["expected"], 0)
    warm_up, own = warm_up_of(kind, request["warm_up"], 0, 1), kind in (loaders.PART, loaders.SHARE)
    return load_sample.Task(
        loader, target, warm_up, request["device"], expected, request["touch_bytes"], own
    )


def asked_for(
    kind: str, files: Sequence[str], expected: Sequence[str], rank: int
) -> tuple[Any, dict[str, Checksum]]:
    """Return what a loader of a kind is given, and the checksums of what it is to return.

    `expected` names a file of checksums for everything, and of a selection for each rank otherwise.
    """
    if kind in loaders.OF_FILES:
        return files, _read(expected[0])
    if kind == loaders.PART:
        return _wanted(files, _read(expected[rank])), _read(expected[rank])["checksums"]
    shares = [_wanted(files, _read(selection)) for selection in expected]
    return loaders.Shares(shares, rank), _read(expected[rank])["checksums"]


def warm_up_of(kind: str, files: Sequence[str], rank: int, ranks: int) -> Any:
    """Return what a loader of a kind is given of the tiny checkpoint: for a part, whole tensors,
    rows and columns.
    """
    selections = [(file, _WARM_UP_PIECES) for file in files]
    if kind == loaders.SHARE:
        return loaders.Shares([selections] * ranks, rank)
    return files if kind in loaders.OF_FILES else selections


def _wanted(files: Sequence[str], selection: dict[str, Any]) -> list[loaders.Selection]:
    pieces = ([Piece(*piece) for piece in of_file] for of_file in selection["pieces"])
    return [(file, of_file) for file, of_file in zip(files, pieces, strict=True) if of_file]


@cache
def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
        return content


def _versions(request: Answer) -> Answer:
    """Return the version of each package asked for, and of those that the loaders come from."""
    names = (*request["packages"], *loaders.distributions(request["loaders"]))
    return {"versions": {name: _version(name) for name in names}}


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
