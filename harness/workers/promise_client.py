"""The orchestrator's end of the checks of promises: a process that has the libraries, or has all but safetensors, and forks for each check."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import WeighbridgeError
from harness.workers.client import CLEAN_FORK, GRACE_S, LOCAL_ONLY, PREPARE_TIMEOUT_S, ROOT, Server
from harness.workers.outcome import Answer

_SITES = ("site-packages", "dist-packages")
_STEERING = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "SAFETENSORS_")
"""How the variables begin with which a person steers these libraries: a check must not depend on them."""
_SAME_ORDER = {"PYTHONHASHSEED": "0"}  # diffusers goes through components in the order of a set, so which is missed first would be chance


class CannotBeCheckedError(WeighbridgeError):
    """A promise could not be put to the test; the message says why."""


class PromiseClient(Server):
    """A process of an environment in which promises are put to the test, with a hub's cache of its own.

    `packages` is a folder that stands for all installed packages; None for those of this interpreter.
    """

    def __init__(self, home: Path, packages: Path | None = None) -> None:
        super().__init__({}, ())
        self._home, self._packages = home, packages

    def __enter__(self) -> PromiseClient:
        super().__enter__()
        return self

    def ask(self, request: Answer, timeout_s: float) -> Answer:
        """Return what a child found; raises `CannotBeCheckedError` where it hung, died or could not be started."""
        answer = self._ask({"do": "attempt", "timeout_s": timeout_s} | request, timeout_s + GRACE_S)
        if "failure" in answer:
            raise CannotBeCheckedError(f"its process {answer['failure']}: {answer['detail']}")
        return answer

    def _start(self) -> Answer:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_STEERING)}
        paths = [self._packages] if self._packages else filter(None, [os.environ.get("PYTHONPATH")])
        isolated = ["-S"] if self._packages else []
        self._process = subprocess.Popen(
            [self._python, *isolated, "-m", "harness.workers.promise_worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=inherited
            | LOCAL_ONLY
            | CLEAN_FORK
            | _SAME_ORDER
            | {"HF_HOME": str(self._home), "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths]))},
            start_new_session=True,
        )
        answer = self._exchange({"do": "prepare"}, PREPARE_TIMEOUT_S)
        if answer is None:
            self._stop()
            raise CannotBeCheckedError("the process that was to ask could not be started; its own message stands above")
        if self._packages and answer["safetensors"]:
            self._stop()
            raise CannotBeCheckedError("safetensors can be imported although it was left out of the packages")
        return answer


def packages_without(folder: Path, package: str, search: Iterable[str] | None = None) -> Path:
    """Return `folder`, filled with a link to everything that is installed but a package and its metadata.

    `search` is where an interpreter looks for packages, by default where this one does.
    """
    folder.mkdir(parents=True)
    for site in (Path(path) for path in (sys.path if search is None else search)):
        if site.name not in _SITES or not site.is_dir():
            continue
        for entry in site.iterdir():
            link = folder / entry.name
            if not _is_of(package, entry.name) and not link.is_symlink():
                link.symlink_to(entry)
    return folder


def _is_of(package: str, name: str) -> bool:
    """Return whether an entry of a folder of packages is a package or its metadata."""
    return name == package or name.partition(".")[0] == package or name.startswith(f"{package}-")


def request_of(call: str, where: object, contents: Path, parameters: Mapping[str, object]) -> Answer:
    """Return what a child is asked: which call, of what, where the known contents are, and the arguments a person gives."""
    return {"call": call, "where": str(where), "contents": str(contents), "asked": dict(parameters)}
