"""Shaped storage: options, delays, the request limit, and what is left after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import WeighbridgeError
from harness.machine import page_cache, shape_mount, throttle
from harness.machine.requests import Served, served_by_device
from harness.machine.shape_mount import Mounted
from harness.machine.shapes import SHAPES, Shape, shape_named, shapes_of, storage_names
from harness.machine.storage_stack import mount_of, request_statistics
from harness.machine.throttle import Throttle
from tests.helpers import ROOT

needs_fuse = pytest.mark.skipif(
    shape_mount.refused() is not None, reason=f"no FUSE here: {shape_mount.refused()}"
)
FILE_BYTES = 4 << 20


def test_the_shapes_have_the_numbers_that_they_are_told_by() -> None:
    volume, disk = SHAPES["cloud-volume"], SHAPES["network-disk"]
    assert (volume.rate, volume.requests_per_s, volume.kind) == (125e6, 3000, "throttled")
    assert (disk.latency_s, disk.rate, disk.depth, disk.kind) == (1e-3, 1e9, 16, "delayed")
    store, spinning = SHAPES["object-store"], SHAPES["hard-disk"]
    assert (store.latency_s, store.rate, store.depth) == (20e-3, 500e6, 64)
    assert (spinning.seek_s, spinning.rate, spinning.depth) == (8e-3, 150e6, 1)


def test_a_shape_of_ones_own_has_a_name_that_gives_it_back() -> None:
    (shape,) = shapes_of("latency=2ms,rate=500MB/s,depth=16,readahead=128KiB")
    assert shape == Shape(
        "latency:2ms+rate:500MBps+depth:16+readahead:128KiB",
        latency_s=2e-3,
        rate=500e6,
        depth=16,
        read_ahead_kb=128,
    )
    assert shape_named(shape.name) == shape
    assert shapes_of(shape.name) == (shape,)
    assert "/" not in shape.name, "it is a part of a cell's name"


def test_names_and_shapes_of_ones_own_stand_side_by_side() -> None:
    assert storage_names(None) == ("as-is",)
    assert storage_names("latency=1ms,rate=1GB/s,requests=300,rate=125MB/s,depth=4") == (
        "latency:1ms+rate:1GBps",
        "rate:125MBps+requests:300",
        "depth:4",
    )
    assert storage_names("as-is,latency=1ms,latency=5ms,cloud-volume") == (
        "as-is",
        "latency:1ms",
        "latency:5ms",
        "cloud-volume",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("floppy", "no such storage; there are as-is, cloud-volume"),
        ("", "names nothing"),
        ("latency=fast", "not a number above 0 with a unit of us, ms, s"),
        ("latency=0ms", "not a number above 0"),
        ("speed=1GB/s", "unknown part; there are latency"),
        ("depth=0", "not a whole number above 0"),
    ],
)
def test_what_names_no_storage_is_an_error_that_says_what_to_do(text: str, words: str) -> None:
    with pytest.raises(WeighbridgeError, match=words):
        shapes_of(text)


def _file(folder: Path) -> Path:
    path = folder / "weights"
    path.write_bytes(os.urandom(FILE_BYTES))
    return path


def _read(path: Path) -> float:
    start = time.perf_counter()
    path.read_bytes()
    return time.perf_counter() - start


@needs_fuse
@pytest.mark.slow
def test_a_mount_delays_each_request_and_counts_them(tmp_path: Path) -> None:
    path = _file(tmp_path)
    with Mounted(Shape("slow", latency_s=0.02, depth=1), tmp_path) as mounted:
        above = mounted.beneath(path)
        assert page_cache.evict([above]).fraction == 0.0
        before = mounted.served()
        taken = _read(above)
        served = mounted.served().since(before)
        assert above.read_bytes() == path.read_bytes()
        assert mounted.served().since(before) == served, "what is cached is not asked for again"
    assert served.bytes == FILE_BYTES
    assert served.requests >= FILE_BYTES / (1 << 20)
    assert taken >= 0.9 * served.requests * 0.02
    assert served.waited_s is not None and served.waited_s >= 0.9 * served.requests * 0.02
    assert served.late_share is not None and served.late_share < 0.25


_BOTH_LIBRARIES = """
import ctypes.util
found = ctypes.util.find_library
ctypes.util.find_library = lambda name: "libfuse.so.2" if name == "fuse" else found(name)
import mfusepy
print(mfusepy.fuse_version_major)
"""


@needs_fuse
def test_the_server_takes_libfuse_3_where_a_system_has_libfuse_2_as_well() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _BOTH_LIBRARIES],
        env=shape_mount.server_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "3"


@needs_fuse
def test_the_number_of_threads_is_given_only_to_a_libfuse_that_knows_it() -> None:
    from harness.machine.shape_server import most_threads

    four = Shape("four at once", depth=4)
    assert most_threads(four, (3, 10)) == {}
    assert most_threads(four, (3, 12)) == most_threads(four, (3, 17)) == {"max_threads": 10}


def test_a_mount_that_fails_quotes_what_libfuse_said() -> None:
    traceback = "Traceback (most recent call last):\n  File\nRuntimeError: 1\n"
    said = "fuse: unknown option `max_threads=4'"
    assert shape_mount.last_words(f"{said}\n{traceback}") == said
    assert shape_mount.last_words(traceback) == "RuntimeError: 1"
    assert shape_mount.last_words("") is None


@needs_fuse
@pytest.mark.parametrize("name", ["a,b", "a b", "a\\b", "a\\,b", "ä=b"])
def test_a_folder_of_any_name_is_served(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "x").write_text("1")
    with Mounted(Shape("plain"), folder) as mounted:
        assert mounted.beneath(folder / "x").read_text() == "1"
        below = mount_of(mounted.path)
        assert below is not None and below.source == str(folder)


@needs_fuse
@pytest.mark.slow
def test_a_rate_bounds_what_a_mount_gives(tmp_path: Path) -> None:
    path = _file(tmp_path)
    with Mounted(Shape("narrow", rate=20e6), tmp_path) as mounted:
        page_cache.evict([mounted.beneath(path)])
        taken = _read(mounted.beneath(path))
    assert FILE_BYTES / 20e6 * 0.9 <= taken <= 3 * FILE_BYTES / 20e6


@needs_fuse
@pytest.mark.slow
def test_a_mount_is_read_only_and_gone_afterwards(tmp_path: Path) -> None:
    _file(tmp_path)
    with Mounted(Shape("plain"), tmp_path) as mounted:
        place = mounted.path
        with pytest.raises(OSError, match="Read-only"):
            (place / "new").write_text("x")
    assert not place.exists() and not place.parent.exists()


HOLD = """
import sys, time
from pathlib import Path
from harness.machine.shape_mount import Mounted
from harness.machine.shapes import Shape
mounted = Mounted(Shape("plain"), Path(sys.argv[1]))
print(mounted.path, mounted._process.pid, flush=True)
time.sleep(60)
"""


def _held(folder: Path) -> tuple[subprocess.Popen[str], Path, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    place, server = process.stdout.readline().split()
    return process, Path(place), int(server)


@needs_fuse
@pytest.mark.slow
def test_a_killed_run_takes_its_mount_along(tmp_path: Path) -> None:
    _file(tmp_path)
    process, place, _ = _held(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 10
    while place in shape_mount._points() and time.monotonic() < end:
        time.sleep(0.05)
    assert place not in shape_mount._points()


@needs_fuse
@pytest.mark.slow
def test_what_a_kill_leaves_the_next_command_clears(tmp_path: Path) -> None:
    _file(tmp_path)
    process, place, server = _held(tmp_path)
    os.kill(server, signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = place in shape_mount._points()
    assert left or not place.parent.exists(), "or a command of another test was the next"
    ended = subprocess.run(
        [sys.executable, "-m", "harness", "cold", str(tmp_path / "weights")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert place not in shape_mount._points()
    assert not place.parent.exists()


@pytest.mark.slow
def test_a_request_limit_bounds_requests_and_is_lifted(tmp_path: Path) -> None:
    if reason := throttle.refused(tmp_path):
        pytest.skip(f"no device can be limited here: {reason}")
    path, statistics = _file(tmp_path), request_statistics(tmp_path)
    assert statistics is not None
    page_cache.evict([path])
    group = Throttle(Shape("counted", requests_per_s=20), tmp_path)
    try:
        with group.around_family(os.getpid()):
            before = served_by_device(statistics)
            start = time.perf_counter()
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            for at in range(0, 40 * 4096, 4096):
                os.pread(fd, 4096, at)
            os.close(fd)
            taken = time.perf_counter() - start
            after = served_by_device(statistics)
    finally:
        group.remove()
    assert not group.group.exists()
    assert isinstance(before, Served) and isinstance(after, Served)
    assert after.since(before).requests >= 40
    assert taken >= 1.0, "40 requests at 20 a second"
    page_cache.evict([path])
    assert _read(path) < 1.0


def test_groups_of_runs_that_are_gone_are_removed() -> None:
    parent = throttle._parent()
    if parent is None or not os.access(parent, os.W_OK):
        pytest.skip("no control group can be made here")
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    left = parent / f"weighbridge-io-{gone.pid}"
    left.mkdir()
    throttle.clear_left_over()  # or a command of another test was first
    assert not left.exists()
