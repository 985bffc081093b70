"""Faults about a single sample: its cache state, its loader, its clock and its process.

Each is told to the harness as it is shipped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.loaders import by_key
from harness.machine import page_cache, proof
from harness.machine.description import usable_cores
from harness.machine.storage import storage
from harness.records.limits import BUSY_AT_MOST
from harness.records.sample import BUSY
from harness.selftest.faulty_loaders import STASH_VARIABLE
from harness.selftest.fixture import (
    FAULTY_LOADERS,
    FaultyWorker,
    Fixture,
    InjectedFault,
    NotCaughtError,
    invalid,
)
from harness.workers import load_sample
from harness.workers.client import Server
from harness.workers.device import Cpu

_UNWAITED_S = 0.05
_BURN_S = 60.0
"""Longest time that a burning process lives, should nobody end it."""


_HOLD = """
import mmap, sys
file = open(sys.argv[1], "rb")
mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(mapping[::4096])
print("held", flush=True)
sys.stdin.read()
"""
"""Maps a file, touches its pages, and holds it until its input ends."""


def eviction_skipped(fixture: Fixture) -> str:
    """Eviction is skipped, but the file is reported as cold."""
    return invalid(
        fixture.sample("cold", server=FaultyWorker(fixture.server, page_cache.warm, claimed=0.0)),
        "storage-short",
    )


def no_fsync(fixture: Fixture) -> str:
    """A file just written is evicted without an fsync before."""

    def prepare(files: Sequence[Path]) -> None:
        for file in files:
            content = file.read_bytes()
            fd = os.open(file, os.O_WRONLY)
            try:
                os.pwrite(fd, content, 0)  # the same bytes, not yet on disk
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    return invalid(fixture.sample("cold", server=FaultyWorker(fixture.server, prepare)), "not-cold")


def mapped_by_another(fixture: Fixture) -> str:
    """Another process holds the file mapped while it is evicted."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(fixture.file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            return invalid(fixture.sample("cold"), "not-cold")
        finally:
            other.kill()


def warm_for_cold(fixture: Fixture) -> str:
    """A warm file is passed off as cold."""
    return invalid(
        fixture.sample("cold", server=FaultyWorker(fixture.server, page_cache.warm)), "not-cold"
    )


def cold_for_warm(fixture: Fixture) -> str:
    """A cold file is passed off as warm."""
    return invalid(
        fixture.sample("warm", server=FaultyWorker(fixture.server, page_cache.evict, claimed=1.0)),
        "storage-read",
    )


def in_memory(_: Fixture) -> str:
    """The checkpoints lie in a file system that is memory."""
    folder = next(
        (
            path
            for path in map(Path, ("/dev/shm", "/run", "/tmp"))  # noqa: S108  # to be refused
            if _file_system(path) in ("tmpfs", "ramfs")
        ),
        None,
    )
    if folder is None or not os.access(folder, os.W_OK):
        raise NotCaughtError("no tmpfs to write to here, so that this fault could not be told")
    capability = proof.capability(folder)
    if capability.cold:
        raise NotCaughtError(f"{folder} was believed to be cold")
    return f"cold refused: {capability.reason}"


def returns_early(fixture: Fixture) -> str:
    """A loader returns before it has loaded, and a thread of it fills the tensors later."""
    return invalid(fixture.sample("warm", "returns-early"), "wrong-content")


def wrong_content(fixture: Fixture) -> str:
    """A loader returns tensors with one wrong byte."""
    return invalid(fixture.sample("warm", "one-byte"), "wrong-content")


def unwaited_device(fixture: Fixture) -> str:
    """A device still works after the call has returned, and the clock does not wait for it."""
    pending = [0.0]

    class Late(Cpu):
        def wait(self) -> None:
            time.sleep(max(0.0, pending[0] - time.monotonic()))

        def bring_up(self, tensors: Any) -> None:
            self.wait()
            super().bring_up(tensors)

    def load(files: Any, device: str) -> Any:
        tensors = by_key(f"{FAULTY_LOADERS}:honest")[1].load(files, device)
        pending[0] = time.monotonic() + _UNWAITED_S
        return tensors

    loader = replace(by_key(f"{FAULTY_LOADERS}:honest")[1], load=load)
    expected = json.loads(fixture.checkpoint.checksums_file.read_text(encoding="utf-8"))
    warm_up = [str(file) for file in fixture.store.warm_up(["safetensors"])["safetensors"]]
    result = load_sample.take(
        load_sample.Task(loader, [str(fixture.file)], warm_up, "cpu", expected, 0), Late
    )
    if result["returned_s"] < _UNWAITED_S:
        raise NotCaughtError(
            f"returned after {result['returned_s']:.4f} s, before the device was done"
        )
    return (
        f"the clock waited: returned after {1e3 * result['returned_s']:.1f} ms, of which the device"
        f" took {1e3 * _UNWAITED_S:.0f}"
    )


def previous_tensors(fixture: Fixture) -> str:
    """A process returns what an earlier process has kept of the file."""
    os.environ[STASH_VARIABLE] = str(fixture.folder / "stash.safetensors")
    with Server({}, [], sys.executable) as server:  # which inherits the place of the stash
        fixture.sample("warm", "from-a-stash", server=server)
        page_cache.warm([fixture.folder / "stash.safetensors"])
        return invalid(fixture.sample("cold", "from-a-stash", server=server), "storage-short")


def busy_neighbour(fixture: Fixture) -> str:
    """Another process uses a core fully while a sample is taken."""
    with burning():
        return invalid(fixture.sample("warm", busy_at_most=BUSY_AT_MOST), BUSY)


@contextmanager
def burning() -> Iterator[int]:
    """Have processes that nobody here started burn half of the cores, and yield the process id of
    one; they are gone afterwards.

    Each is orphaned at once, or it would count as the harness's own work.
    """
    script = (
        "import os,time\nif os.fork(): os._exit(0)\nos.setsid()\nprint(os.getpid(),"
        f" flush=True)\nend = time.monotonic() + {_BURN_S}\nwhile time.monotonic() < end: pass"
    )
    burners = []
    try:
        for _ in range(-(-usable_cores() // 2)):
            with subprocess.Popen(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
            ) as started:
                assert started.stdout is not None
                burners.append(int(started.stdout.readline()))
        yield burners[0]
    finally:
        for pid in burners:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


FAULTS: tuple[InjectedFault, ...] = (
    eviction_skipped,
    no_fsync,
    mapped_by_another,
    warm_for_cold,
    cold_for_warm,
    in_memory,
    returns_early,
    wrong_content,
    unwaited_device,
    previous_tensors,
    busy_neighbour,
)


def _file_system(folder: Path) -> str | None:
    return storage(folder).file_system if folder.is_dir() else None
