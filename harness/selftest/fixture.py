"""The fixture that faults are told in: a checkpoint of its own, an honest server, and what it takes
to say how a fault was caught.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.checkpoints.store import Checkpoint, Store
from harness.errors import WeighbridgeError
from harness.loaders import by_key
from harness.measure.take_sample import Arm, Place, take_sample
from harness.records.cell import Cell
from harness.records.manifest import Manifest
from harness.records.sample import Sample
from harness.scenarios import CacheState
from harness.workers.cache_state import residency
from harness.workers.client import Server

FAULTY_LOADERS = "harness.selftest.faulty_loaders"

InjectedFault = Callable[["Fixture"], str]
"""What stages a fault and returns how it was caught, or raises `NotCaughtError`; its docstring's
first line says what is told.
"""


class CannotInjectError(WeighbridgeError):
    """A fault needs what this machine or this user does not have."""


class NotCaughtError(WeighbridgeError):
    """A fault went through; the message says what the harness made of it."""


@dataclass(frozen=True)
class Fixture:
    """What a fault is told with: a checkpoint, a server, a manifest of this machine, and a folder
    to write in.
    """

    store: Store
    checkpoint: Checkpoint
    server: Server
    manifest: Manifest
    folder: Path

    @property
    def file(self) -> Path:
        """The file that is loaded."""
        return self.checkpoint.artifacts["safetensors"].files[0]

    def sample(
        self,
        cache_state: CacheState,
        loader: str = "honest",
        server: Any = None,
        block: int = 0,
        environment: str = "trial",
        busy_at_most: float = 1.0,
    ) -> Sample:
        """Return a sample by a faulty loader, through what every sample goes through.

        The machine may be busy unless the fault is about that.
        """
        key = f"{FAULTY_LOADERS}:{loader}"
        warm_up = self.store.warm_up(["safetensors"])["safetensors"]
        arm = Arm(key, by_key(key)[1], environment, server or self.server, warm_up)
        cell = Cell("full-load", self.checkpoint.name, cache_state, "cpu")
        return take_sample(
            cell, self.checkpoint, arm, Place("trial", block, 0), busy_at_most=busy_at_most
        )


class FaultyWorker:
    """A server whose cache state is set by a faulty loader, and told by the same faulty loader
    where it has something to tell.
    """

    def __init__(
        self,
        server: Server,
        prepare: Callable[[Sequence[Path]], object],
        claimed: float | None = None,
    ) -> None:
        self._server, self._prepare, self._told = server, prepare, claimed
        self.sample, self.residency = server.sample, server.residency

    def set_cache_state(
        self, _cache_state: CacheState, files: Sequence[Path]
    ) -> tuple[float | None, str | None]:
        """Do what the faulty loader does and return what it tells, or what the kernel does."""
        self._prepare(files)
        return (residency(files) if self._told is None else self._told), None


@contextmanager
def fixture(
    store: Store, checkpoint: Checkpoint, manifest: Manifest, folder: Path
) -> Iterator[Fixture]:
    """Make the fixture: an honest sample is believed in it, cold and warm, before any fault is
    told.
    """
    warm_up = [str(file) for file in store.warm_up(["safetensors"])["safetensors"]]
    folder.mkdir(parents=True)
    artifact = checkpoint.artifacts["safetensors"]
    copied = Path(
        shutil.copyfile(artifact.files[0], folder / "model.safetensors")
    )  # faulty loaders write to it
    checkpoint = replace(checkpoint, artifacts={"safetensors": replace(artifact, files=(copied,))})
    with Server({f"{FAULTY_LOADERS}:honest": warm_up}, [], sys.executable) as server:
        fixture = Fixture(store, checkpoint, server, manifest, folder)
        for state in ("cold", "warm"):
            honest = fixture.sample(state)
            if not honest.valid:
                raise WeighbridgeError(
                    f"an honest {state} sample is not believed here: {honest.reason},"
                    f" {honest.detail}"
                )
        yield fixture


def made_up(fixture: Fixture) -> Sample:
    """Return a real sample of this machine, to put faults about blocks and files into."""
    return replace(fixture.sample("warm"), returned_s=1.0, ready_s=1.0)


def invalid(sample: Sample, reason: str) -> str:
    """Return the words by which a sample is invalid.

    Raises `NotCaughtError` where it is valid, or invalid for another reason.
    """
    if sample.valid or sample.reason != reason:
        raise NotCaughtError(
            f"a sample that was {'valid' if sample.valid else f'invalid for {sample.reason}'}, not"
            f" {reason}"
        )
    return f"{sample.reason}: {sample.detail}"


def refused(fixture: Fixture, act: Callable[[], object]) -> str:
    """Return the words by which what was asked for was refused.

    Raises `NotCaughtError` where it was not.
    """
    try:
        act()
    except WeighbridgeError as error:
        return str(error).replace(str(fixture.folder), "…")
    raise NotCaughtError("it was believed")
