"""The readahead of a device, set for a while: a journal says what it was before, so that the run
after a killed one puts it back.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import WeighbridgeError
from harness.machine.storage import read_ahead_of, storage
from harness.machine.storage_stack import device_of

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class _Journal:
    """What a run changed: the device as `major:minor`, its readahead before and during the run in
    KiB, and the boot it happened in.
    """

    device: str
    before: int
    during: int
    boot: str


def journal_path() -> Path:
    """Return the file that says, while a readahead is set, what it was before."""
    return Path(tempfile.gettempdir()) / "weighbridge-read-ahead.json"


def read_ahead_file(folder: Path) -> Path | None:
    """Return the file of sysfs with the readahead of the storage under `folder`, None where there
    is none; `OSError` without the folder.
    """
    return read_ahead_of(device_of(folder))


def read_ahead_kb(folder: Path) -> int | None:
    """Return the readahead in force under `folder` in KiB, None where the kernel shows none.

    `OSError` without the folder.
    """
    return storage(folder).read_ahead_kb


def setting_refused(folder: Path) -> str | None:
    """Return why this process may not set the readahead of the storage under `folder` and what to
    do, None where it may.
    """
    file = read_ahead_file(folder)
    if file is None:
        return f"the storage under {folder} has no readahead setting: leave --read-ahead-kb out"
    return (
        None
        if os.access(file, os.W_OK)
        else f"{file} may not be written by this process: run as root or leave --read-ahead-kb out"
    )


@contextmanager
def read_ahead(folder: Path, kb: int) -> Iterator[None]:
    """Have a readahead of `kb` KiB in force on the whole device under `folder`, and afterwards the
    one before it again.

    Raises `WeighbridgeError` where it cannot be set as asked or cannot be put back. To be used by
    the run that holds the machine.
    """
    if refused := setting_refused(folder):
        raise WeighbridgeError(refused)
    if _own_journal() is not None:  # to write over it would lose the value to go back to
        raise WeighbridgeError(
            f"an earlier readahead is not restored yet ({journal_path()}): restore it before you"
            " set another"
        )
    device, file, before = device_of(folder), read_ahead_file(folder), read_ahead_kb(folder)
    assert file is not None and before is not None
    # The kernel keeps whole pages: the journal names what will be in force, or a value rounded just
    # before a kill would look like another's.
    _write_journal(
        _Journal(device, before, kb - kb % (mmap.PAGESIZE >> 10), _BOOT.read_text().strip())
    )
    try:
        _put(file, kb, "ask for another value or leave --read-ahead-kb out")
        yield
    finally:
        _put(file, before, f"put it back by hand: echo {before} | sudo tee {file}")
        journal_path().unlink(missing_ok=True)


def restore_left_over() -> str | None:
    """Put back what a killed run left set, unless somebody has changed it since.

    Return a sentence on it, None where nothing was left.

    To be called at its beginning by the run that holds the machine.
    """
    text, line = _own_journal(), None
    if text is None:
        return None
    journal = _parsed(text)
    if journal is None:
        line = (
            f"{journal_path()} was damaged and is removed: the readahead of a killed run may still"
            " be set"
        )
    elif journal.boot == _BOOT.read_text().strip() and (
        file := read_ahead_of(journal.device)
    ):  # or it is gone by itself
        left = (
            f"readahead of {journal.device} was left at {journal.during} KiB by a run that was"
            " killed"
        )
        now = int(file.read_text())
        if now not in (journal.before, journal.during):
            line = (
                f"{left}; it was changed to {now} KiB since, so it stays; before that run it was"
                f" {journal.before} KiB"
            )
        elif now != journal.before:
            try:
                _put(
                    file,
                    journal.before,
                    f"run as root, or put it back by hand: echo {journal.before} | sudo tee {file}",
                )
            except WeighbridgeError as error:
                return f"{left}; {error}"
            line = f"{left}; put back to {journal.before} KiB"
    journal_path().unlink(missing_ok=True)
    return line


def _put(file: Path, kb: int, advice: str) -> None:
    try:
        if int(file.read_text()) != kb:
            file.write_text(f"{kb}\n")
        count = int(file.read_text())
    except OSError as error:
        raise WeighbridgeError(
            f"{file} cannot be set to {kb} KiB ({error.strerror}): {advice}"
        ) from error
    if count != kb:
        raise WeighbridgeError(
            f"{file} was set to {kb} KiB and the kernel made {count} KiB of it: {advice}"
        )


def _write_journal(journal: _Journal) -> None:
    """Write the journal durably, whole or not at all.

    What somebody injected under its name is replaced, never followed.
    """
    path = journal_path()
    try:
        fd, name = tempfile.mkstemp(
            dir=path.parent, prefix=path.name
        )  # made with O_EXCL, for this user alone
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(asdict(journal), file)
                file.flush()
                os.fsync(fd)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise WeighbridgeError(
            f"{path} cannot be written ({error.strerror}): make room for it or leave"
            " --read-ahead-kb out"
        ) from error


def _own_journal() -> str | None:
    """Return the text of this user's journal.

    Whatever else lies under its name, in a folder open to all, counts as none.
    """
    wary = (
        os.O_NOFOLLOW | os.O_NONBLOCK
    )  # an injected link would lead away, an injected pipe wait for a writer
    try:
        with open(
            journal_path(), errors="replace", opener=lambda path, flags: os.open(path, flags | wary)
        ) as file:
            status = os.fstat(file.fileno())
            return (
                file.read(4096)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
                else None
            )
    except OSError:
        return None


def _parsed(text: str) -> _Journal | None:
    """Return the journal in a text, None where it is damaged: its device ends in a path and its
    values in what is written there.
    """
    try:
        journal = _Journal(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    values = all(type(kb) is int and kb >= 0 for kb in (journal.before, journal.during))
    return journal if values and re.fullmatch("[0-9]+:[0-9]+", str(journal.device)) else None
