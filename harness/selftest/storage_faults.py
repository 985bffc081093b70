"""Faults about what lies below a file: a cache that no eviction of the file itself reaches.

Each needs something mounted, and says so where that is not allowed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.errors import WeighbridgeError
from harness.machine import page_cache, proof
from harness.machine.shape_mount import Mounted
from harness.machine.shapes import Shape
from harness.machine.storage_stack import MEMORY, mount_of
from harness.selftest.fixture import (
    CannotInjectError,
    FaultyWorker,
    Fixture,
    InjectedFault,
    NotCaughtError,
    invalid,
)

_IMAGE_BYTES = 64 << 20


def image_in_memory(_: Fixture) -> str:
    """The checkpoints lie on a loop device whose image is in memory."""
    memory = Path("/dev/shm")  # noqa: S108  # to be refused
    mount = mount_of(memory) if memory.is_dir() else None
    if mount is None or mount.file_system not in MEMORY:
        raise CannotInjectError("there is no /dev/shm in memory here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        image, point = Path(folder) / "image", Path(folder) / "mount"
        point.mkdir()
        with image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        if shutil.which("mkfs.ext4") is None:
            raise CannotInjectError("mkfs.ext4 is not installed")
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        with _mounted("-o", "loop", str(image), str(point)):
            able = proof.capability(point)
    if able.cold:
        raise NotCaughtError("an image in memory was believed to be cold below")
    return f"cold refused: {able.reason}"


def cache_behind_fuse(fixture: Fixture) -> str:
    """A FUSE server keeps in memory what it serves."""
    page_cache.warm([fixture.file])
    try:
        mounted = Mounted(Shape("behind"), fixture.file.parent)
    except WeighbridgeError as error:
        raise CannotInjectError(str(error)) from None
    with mounted:
        able = proof.capability(mounted.path)
    if able.depth != "here" or not able.note:
        raise NotCaughtError(f"a file behind a cache was called cold {able.depth}")
    return f"called cold {able.depth} and no further: {able.note}"


def hot_below_overlay(fixture: Fixture) -> str:
    """A file of an overlay is evicted, but the file below it is read in again."""
    with tempfile.TemporaryDirectory(dir=fixture.folder) as folder:
        places = {name: Path(folder) / name for name in ("lower", "upper", "work", "merged")}
        for place in places.values():
            place.mkdir()
        below = Path(shutil.copy(fixture.file, places["lower"]))
        options = ",".join(f"{name}dir={places[name]}" for name in ("lower", "upper", "work"))
        with _mounted("-t", "overlay", "overlay", "-o", options, str(places["merged"])):
            above = places["merged"] / below.name
            artifact = replace(fixture.checkpoint.artifacts["safetensors"], files=(above,))
            there = replace(
                fixture,
                checkpoint=replace(fixture.checkpoint, artifacts={"safetensors": artifact}),
            )

            def prepare(files: Sequence[Path]) -> None:
                page_cache.evict(files)
                page_cache.warm([below])

            server = FaultyWorker(fixture.server, prepare)
            return invalid(there.sample("cold", server=server), "not-cold")


@contextmanager
def _mounted(*arguments: str) -> Iterator[None]:
    """Have something mounted, the mount point being the last argument."""
    if os.geteuid() != 0:
        raise CannotInjectError("mounting needs root")
    tried = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise CannotInjectError(f"it cannot be mounted here: {tried.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", arguments[-1]], check=True)


FAULTS: tuple[InjectedFault, ...] = (image_in_memory, cache_behind_fuse, hot_below_overlay)
