"""The storages of a run: where a cell's files lie while it is measured, and what tells of what they
were read by.

A delayed shape is a mount of the folder that the files lie in, whose own files are kept in memory:
the delays are the storage then, and no disk adds its noise to them. A throttled shape leaves the
files where they are and limits what this process and all it starts may read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.checkpoints.store import Checkpoint
from harness.errors import WeighbridgeError
from harness.machine import page_cache, shape_mount, throttle
from harness.machine.page_cache import Lock
from harness.machine.proof import Capability, capability
from harness.machine.read_ahead import read_ahead, setting_refused
from harness.machine.requests import Served, served_by_device
from harness.machine.shape_mount import Mounted
from harness.machine.shapes import Shape, shape_named
from harness.machine.storage_stack import request_statistics
from harness.machine.throttle import Throttle
from harness.measure.take_sample import Place
from harness.records.cell import Cell
from harness.scenarios import AS_IS


@dataclass(frozen=True)
class Site:
    """Where the files of a cell lie while it is measured, and how a load is seen to read them."""

    capability: Capability
    served: Callable[[], Served | None]
    """What storage served so far."""
    moved: Callable[[Checkpoint], Checkpoint] = field(default=lambda checkpoint: checkpoint)
    """A checkpoint as it lies there."""

    def proving(self, place: Place) -> Place:
        """Return the place of a sample with what its proof goes by."""
        able = self.capability
        return replace(
            place, witness=able.witness or "bytes read", depth=able.depth, served=self.served
        )


class Storages:
    """Every storage that a run measures on, made when a cell first needs it and gone with the
    run.
    """

    def __init__(self, folder: Path, as_is: Capability) -> None:
        """`folder` is the store's, `as_is` what can be proved there."""
        self._folder, self._as_is = folder, as_is
        self._stack = ExitStack()
        self.shapes: dict[str, dict[str, Any]] = {}
        """The shapes that were asked for so far, by name, as a manifest keeps them."""
        self._mounts: dict[tuple[str, Path], tuple[Mounted, Capability]] = {}

    def close(self) -> None:
        """Unmount and remove all of them."""
        self._stack.close()
        self._mounts.clear()

    def refusal(self, cell: Cell) -> str | None:
        """Return why a cell cannot be measured on its storage, None where it can."""
        if cell.storage == AS_IS:
            if cell.read_ahead_kb is not None and (reason := setting_refused(self._folder)):
                return f"readahead refused: {reason}"
            able = self._as_is.cold if cell.cache_state == "cold" else self._as_is.warm
            return None if able else f"{cell.cache_state} refused: {self._as_is.reason}"
        shape = shape_named(cell.storage)
        reason = (
            shape_mount.refused() if shape.kind == "delayed" else throttle.refused(self._folder)
        )
        return f"storage {cell.storage} refused: {reason}" if reason else None

    @contextmanager
    def around(self, cell: Cell, checkpoint: Checkpoint) -> Iterator[Site]:
        """Have a cell's storage in force, and its readahead, and yield where the files lie.

        Raises `WeighbridgeError` where that cannot be had.
        """
        shape = None if cell.storage == AS_IS else shape_named(cell.storage)
        if shape:
            self.shapes[shape.name] = asdict(shape) | {"words": shape.words}
        kb = (
            cell.read_ahead_kb
            if cell.read_ahead_kb is not None
            else (shape.read_ahead_kb if shape else None)
        )
        with ExitStack() as stack:
            site, folder = (
                self._delayed(shape, checkpoint, stack)
                if shape and shape.kind == "delayed"
                else self._on_the_device(shape, checkpoint, stack)
            )
            if kb is not None:
                stack.enter_context(read_ahead(folder, kb))
            yield site

    def _on_the_device(
        self, shape: Shape | None, checkpoint: Checkpoint, stack: ExitStack
    ) -> tuple[Site, Path]:
        folder = _files(checkpoint)[0].parent
        statistics = request_statistics(folder)
        if shape:
            group = Throttle(shape, folder)
            stack.callback(group.remove)
            stack.enter_context(group.around_family(os.getpid()))
        return (
            Site(self._as_is, lambda: served_by_device(statistics) if statistics else None),
            folder,
        )

    def _delayed(self, shape: Shape, checkpoint: Checkpoint, stack: ExitStack) -> tuple[Site, Path]:
        files = _files(checkpoint)
        source = Path(os.path.commonpath([file.resolve().parent for file in files]))
        key = (shape.name, source)
        if key not in self._mounts:
            mounted = self._stack.enter_context(Mounted(shape, source))
            self._mounts[key] = (
                mounted,
                replace(capability(mounted.path), witness="requests served", note=None),
            )
        mounted, able = self._mounts[key]
        if not able.cold:
            raise WeighbridgeError(f"storage {shape.name} refused: {able.reason}")
        page_cache.warm(files)
        lock = Lock(files)
        stack.callback(lock.release)

        def moved(checkpoint: Checkpoint) -> Checkpoint:
            artifacts = {
                name: replace(
                    artifact, files=tuple(mounted.beneath(file) for file in artifact.files)
                )
                for name, artifact in checkpoint.artifacts.items()
            }
            return replace(checkpoint, artifacts=artifacts)

        return Site(able, mounted.served, moved), mounted.path


def _files(checkpoint: Checkpoint) -> list[Path]:
    return [file for artifact in checkpoint.artifacts.values() for file in artifact.files]
