"""The orchestrator's end of a sandbox supervisor: which links a loader is to find, and the question
how it met them. No file of the corpus is read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.errors import WeighbridgeError
from harness.workers.client import under_test
from harness.workers.protocol import Answer, Worker, WorkerClient

TIMEOUT_S = 2.0
"""Time a loader has for a file, where the corpus gives it no other."""
_INDEX = ".index.json"
_TOLD = (".json", ".txt")
"""How the files of a folder end that tell of weights and are none."""
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",
}
"""What keeps the libraries of a process that is to be forked from holding threads."""


class NoTrialError(WeighbridgeError):
    """A loader can meet no hostile file on this machine; the message says why."""


@dataclass(frozen=True)
class Case:
    """What a loader finds in its folder: the target of each link by its path, and which it is
    given.
    """

    links: Mapping[str, str]
    files: tuple[str, ...]


def case(
    hostile_file: Sequence[Path],
    whole: Sequence[Path],
    *,
    folder: bool,
    sharded: bool = False,
    every: bool = False,
) -> Case:
    """Return how a loader meets a hostile file, its own file first.

    `whole` are the files of a whole checkpoint in the loader's format.

    A loader of single files is given the hostile file's own, or `every` file of it. Of a `folder`
    every file of weights is the hostile file, under the name that it has there; an index with its
    shards stands in the place of those files under their own names where a loader knows of
    `sharded` checkpoints.
    """
    beside = {path.name: str(path) for path in hostile_file}
    if not folder:
        return Case(beside, tuple(beside) if every else (hostile_file[0].name,))
    root = Path(os.path.commonpath([path.parent for path in whole]))
    links, files = dict(beside), []
    for path in whole:
        name = path.relative_to(root).as_posix()
        if not name.endswith(_TOLD):
            if sharded and hostile_file[0].name.endswith(_INDEX):
                links |= {
                    str(PurePosixPath(name).parent / path.name): str(path) for path in hostile_file
                }
                continue
            links[name] = str(hostile_file[0])
        else:
            links[name] = str(path)
        files.append(name)
    return Case(links, tuple(files or (hostile_file[0].name,)))


class Sandbox(WorkerClient):
    """A supervisor under which loaders are given hostile files, one at a time, each time in a
    confined child.
    """

    def __init__(self, loaders: Mapping[str, list[str]], folder: Path) -> None:
        """`loaders` maps each loader's key to the files of a whole checkpoint in its format.

        `folder` is where trials take place.
        """
        self._folder = folder
        self._worker = Worker(
            "sandbox_worker",
            {"loaders": dict(loaders)},
            env=under_test() | _ONE_THREAD,
            cwd=folder.parent,
            failure="the sandbox supervisor could not be started; its own message stands above",
        )
        self.environment: Answer = {}

    def __enter__(self) -> Sandbox:
        self.environment = self._worker.start()
        return self

    def trial(self, key: str, case: Case, timeout_s: float) -> Answer:
        """Return how a loader took a case, as `sandbox_worker.trial` tells it.

        Raises `WeighbridgeError` where the supervisor did not survive, or could not confine.
        """
        request = {
            "do": "trial",
            "loader": key,
            "folder": str(self._folder),
            "files": case.files,
            "links": case.links,
            "timeout_s": timeout_s,
        }
        answer = self._worker.ask(request, timeout_s)
        if "failure" in answer:
            message = (
                answer["detail"]
                if answer["failure"] == "unconfined"
                else "the sandbox supervisor died or fell silent"
            )
            raise WeighbridgeError(f"{key} was given no file: {message}")
        return answer
