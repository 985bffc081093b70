"""The orchestrator's end of the checks of promises: a process that has the libraries, or has all
but safetensors, and forks for each check.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import WeighbridgeError
from harness.workers.client import CLEAN_FORK, LOCAL_ONLY
from harness.workers.protocol import ROOT, Answer, Worker, WorkerClient, WorkerError

_SITES = ("site-packages", "dist-packages")
_STEERING = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DIFFUSERS_", "SAFETENSORS_")
"""How the variables begin with which a person steers these libraries: a check must not depend on
them.
"""

_SAME_ORDER = {
    "PYTHONHASHSEED": "0"
    # diffusers goes through components in the order of a set, so which is missed first would be
    # chance
}


class CannotBeCheckedError(WeighbridgeError):
    """A promise could not be put to the test; the message says why."""


class PromiseClient(WorkerClient):
    """A process of an environment in which promises are put to the test, with a hub's cache of its
    own.

    `packages` is a folder that stands for all installed packages; None for those of this
    interpreter.
    """

    def __init__(self, home: Path, packages: Path | None = None) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_STEERING)
        }
        paths = [packages] if packages else filter(None, [os.environ.get("PYTHONPATH")])
        own = {"HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths]))}
        self._without_safetensors = packages is not None
        self._worker = Worker(
            "promise_worker",
            {},
            options=["-S"] if packages else [],
            env=inherited | LOCAL_ONLY | CLEAN_FORK | _SAME_ORDER | own,
            failure=(
                "the process that was to ask could not be started; its own message stands above"
            ),
        )

    def __enter__(self) -> PromiseClient:
        try:
            answer = self._worker.start()
        except WorkerError as error:
            raise CannotBeCheckedError(str(error)) from None
        if self._without_safetensors and answer["safetensors"]:
            self._worker.stop()
            raise CannotBeCheckedError(
                "safetensors can be imported although it was left out of the packages"
            )
        return self

    def ask(self, request: Answer, timeout_s: float) -> Answer:
        """Return what a child found.

        Raises `CannotBeCheckedError` where it hung, died or could not be started.
        """
        try:
            answer = self._worker.ask(
                {"do": "attempt", "timeout_s": timeout_s} | request, timeout_s
            )
        except WorkerError as error:
            raise CannotBeCheckedError(str(error)) from None
        if "failure" in answer:
            raise CannotBeCheckedError(f"its process {answer['failure']}: {answer['detail']}")
        return answer


def packages_without(folder: Path, package: str, search: Iterable[str] | None = None) -> Path:
    """Return `folder`, filled with a link to everything that is installed but a package and its
    metadata.

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


def request_of(
    call: str, where: object, contents: Path, parameters: Mapping[str, object]
) -> Answer:
    """Return what a child is asked: which call, of what, where the known contents are, and the
    arguments a person gives.
    """
    return {"call": call, "where": str(where), "contents": str(contents), "asked": dict(parameters)}
