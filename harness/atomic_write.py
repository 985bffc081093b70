"""Writing a large file fast and whole: under a temporary name, carried to the disk while it is
being made, synced, then renamed.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

_LARGE_BYTES = 1 << 20
_WRITE_BYTES = 8 << 20
_WRITEBACK_EVERY_S = 0.005
_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # <fcntl.h>, <linux/fs.h>
_HAS_RENAMEAT2 = hasattr(_libc, "renameat2")  # glibc 2.28
_numbers = itertools.count()


class ThreadedFile:
    """A writable file whose writes are done by another thread, for a maker that computes between
    them.

    `torch.save` checksums at about the speed of the disk: side by side the two cost the longer of
    their times instead of the sum. A small piece is copied, since the maker may reuse its buffer; a
    large one is written from where it lies, so whatever is written has to stay as it is until the
    file is closed. Tensors that are being saved do.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        self._pieces: queue.SimpleQueue[memoryview | bytearray | None] = queue.SimpleQueue()
        self._small = bytearray()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def write(self, data: bytes | memoryview) -> int:
        """Take the bytes and return their number.

        Raises the thread's `OSError` once it is known.
        """
        if self._failure:
            raise self._failure
        view = memoryview(data).cast("B")
        if len(view) < _LARGE_BYTES:
            self._small += view
        if len(view) >= _LARGE_BYTES or len(self._small) >= _LARGE_BYTES:
            self._hand_over_small()
        if len(view) >= _LARGE_BYTES:
            self._pieces.put(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing: `__exit__` waits for the thread."""

    def __enter__(self) -> ThreadedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hand_over_small()
        self._pieces.put(None)
        self._thread.join()
        os.close(self._fd)
        if self._failure and not error:
            raise self._failure

    def _hand_over_small(self) -> None:
        self._pieces.put(self._small)
        self._small = bytearray()

    def _carry(self) -> None:
        while (piece := self._pieces.get()) is not None:
            rest = memoryview(piece)
            try:
                while rest and not self._failure:
                    rest = rest[os.write(self._fd, rest[:_WRITE_BYTES]) :]
            except OSError as error:
                self._failure = error


def write_atomically(
    path: Path,
    write: Callable[[Path], object],
    verify: Callable[[Path], object] | None = None,
    *,
    replace: bool = True,
) -> None:
    """Have `write` make the file at a temporary path beside `path`, sync it, have `verify` read it
    and rename it.

    The temporary name is this process's own, so that two writers never touch each other's work. A
    failure, an exception from `verify` or a kill leaves no `path`. Without `replace`,
    `FileExistsError` is raised where `path` has come to exist meanwhile, and stays as it is.
    """
    temporary = _own_name(path)
    try:
        with _early_writeback(temporary):
            write(temporary)
        _sync(temporary)
        if verify:
            verify(temporary)
        _publish(temporary, path, replace=replace)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder_atomically(
    path: Path,
    write: Callable[[Path], object],
    verify: Callable[[Path], object],
    *,
    replace: bool = True,
) -> None:
    """Have `write` fill a folder at a temporary path beside `path`, sync all of it, have `verify`
    read it and rename it, as above.
    """
    temporary = _own_name(path)
    try:
        temporary.mkdir()
        write(temporary)
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        verify(temporary)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        _publish(temporary, path, replace=False)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# a hook: whoever watches over this process sets it
on_temporary: Callable[[Path], object] = lambda path: None  # noqa: E731
"""Told each temporary path before it is made, so that somebody else can remove what is left if this
process is killed.
"""


def _own_name(path: Path) -> Path:
    """Return a temporary path beside `path` that no other process uses, and remove those that dead
    processes of this machine left.
    """
    place = _place()
    for left in path.parent.glob(f".{_escaped(path.stem)}.*.part{_escaped(path.suffix)}"):
        where, _, number = left.name.removeprefix(f".{path.stem}.").partition(".")[0].partition("-")
        if (
            where == place
            and (pid := number.partition("-")[0]).isdigit()
            and not Path("/proc", pid).exists()
            and Path("/proc/self").exists()
        ):
            (
                shutil.rmtree(left, ignore_errors=True)
                if left.is_dir()
                else left.unlink(missing_ok=True)
            )
    temporary = path.with_name(
        f".{path.stem}.{place}-{os.getpid()}-{next(_numbers)}.part{path.suffix}"
    )
    on_temporary(temporary)
    return temporary


def _place() -> str:
    """Return a word for this boot of this machine and its process numbers: a number tells a process
    only there.
    """
    words = ""
    with suppress(OSError):
        words = Path("/proc/sys/kernel/random/boot_id").read_text() + str(
            Path("/proc/self/ns/pid").readlink()
        )
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _escaped(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _publish(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give what is whole its name, in one step.

    Without `replace`, `FileExistsError` where the name is taken.
    """
    if replace:
        temporary.replace(path)
        return
    done = (
        _libc.renameat2(
            _AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE
        )
        if _HAS_RENAMEAT2
        else -1
    )
    if done == 0:
        return
    failure = ctypes.get_errno() if _HAS_RENAMEAT2 else errno.ENOSYS
    if failure in (
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTSUP,
    ):  # a file system or a kernel that cannot look and rename in one step
        if os.path.lexists(path):
            failure = errno.EEXIST
        else:
            temporary.rename(path)
            return
    raise OSError(failure, os.strerror(failure), str(path))


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path`, all of it or nothing."""
    write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n")
    )


@contextmanager
def _early_writeback(path: Path) -> Iterator[None]:
    """Have the kernel begin writing what is new in the file while it grows (`sync_file_range(2)`),
    so that the last sync waits for little.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_push, args=(path, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _push(path: Path, done: threading.Event) -> None:
    pushed = 0
    while not done.wait(_WRITEBACK_EVERY_S):
        if path.exists():
            fd = os.open(path, os.O_RDWR)
            size = os.fstat(fd).st_size
            if size > pushed:
                _libc.sync_file_range(
                    fd,
                    ctypes.c_int64(pushed),
                    ctypes.c_int64(size - pushed),
                    _SYNC_FILE_RANGE_WRITE,
                )
                pushed = size
            os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if (
            error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)
            or not path.is_dir()
        ):
            raise  # some network file systems sync no folder; a file's failure is never passed over
    finally:
        os.close(fd)
