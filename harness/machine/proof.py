"""Which proof of a cache state holds where, found by trying it: on the file system of a folder, and
on what that file system is kept in.

A state that cannot be had or proved is refused by name. Three depths are never mixed up: cold here
(this kernel's page cache), cold below (every cache of this machine beneath it as well), and cold at
the source, which no machine can claim of another or of its own host.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from harness.errors import WeighbridgeError
from harness.machine import page_cache
from harness.machine.counters import counters
from harness.machine.page_cache import ResidencyHiddenError
from harness.machine.storage_stack import MEMORY, NETWORK, Layer, stack
from harness.records.limits import COLD_AT_MOST, WARM_AT_LEAST

Witness = Literal["bytes read", "pages gained", "requests served"]
"""What tells that a load read storage: the kernel's count of this process's bytes, the pages that
came into the cache while it ran, or what a shaped storage counted itself.
"""
Depth = Literal["here", "below"]
_TRIED_BYTES, _LEAST_BYTES = 1 << 20, 1 << 16
"""Size of the file that a proof is tried on, and of the smallest that tells anything where none can
be made.
"""


@dataclass(frozen=True)
class Capability:
    """What a folder's storage allows: which cache states can be set and proved there, how, and why
    not.
    """

    cold: bool
    warm: bool
    method: str | None
    reason: str | None
    witness: Witness | None = None
    """By what a cold load is seen to read."""
    depth: Depth | None = None
    """How far down a cold file is cold."""
    note: str | None = None
    """What a reader should know of what lies below."""


def capability(folder: Path) -> Capability:
    """Return what can be set and proved in `folder`, found by trying it on a small file there.

    In a folder that cannot be written to, a file that lies in it is tried. Raises
    `WeighbridgeError` where there is none.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".page-cache-", delete=True) as file:
            file.write(os.urandom(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
            return _tried_on(Path(file.name))
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and (
            present := _any_file(folder)
        ):
            return _tried_on(present)
        raise WeighbridgeError(
            f"--store {folder}: cannot be written to ({error.strerror}); name a folder you may"
            " write to"
        ) from None


def files_below(files: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files that the storage of these files is kept in, which a cold load needs cold as
    well: the images of loop devices.
    """
    return tuple(
        dict.fromkeys(
            layer.backing
            for folder in dict.fromkeys(path.parent for path in files)
            for layer in _stack(folder)
            if layer.backing is not None
        )
    )


def evict(files: Sequence[Path]) -> float:
    """Make files cold, and what they are kept in, and return the resident share of the one that is
    least cold, 0 to 1.
    """
    page_cache.hold_if_opening_drops(files)
    most = page_cache.evict(files).most
    below = files_below(files)
    return max(most, page_cache.evict(below).most) if below else most


@lru_cache(maxsize=64)
def _stack(folder: Path) -> tuple[Layer, ...]:
    return stack(folder)


def _any_file(folder: Path) -> Path | None:
    """Return a file under a folder that is large enough to tell anything, the first as large as one
    of our own or else the largest, or None.
    """
    largest, most = None, _LEAST_BYTES - 1
    for path in sorted(folder.rglob("*")):
        size = path.stat().st_size if path.is_file() else 0
        if size >= _TRIED_BYTES:
            return path
        if size > most:
            largest, most = path, size
    return largest


def _tried_on(path: Path) -> Capability:
    """Return what can be set and proved for a file."""
    layers = stack(path.parent)
    try:
        page_cache.hold_if_opening_drops([path])
        full = page_cache.warm([path])
        if differ := page_cache.disagreement(path):
            return Capability(False, False, None, differ)
        keeps = full.fraction >= WARM_AT_LEAST
        if keeps:
            os.close(os.open(path, os.O_RDONLY))
            keeps = page_cache.residency([path]).fraction >= WARM_AT_LEAST
            if not keeps and not _reads_again(path):
                return Capability(
                    False,
                    False,
                    full.method,
                    "opening a file drops its pages, and reading it brings none",
                )
        elif full.fraction < WARM_AT_LEAST:
            return Capability(
                False,
                False,
                full.method,
                f"a file just read is reported {full.fraction:.3f} resident",
            )
        if not hasattr(os, "posix_fadvise"):
            return Capability(
                False,
                True,
                full.method,
                f"{sys.platform} has no posix_fadvise, so no file can be evicted",
            )
        left = page_cache.evict([path])
        if differ := page_cache.disagreement(path):
            return Capability(False, False, None, differ)
        if left.fraction > COLD_AT_MOST:
            return Capability(
                False,
                True,
                left.method,
                f"after fsync and eviction {left.fraction:.3f} of a file stays resident (tmpfs,"
                " ramfs, DAX and some sandboxes do so)",
            )
        warm_reason = None if keeps else "opening a file drops its pages here"
        if reason := not_cold_below(layers):
            return Capability(False, keeps, left.method, reason)
        witness = witness_of(path)
    except ResidencyHiddenError as error:
        return Capability(False, False, None, str(error))
    finally:
        page_cache.let_go()
    depth, note = depth_of(layers)
    return Capability(True, keeps, left.method, warm_reason, witness, depth, note)


def _reads_again(path: Path) -> bool:
    """Return whether reading a file brings its pages in while it is kept open."""
    return page_cache.warm([path]).fraction >= WARM_AT_LEAST


def witness_of(path: Path) -> Witness:
    """Return what tells that a cold file was read: the process's own count where that counts it,
    else the pages gained; found by reading the beginning of it.
    """
    page_cache.evict([path])
    least = min(_TRIED_BYTES, path.stat().st_size)
    before = counters().storage_read_bytes
    with path.open("rb", buffering=0) as file:
        file.read(least)
    after = counters().storage_read_bytes
    if before is not None and after is not None and after - before >= least:
        return "bytes read"
    return "pages gained"


def not_cold_below(layers: Sequence[Layer]) -> str | None:
    """Return why what a file system is kept in cannot be made cold, None where it can."""
    for above, layer in pairwise(layers):
        if layer.kind == "file system" and layer.name in MEMORY:
            return f"{above.name} is kept in a file on {layer.name}, which is memory"
    for layer in layers:
        if layer.backing is None:
            continue
        if not layer.backing.is_file():
            return f"the backing file of {layer.name} cannot be seen from here"
        try:
            left = page_cache.evict([layer.backing]).most
        except OSError as error:
            return f"the backing file of {layer.name} cannot be made cold ({error.strerror})"
        if left > COLD_AT_MOST:
            return f"the file that {layer.name} is kept in stays {left:.3f} resident"
    return None


def depth_of(layers: Sequence[Layer]) -> tuple[Depth, str | None]:
    """Return how far down a cold file is cold, and what a reader should know of it."""
    for layer in layers:
        if layer.kind != "file system":
            continue
        if layer.name.startswith("fuse"):
            return "here", "the server behind FUSE may have a cache of its own"
        if layer.name in NETWORK:
            return "here", f"the server of {layer.name} may have a cache of its own"
    if not layers or layers[-1].kind == "file system":
        return "here", "the storage below could not be examined"
    return "below", None
