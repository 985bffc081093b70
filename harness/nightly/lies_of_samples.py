"""Lies about a single sample: its cache state, its loader, its clock and its process. Each is told to the harness as it is shipped."""

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
from unittest.mock import patch

from harness.loaders import by_key
from harness.machine import page_cache
from harness.machine.busy import AT_MOST
from harness.machine.description import usable_cores
from harness.machine.storage import storage
from harness.measure import child
from harness.measure.client import Server
from harness.measure.device import Cpu
from harness.measure.sample import BUSY
from harness.nightly.court import LIARS, Court, Lie, LyingServer, NotCaughtError, invalid
from harness.nightly.liars import STASH_VARIABLE

_UNWAITED_S = 0.05
_BURN_S = 60.0
"""Longest time that a burning process lives, should nobody end it."""


def eviction_skipped(court: Court) -> str:
    """Eviction is skipped, and the file told to be cold."""
    return invalid(court.sample("cold", server=LyingServer(court.server, page_cache.warm, told=0.0)), "storage-short")


def no_fsync(court: Court) -> str:
    """A file just written is evicted without fsync before."""

    def prepare(files: Sequence[Path]) -> None:
        for file in files:
            content = file.read_bytes()
            fd = os.open(file, os.O_WRONLY)
            try:
                os.pwrite(fd, content, 0)  # the same bytes, not yet on disk
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    return invalid(court.sample("cold", server=LyingServer(court.server, prepare)), "not-cold")


def mapped_by_another(court: Court) -> str:
    """Another process holds the file mapped while it is evicted."""
    script = "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nsum(m[::4096])\nprint('held',flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, str(court.file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            return invalid(court.sample("cold"), "not-cold")
        finally:
            other.kill()


def warm_for_cold(court: Court) -> str:
    """A warm file is passed as cold."""
    return invalid(court.sample("cold", server=LyingServer(court.server, page_cache.warm)), "not-cold")


def cold_for_warm(court: Court) -> str:
    """A cold file is passed as warm, and told to be so."""
    return invalid(court.sample("warm", server=LyingServer(court.server, page_cache.evict, told=1.0)), "storage-read")


def in_memory(_: Court) -> str:
    """The checkpoints lie in a file system that is memory."""
    folder = next((path for path in map(Path, ("/dev/shm", "/run", "/tmp")) if _file_system(path) in ("tmpfs", "ramfs")), None)  # noqa: S108
    if folder is None or not os.access(folder, os.W_OK):
        raise NotCaughtError("no tmpfs to write to here, so that this lie could not be told")
    found = page_cache.capability(folder)
    if found.cold:
        raise NotCaughtError(f"{folder} was believed to be cold")
    return f"cold refused: {found.reason}"


def returns_early(court: Court) -> str:
    """A loader returns before it loads, and a thread of it fills the tensors later."""
    return invalid(court.sample("warm", "returns-early"), "wrong-content")


def wrong_content(court: Court) -> str:
    """A loader returns tensors of which one byte is another."""
    return invalid(court.sample("warm", "one-byte"), "wrong-content")


def unwaited_device(court: Court) -> str:
    """A device works on after the call has returned, and the clock is not told to wait."""
    pending = [0.0]

    class Late(Cpu):
        def wait(self) -> None:
            time.sleep(max(0.0, pending[0] - time.monotonic()))

        def bring_up(self, tensors: Any) -> None:
            self.wait()
            super().bring_up(tensors)

    def load(files: Any, device: str, prepared: Any) -> Any:
        tensors = by_key(f"{LIARS}:honest")[1].load(files, device, prepared)
        pending[0] = time.monotonic() + _UNWAITED_S
        return tensors

    loader = replace(by_key(f"{LIARS}:honest")[1], load=load)
    expected = json.loads(court.checkpoint.checksums_file.read_text(encoding="utf-8"))
    rehearsal = [str(file) for file in court.store.rehearsal(["safetensors"])["safetensors"]]
    with patch.object(child, "device_of", Late):
        found = child.take(child.Task(loader, [str(court.file)], rehearsal, "cpu", expected, 0))
    if found["returned_s"] < _UNWAITED_S:
        raise NotCaughtError(f"returned after {found['returned_s']:.4f} s, before the device was done")
    return f"the clock waited: returned after {1e3 * found['returned_s']:.1f} ms, of which the device took {1e3 * _UNWAITED_S:.0f}"


def previous_tensors(court: Court) -> str:
    """A process hands back what an earlier one has kept of the file."""
    os.environ[STASH_VARIABLE] = str(court.folder / "stash.safetensors")
    with Server({}, [], sys.executable) as server:  # which inherits the place of the stash
        court.sample("warm", "from-a-stash", server=server)
        page_cache.warm([court.folder / "stash.safetensors"])
        return invalid(court.sample("cold", "from-a-stash", server=server), "storage-short")


def busy_neighbour(court: Court) -> str:
    """Another process burns a core while a sample is taken."""
    with burning():
        return invalid(court.sample("warm", busy_at_most=AT_MOST), BUSY)


@contextmanager
def burning() -> Iterator[int]:
    """Have processes that nobody here started burn half of the cores, and yield the process id of one; they are gone afterwards.

    Each is orphaned at once, or it would count as the harness's own work.
    """
    script = (
        "import os,time\nif os.fork(): os._exit(0)\nos.setsid()\n"
        f"print(os.getpid(), flush=True)\nend = time.monotonic() + {_BURN_S}\nwhile time.monotonic() < end: pass"
    )
    burners = []
    try:
        for _ in range(-(-usable_cores() // 2)):
            with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as started:
                assert started.stdout is not None
                burners.append(int(started.stdout.readline()))
        yield burners[0]
    finally:
        for pid in burners:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


LIES: tuple[Lie, ...] = (
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
