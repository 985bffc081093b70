"""What the child of a sandbox supervisor does: it gives up what it could do, loads the file,
touches what it was given, says how it went, and leaves.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.machine.confinement import Limits, confine
from harness.machine.lifeline import die_with_parent
from harness.records.privacy import without_paths
from harness.workers.protocol import die_first, send
from harness.workers.touch_pages import touch

if TYPE_CHECKING:
    from harness.loaders import Contract

CASE, SAID = "case", "said"
"""Names inside a trial's folder: where the file lies, and what was printed."""


@dataclass(frozen=True)
class SandboxedChild:
    """One loader, what it is asked for, the folder that is all it may write to, and its limits."""

    loader: Contract
    target: Any
    folder: Path
    limits: Limits


def be_sandboxed(sandboxed_child: SandboxedChild, pipe: int) -> NoReturn:
    """Be the child of one trial: write lines of JSON to `pipe` and leave by `_exit`.

    Nothing comes back from here.
    """
    try:
        parent = os.getppid()
        os.setsid()
        die_with_parent(parent)
        _settle_in(sandboxed_child.folder, pipe)
        confine(sandboxed_child.folder, sandboxed_child.limits)
        send(pipe, {"began_rss": _resident(), "stage": "in the call"})
    except BaseException as error:
        send(
            pipe,
            {"unconfined": f"a process could not be confined ({error}), so no loader was called"},
        )
        os._exit(70)
    start = time.perf_counter()
    try:
        result = _load(sandboxed_child, pipe)
    except BaseException as error:  # whatever a loader raises is the outcome
        result = {"ended": "refused", "error": described(error)}
    result["seconds"] = time.perf_counter() - start
    send(pipe, result)
    os._exit(0)


def described(error: BaseException) -> str:
    """Return an error's class and the first line of its message, without paths."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {without_paths(text)}" if text else type(error).__name__


def _load(sandboxed_child: SandboxedChild, pipe: int) -> dict[str, Any]:
    loader = sandboxed_child.loader
    loaded = loader.load(sandboxed_child.target, "cpu")
    send(pipe, {"stage": "as what it handed back was touched"})
    given = loader.tensors(loaded)
    return {"ended": "loaded", "error": _handed_back(given)}


def _handed_back(given: Any) -> str:
    """Touch every page of every tensor that a loader gave, and return what it gave, in words."""
    import torch

    contents = dict(given) if isinstance(given, Mapping) else {}
    tensors = [value for value in contents.values() if isinstance(value, torch.Tensor)]
    touch(
        tensor
        for tensor in tensors
        if tensor.layout == torch.strided and tensor.device.type == "cpu"
    )
    if not isinstance(given, Mapping):
        return f"no tensors by name: {type(given).__name__}"
    others = len(contents) - len(tensors)
    return (
        f"{len(tensors)} tensors, {sum(tensor.nbytes for tensor in tensors)}"
        f" bytes{f', {others} other values' if others else ''}"
    )


def _settle_in(folder: Path, pipe: int) -> None:
    """Make the folder the place of everything: where the process stands, its home, its temporary
    files, what it prints.

    Nothing stays open but `pipe`: a payload writes to whatever it finds, and the sandbox
    supervisor's own answers are not for it.
    """
    os.chdir(folder)
    os.environ |= {"HOME": str(folder), "TMPDIR": str(folder)}
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    descriptor = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    die_first()


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
