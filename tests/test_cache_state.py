"""What is warm stays warm until it is to be cold, and code that runs is never fetched in a load's
time.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.machine import page_cache, proof
from harness.machine.counters import counters
from harness.machine.libraries import hold_libraries
from harness.workers import cache_state
from harness.workers.cache_state import residency, set_cache_state
from tests.helpers import hear, python

SIZE = 4 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    if not proof.capability(tmp_path).cold:
        pytest.skip(f"nothing can be made cold in {tmp_path}")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    yield path
    set_cache_state("cold", [path])


def _locks_allowed(path: Path) -> bool:
    lock = page_cache.Lock([path])
    try:
        return lock.bytes == SIZE
    finally:
        lock.release()


def test_what_is_warm_cannot_be_taken_away(file: Path) -> None:
    if not _locks_allowed(file):
        pytest.skip("this process may lock no memory")
    assert set_cache_state("warm", [file]) == (1.0, None)
    assert page_cache.evict([file]).fraction == 1.0, "locked pages are not evicted"
    assert set_cache_state("cold", [file]) == (0.0, None)
    assert residency([file]) == 0.0


def test_another_file_that_is_made_warm_lets_go(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(os.urandom(SIZE))
    set_cache_state("warm", [file])
    set_cache_state("warm", [other])
    assert page_cache.evict([file]).fraction == 0.0
    assert residency([other]) == 1.0
    assert sum(len(lock.paths) for lock in cache_state._locks) == 1


def test_a_file_is_brought_in_here_before_it_is_warm(file: Path, tmp_path: Path) -> None:
    """Whoever read it last may have left its pages in pieces that make every warm load slower or
    faster.
    """

    before = counters().storage_read_bytes
    if before is None:
        pytest.skip("this system does not say what was read from storage")
    assert file.read_bytes()
    assert residency([file]) == 1.0

    def read_from_storage(state: str, path: Path) -> int:
        start = counters().storage_read_bytes or 0
        set_cache_state(state, [path])
        return (counters().storage_read_bytes or 0) - start

    assert read_from_storage("warm", file) >= SIZE
    assert read_from_storage("warm", file) == 0
    (tmp_path / "other").write_bytes(os.urandom(SIZE))
    set_cache_state("warm", [tmp_path / "other"])
    assert read_from_storage("warm", file) == 0, "another file in between changes nothing"
    set_cache_state("cold", [file])
    assert file.read_bytes()
    assert read_from_storage("warm", file) >= SIZE, "after a cold load it is brought in again"


def test_a_file_is_locked_once_however_often_it_is_made_warm(file: Path) -> None:
    set_cache_state("warm", [file])
    (first,) = cache_state._locks
    set_cache_state("warm", [file])
    assert cache_state._locks == [first]


def test_where_locking_is_refused_what_is_warm_stays_warm(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        """The C library of a process that has no right to lock."""

        def __getattr__(self, name: str) -> object:
            return (lambda *_: -1) if name == "mlock" else getattr(page_cache_libc, name)

    page_cache_libc: ctypes.CDLL = page_cache._libc
    monkeypatch.setattr(page_cache, "_libc", Refusing())
    assert set_cache_state("warm", [file]) == (1.0, None)
    assert cache_state._locks[0].bytes == 0
    assert set_cache_state("cold", [file]) == (0.0, None)


def test_a_file_that_is_not_there_is_a_reason_and_no_error(tmp_path: Path) -> None:
    for state in ("cold", "warm"):
        fraction, problem = set_cache_state(state, [tmp_path / "missing"])
        assert fraction is None
        assert problem == "FileNotFoundError: No such file or directory"


def test_an_empty_file_can_be_warm(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert set_cache_state("warm", [tmp_path / "empty"]) == (1.0, None)


def test_the_libraries_a_process_runs_are_all_in_memory() -> None:
    program = """
import sys
from harness.machine.libraries import hold_libraries
print(hold_libraries(), flush=True)
sys.stdin.readline()
"""
    with python(program) as process:
        locked = int(hear(process))
        mapped = {
            line.split(maxsplit=5)[5]
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            if "/" in line
        }
        libraries = [Path(name) for name in mapped if ".so" in name]
        assert libraries
        assert residency(libraries) == 1.0
        status = Path(f"/proc/{process.pid}/status").read_text()
        vm_lck = next(
            int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmLck")
        )
    assert vm_lck == locked
    if locked:
        assert locked > 1 << 20


def test_holding_libraries_takes_nothing_from_this_process(tmp_path: Path) -> None:
    """What is locked is mapped already, and reading a file through leaves no mapping behind."""
    before = len(Path("/proc/self/maps").read_text().splitlines())
    hold_libraries()
    assert (
        len(Path("/proc/self/maps").read_text().splitlines()) <= before + 8
    )  # a lock may cut a mapping in two
