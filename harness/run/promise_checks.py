"""Putting promises to the test: the repositories and the processes that checks need, made when the
first check asks for them.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.analysis.promises import Promise, PromiseResult, Verdict, judge
from harness.checkpoints.fixture_repositories import Repositories, make_repositories
from harness.checkpoints.formats import missing_package
from harness.checkpoints.store import Store
from harness.errors import WeighbridgeError
from harness.loaders import MODEL, all_loaders
from harness.records.checks import Check
from harness.records.manifest import now
from harness.records.run_directory import RunDirectory
from harness.records.sample import SCHEMA
from harness.workers.promise_client import (
    CannotBeCheckedError,
    PromiseClient,
    packages_without,
    request_of,
)

TIMEOUT_S = 60.0
_PYTHON_NAMES = {"huggingface_hub": ("huggingface_hub",), "transformers": ("torch", "transformers")}


class Checking:
    """The checks of one run."""

    def __init__(
        self,
        store: Store,
        directory: RunDirectory,
        say: Callable[[str], None],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._store, self._directory, self._say, self._timeout_s = store, directory, say, timeout_s
        self._checks = {check.check: check for check in directory.checks()}
        self._stack = ExitStack()
        self._repositories: Repositories | None = None
        self._promise_clients: dict[bool, PromiseClient] = {}

    def close(self) -> None:
        """End the processes and remove the repositories."""
        self._stack.close()

    def check(self, promise: Promise) -> Check:
        """Return what came of a promise, as recorded, or put to the test now and recorded.

        Raises `CannotBeCheckedError` where that could not be done though all it needs is here;
        nothing is recorded then.
        """
        if promise.name not in self._checks:
            check = self._carry_out(promise)
            self._directory.append_check(check)
            self._checks[promise.name] = check
        return self._checks[promise.name]

    def done(self, promises: Iterable[Promise]) -> bool:
        """Return whether all of these are recorded."""
        return all(promise.name in self._checks for promise in promises)

    def _carry_out(self, promise: Promise) -> Check:
        self._say(f"checking: {promise.claim} {promise.name}")
        started_at, start = now(), time.monotonic()
        missing = absence(promise.library)
        verdict = (
            Verdict(PromiseResult.NOT_TESTED, missing, None)
            if missing
            else judge(promise, self._ask(promise))
        )
        return Check(
            SCHEMA,
            self._directory.name,
            promise.claim,
            promise.name,
            _subject(promise.library),
            promise.condition,
            promise.promised,
            verdict.happened,
            verdict.message,
            verdict.outcome,
            round(time.monotonic() - start, 3),
            started_at,
        )

    def _ask(self, promise: Promise) -> dict[str, Any]:
        try:
            repositories = self._made()
        except WeighbridgeError as error:
            raise CannotBeCheckedError(
                f"the repositories it loads cannot be made: {error}"
            ) from None
        request = request_of(
            promise.call, _where(promise, repositories), repositories.contents, promise.parameters
        )
        try:
            return self._promise_client(promise.package, repositories).ask(request, self._timeout_s)
        except CannotBeCheckedError as error:
            raise CannotBeCheckedError(f"{promise.name} could not be checked: {error}") from None

    def _made(self) -> Repositories:
        if self._repositories is None:
            self._say("making the repositories for the checks of documented behaviour")
            self._folder = Path(
                self._stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="weighbridge-", ignore_cleanup_errors=True)
                )
            )
            self._repositories = make_repositories(self._folder, self._store)
        return self._repositories

    def _promise_client(self, package: bool, repositories: Repositories) -> PromiseClient:
        if package not in self._promise_clients:
            packages = (
                None if package else packages_without(self._folder / "packages", "safetensors")
            )
            self._promise_clients[package] = self._stack.enter_context(
                PromiseClient(repositories.home, packages)
            )
        return self._promise_clients[package]


def absence(library: str) -> str | None:
    """Return why a library cannot be asked here, or None."""
    if library == "diffusers":
        return all_loaders(MODEL)["diffusers-safetensors"][1].absence()
    return missing_package(_PYTHON_NAMES[library], "pipelines")


def _where(promise: Promise, repositories: Repositories) -> object:
    if promise.call in ("single-file", "from-ckpt"):
        return repositories.single[promise.repository]
    return repositories.hub.get(promise.repository) or repositories.local[promise.repository]


def _subject(library: str) -> str:
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        return library
