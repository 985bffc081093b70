"""Lies, each told to the harness as it is shipped: what is staged, and by which words it is to be caught.

A lie is a function that is given a `Court`; its docstring's first line says what is told. It returns how it was caught, or raises `NotCaughtError`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness.checkpoints.store import Checkpoint, Store
from harness.errors import WeighbridgeError
from harness.loaders import by_key
from harness.machine import page_cache
from harness.measure import child
from harness.measure.cache_state import residency
from harness.measure.cell import Cell
from harness.measure.client import Server
from harness.measure.device import Cpu
from harness.measure.sample import Sample
from harness.measure.taking import Arm, Place, take_sample
from harness.nightly.liars import STASH_VARIABLE
from harness.records.run_directory import SAMPLES, RunDirectory
from harness.verdicts.regression import (
    BASELINE_GONE,
    INSUFFICIENT,
    INVALID,
    MISSING,
    change,
    exit_code,
    judged,
    safe_thresholds,
)
from harness.verdicts.stored import not_comparable

_LIARS = "harness.nightly.liars"
_UNWAITED_S = 0.05


class NotCaughtError(WeighbridgeError):
    """A lie went through; the message says what the harness made of it."""


@dataclass(frozen=True)
class Court:
    """What a lie is told with: a checkpoint, a server, a manifest of this machine, and a folder to write in."""

    store: Store
    checkpoint: Checkpoint
    server: Server
    manifest: dict[str, Any]
    folder: Path

    @property
    def file(self) -> Path:
        """The file that is loaded."""
        return self.checkpoint.artifacts["safetensors"].files[0]

    def sample(self, cache_state: str, liar: str = "honest", server: Any = None, block: int = 0, environment: str = "trial") -> Sample:
        """Return a sample by a liar, through what every sample goes through."""
        key = f"{_LIARS}:{liar}"
        rehearsal = self.store.rehearsal(["safetensors"])["safetensors"]
        arm = Arm(key, by_key(key)[1], environment, server or self.server, rehearsal)
        return take_sample(Cell("full-load", self.checkpoint.name, cache_state, "cpu"), self.checkpoint, arm, Place("trial", block, 0))


class _Lying:
    """A server whose cache state is set by a liar, and told by the same liar where it has something to tell."""

    def __init__(self, server: Server, prepare: Callable[[Sequence[Path]], object], told: float | None = None) -> None:
        self._server, self._prepare, self._told = server, prepare, told
        self.sample, self.residency = server.sample, server.residency

    def set_cache_state(self, _cache_state: str, files: Sequence[Path]) -> tuple[float | None, str | None]:
        """Do what the liar does and return what it tells, or what the kernel does."""
        self._prepare(files)
        return (residency(files) if self._told is None else self._told), None


def eviction_skipped(court: Court) -> str:
    """Eviction is skipped, and the file told to be cold."""
    return _invalid(court.sample("cold", server=_Lying(court.server, page_cache.warm, told=0.0)), "storage-short")


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

    return _invalid(court.sample("cold", server=_Lying(court.server, prepare)), "not-cold")


def mapped_by_another(court: Court) -> str:
    """Another process holds the file mapped while it is evicted."""
    script = "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nsum(m[::4096])\nprint('held',flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, str(court.file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            return _invalid(court.sample("cold"), "not-cold")
        finally:
            other.kill()


def warm_for_cold(court: Court) -> str:
    """A warm file is passed as cold."""
    return _invalid(court.sample("cold", server=_Lying(court.server, page_cache.warm)), "not-cold")


def cold_for_warm(court: Court) -> str:
    """A cold file is passed as warm, and told to be so."""
    return _invalid(court.sample("warm", server=_Lying(court.server, page_cache.evict, told=1.0)), "storage-read")


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
    return _invalid(court.sample("warm", "returns-early"), "wrong-content")


def wrong_content(court: Court) -> str:
    """A loader returns tensors of which one byte is another."""
    return _invalid(court.sample("warm", "one-byte"), "wrong-content")


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
        tensors = by_key(f"{_LIARS}:honest")[1].load(files, device, prepared)
        pending[0] = time.monotonic() + _UNWAITED_S
        return tensors

    loader = replace(by_key(f"{_LIARS}:honest")[1], load=load)
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
        return _invalid(court.sample("cold", "from-a-stash", server=server), "storage-short")


def fixed_order(court: Court) -> str:
    """The baseline is taken first in every block, and everything slows down meanwhile."""
    base = [replace(_made_up(court), block=block, position=0, ready_s=1.0, environment="a") for block in range(20)]
    drifted = [replace(sample, position=1, ready_s=1.3, returned_s=1.3, environment="b") for sample in base]
    found = change(base, drifted)
    if found.verdict != INSUFFICIENT or "first in every block" not in found.reason:
        raise NotCaughtError(f"it was called {found.verdict}: {found.reason}")
    return f"{found.verdict}: {found.reason}"


def missing_cell(court: Court) -> str:
    """A result lacks a cell that the baseline has."""
    base = [replace(_made_up(court), block=block, environment="a") for block in range(20)]
    found = judged([{"name": Cell.of(base[0]).name, "arms": ["honest"]}], base, "a", "b", safe_thresholds)
    if exit_code(found) != INVALID or found[0].change.verdict != MISSING:
        raise NotCaughtError(f"it was called {found[0].change.verdict}")
    return f"{MISSING}, exit code {INVALID}: {found[0].change.reason}"


def other_machine(court: Court) -> str:
    """The baseline is another machine's."""
    other = court.manifest | {"machine": court.manifest["machine"] | {"cpu": "a faster one"}, "run": "elsewhere"}
    if not (reason := not_comparable(other, court.manifest)):
        raise NotCaughtError("the two were compared")
    return reason


