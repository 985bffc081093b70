"""Proofs of a cache state on every kind of storage that this machine can make: a file system in an
image on a loop device, the image on a disk or in memory, an overlay, and FUSE with and without its
cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.machine import page_cache, proof, shape_mount
from harness.machine.shape_mount import Mounted
from harness.machine.shapes import Shape
from harness.machine.storage_stack import described, stack
from harness.records.limits import COLD_AT_MOST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
IMAGE_BYTES = 160 << 20
FILE_BYTES = 3 << 20
Make = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Make]:
    """Yield what makes a file system in an image under a folder and returns where it is mounted."""
    mounted: list[Path] = []

    def make(kind: str, folder: Path, *options: str) -> Path:
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"mkfs.{kind} is not installed")
        file, point = folder / f"{kind}.img", tmp_path / f"mnt-{kind}"
        with file.open("wb") as opened:
            opened.truncate(IMAGE_BYTES if kind == "ext4" else 3 * IMAGE_BYTES)
        subprocess.run([f"mkfs.{kind}", "-q", str(file)], check=True, capture_output=True)
        point.mkdir()
        tried = subprocess.run(
            ["mount", "-o", ",".join(("loop", *options)), str(file), str(point)],
            capture_output=True,
            text=True,
        )
        if tried.returncode:
            pytest.skip(f"no {kind} can be mounted here: {tried.stderr.strip()}")
        mounted.append(point)
        return point

    yield make
    for point in mounted:
        subprocess.run(["umount", str(point)], check=True)


def _file(folder: Path) -> Path:
    path = folder / "weights"
    with path.open("wb") as file:
        file.write(os.urandom(FILE_BYTES))
        os.fsync(file.fileno())
    return path


@pytest.mark.parametrize(
    ("kind", "options"), [("ext4", ()), ("xfs", ()), ("btrfs", ()), ("btrfs", ("compress=zstd",))]
)
def test_on_a_loop_device_what_lies_below_is_made_cold_too(
    image: Make, tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    folder = image(kind, tmp_path, *options)
    found = proof.capability(folder)
    assert (found.cold, found.warm, found.witness) == (True, True, "bytes read"), found.reason
    assert found.depth == "below"
    layers = described(stack(folder))
    assert layers[0] == f"file system {kind}"
    assert layers[1].startswith("loop loop") and layers[1].endswith(", kept in a file")
    assert str(tmp_path) not in " ".join(layers)
    path, backing = _file(folder), tmp_path / f"{kind}.img"
    page_cache.warm([path, backing])
    assert proof.files_below([path]) == (backing,)
    assert proof.evict([path]) <= COLD_AT_MOST
    assert page_cache.residency([backing]).fraction <= COLD_AT_MOST


def test_an_image_in_memory_is_refused_by_name(image: Make) -> None:
    memory = Path("/dev/shm/weighbridge-test-proof")
    memory.mkdir()
    try:
        found = proof.capability(image("ext4", memory))
    finally:
        shutil.rmtree(memory)
    assert not found.cold and found.warm
    assert found.reason is not None
    assert "is kept in a file on tmpfs, which is memory" in found.reason


def test_an_image_that_stays_resident_leaves_the_file_not_cold(image: Make, tmp_path: Path) -> None:
    folder = image("ext4", tmp_path)
    path, backing = _file(folder), tmp_path / "ext4.img"
    page_cache.warm([backing])
    lock = page_cache.Lock([backing])
    try:
        if not lock.bytes:
            pytest.skip("nothing can be locked in memory here")
        assert proof.evict([path]) > COLD_AT_MOST
        refused = proof.capability(folder)
    finally:
        lock.release()
    assert not refused.cold and "is kept in stays" in (refused.reason or "")


needs_fuse = pytest.mark.skipif(
    shape_mount.refused() is not None, reason=f"no FUSE here: {shape_mount.refused()}"
)


@needs_fuse
def test_fuse_that_keeps_its_pages_is_cold_here_and_warm(tmp_path: Path) -> None:
    _file(tmp_path)
    with Mounted(Shape("kept"), tmp_path) as mounted:
        found = proof.capability(mounted.path)
    assert (found.cold, found.warm, found.depth) == (True, True, "here"), found.reason
    assert found.witness == "pages gained" and "cache of its own" in (found.note or "")


@needs_fuse
def test_fuse_that_drops_its_pages_has_cold_and_no_warm(tmp_path: Path) -> None:
    _file(tmp_path)
    with Mounted(Shape("dropped", keeps_pages=False), tmp_path) as mounted:
        found = proof.capability(mounted.path)
    assert (found.cold, found.warm) == (True, False), found.reason
    assert "opening a file drops its pages" in (found.reason or "")


def test_an_overlay_whose_file_below_is_hot_is_seen(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    below = _file(tmp_path / "lower")
    options = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    tried = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(tmp_path / "merged")],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        pytest.skip(f"no overlay can be mounted here: {tried.stderr.strip()}")
    try:
        above = tmp_path / "merged/weights"
        page_cache.warm([below])
        assert page_cache.residency([above]).fraction == 1.0
        assert proof.evict([above]) == 0.0
        assert page_cache.residency([below]).fraction == 0.0
        found = proof.capability(tmp_path / "merged")
        assert (found.cold, found.warm, found.witness) == (True, True, "bytes read")
        assert described(stack(above.parent))[:2] == ["file system overlay", "file system ext4"]
    finally:
        subprocess.run(["umount", str(tmp_path / "merged")], check=True)