def truncated_samples(court: Court) -> str:
    """A file of samples has lost the middle of a line."""
    run = RunDirectory(court.folder / "truncated")
    run.path.mkdir()
    for block in range(3):
        run.append(replace(_made_up(court), block=block))
    path = run.path / SAMPLES
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 40 :])
    return _refused(lambda: run.samples())


def shortened_samples(court: Court) -> str:
    """A file of samples ends too early, so that a cell has fewer pairs than it says."""
    run = RunDirectory(court.folder / "shortened")
    run.path.mkdir()
    made = [replace(_made_up(court), block=block, environment=side) for block in range(6) for side in ("a", "b")]
    for sample in made:
        run.append(sample)
    path = run.path / SAMPLES
    path.write_bytes(path.read_bytes()[:-10])
    found = judged([{"name": Cell.of(made[0]).name, "arms": ["honest"]}], run.samples(), "a", "b", safe_thresholds)
    if found[0].change.verdict != INSUFFICIENT:
        raise NotCaughtError(f"it was called {found[0].change.verdict}")
    return f"{INSUFFICIENT}, exit code {exit_code(found)}: {found[0].change.reason}"


def other_worker(court: Court) -> str:
    """The worker that answers runs other measuring code than the one that asks."""
    python = court.folder / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\nfor line in sys.stdin:\n    print(json.dumps({{'code': 'an-older-one', 'absent': {{}}}}), flush=True)\n"
    )
    python.chmod(0o755)

    def start() -> None:
        with Server({}, [], str(python)):
            pass

    return _refused(start)


def no_baseline(court: Court) -> str:
    """The baseline has no valid sample, so that anything would be as good."""
    new = [replace(_made_up(court), block=block, environment="b") for block in range(20)]
    found = judged([{"name": Cell.of(new[0]).name, "arms": ["honest"]}], new, "a", "b", safe_thresholds)
    if found[0].change.witness != BASELINE_GONE:
        raise NotCaughtError(f"it was called {found[0].change.verdict}")
    return f"{MISSING}, exit code {exit_code(found)}: {found[0].change.reason}"


LIES: tuple[Callable[[Court], str], ...] = (
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
    fixed_order,
    missing_cell,
    other_machine,
    truncated_samples,
    shortened_samples,
    other_worker,
    no_baseline,
)


@contextmanager
def court(store: Store, checkpoint: Checkpoint, manifest: dict[str, Any], folder: Path) -> Iterator[Court]:
    """Hold a court: an honest sample is believed in it, cold and warm, before any lie is told."""
    rehearsal = [str(file) for file in store.rehearsal(["safetensors"])["safetensors"]]
    folder.mkdir(parents=True)
    artifact = checkpoint.artifacts["safetensors"]
    copied = Path(shutil.copyfile(artifact.files[0], folder / "model.safetensors"))  # liars write to it
    checkpoint = replace(checkpoint, artifacts={"safetensors": replace(artifact, files=(copied,))})
    with Server({f"{_LIARS}:honest": rehearsal}, [], sys.executable) as server:
        held = Court(store, checkpoint, server, manifest, folder)
        for state in ("cold", "warm"):
            honest = held.sample(state)
            if not honest.valid:
                raise WeighbridgeError(f"an honest {state} sample is not believed here: {honest.reason}, {honest.detail}")
        yield held


def _made_up(court: Court) -> Sample:
    """Return a real sample of this machine, to put lies about blocks and files into."""
    return replace(court.sample("warm"), returned_s=1.0, ready_s=1.0)


def _invalid(sample: Sample, reason: str) -> str:
    if sample.valid or sample.reason != reason:
        raise NotCaughtError(f"a sample that was {'valid' if sample.valid else f'invalid for {sample.reason}'}, not {reason}")
    return f"{sample.reason}: {sample.detail}"


def _refused(act: Callable[[], object]) -> str:
    try:
        act()
    except WeighbridgeError as error:
        return str(error).replace(str(Path.cwd()), "…")
    raise NotCaughtError("it was believed")


def _file_system(folder: Path) -> str | None:
    from harness.machine.storage import storage

    return storage(folder).file_system if folder.is_dir() else None
