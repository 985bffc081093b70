"""Readahead: set for a while and put back whatever happens, by the next run where this one was
killed.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.errors import WeighbridgeError
from harness.machine import read_ahead as module
from harness.machine.lock import only_run
from harness.machine.read_ahead import (
    journal_path,
    read_ahead,
    read_ahead_file,
    read_ahead_kb,
    restore_left_over,
    setting_refused,
)
from harness.machine.storage import storage
from harness.machine.storage_stack import device_of
from tests.helpers import hear, python

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="readahead is read and set through Linux's sysfs"
)

KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from harness.machine import storage
from harness.machine.read_ahead import read_ahead
tempfile.tempdir, storage._SYS = sys.argv[1], Path(sys.argv[2])
with read_ahead(Path(sys.argv[1]), 0):
    print("set", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sysfs of the test's own without any device, and a temporary folder of its own for the
    journal.
    """

    (tmp_path / "sys").mkdir()
    monkeypatch.setattr("harness.machine.storage._SYS", tmp_path / "sys")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "sys"


@pytest.fixture
def bdi(sysfs: Path, tmp_path: Path) -> Path:
    """The file with the readahead of the device under `tmp_path`, 8192 KiB, in that sysfs."""
    file = sysfs / "class/bdi" / device_of(tmp_path) / "read_ahead_kb"
    file.parent.mkdir(parents=True)
    file.write_text("8192\n")
    return file


def _replaced(file: Path, kernel: str) -> int:
    """Put a file of the real kernel's in place of one of the fake's, so that the kernel itself
    answers; return its value.
    """

    if not Path(kernel).exists():
        pytest.skip(f"this kernel has no {kernel}")
    file.unlink()
    file.symlink_to(kernel)
    return int(file.read_text())


def _kill_while_set(folder: Path, sysfs: Path) -> None:
    with python(KILLED, folder, sysfs) as run:
        assert hear(run) == "set"
        os.kill(run.pid, signal.SIGKILL)
        run.wait()


def _journal(**changed: Any) -> str:
    """Return the journal of this boot in which 8192 KiB became 0, with `changed` in it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return json.dumps(
        {
            "device": device_of(Path(tempfile.gettempdir())),
            "before": 8192,
            "during": 0,
            "boot": boot,
        }
        | changed
    )


# Where it stands


def test_the_readahead_of_a_device_is_read_from_its_file(bdi: Path, tmp_path: Path) -> None:
    assert read_ahead_file(tmp_path) == bdi
    assert read_ahead_kb(tmp_path) == storage(tmp_path).read_ahead_kb == 8192
    assert setting_refused(tmp_path) is None


@pytest.mark.parametrize("partition", [True, False])
def test_a_partition_has_the_readahead_of_its_disk(
    sysfs: Path, tmp_path: Path, partition: bool
) -> None:
    disk = sysfs / "devices/block/sda"
    (disk / "queue").mkdir(parents=True)
    (disk / "queue/read_ahead_kb").write_text("0\n")
    (disk / "sda1").mkdir()
    (sysfs / "dev/block").mkdir(parents=True)
    (sysfs / "dev/block" / device_of(tmp_path)).symlink_to(disk / "sda1" if partition else disk)
    file = read_ahead_file(tmp_path)
    assert file is not None and file.samefile(disk / "queue/read_ahead_kb")
    assert read_ahead_kb(tmp_path) == storage(tmp_path).read_ahead_kb == 0


def test_storage_without_readahead_is_refused_with_what_to_do(sysfs: Path, tmp_path: Path) -> None:
    assert (read_ahead_file(tmp_path), read_ahead_kb(tmp_path)) == (None, None)
    refused = setting_refused(tmp_path)
    assert (
        refused == f"the storage under {tmp_path} has no readahead setting: leave"
        " --read-ahead-kb out"
    )
    with pytest.raises(WeighbridgeError) as error, read_ahead(tmp_path, 128):
        pytest.fail("a readahead that is not there was set")
    assert str(error.value) == refused
    assert not journal_path().exists()


def test_a_file_that_may_not_be_written_is_refused(bdi: Path, tmp_path: Path) -> None:
    _replaced(bdi, "/proc/sys/kernel/cap_last_cap")  # closed to root too
    assert (
        setting_refused(tmp_path)
        == f"{bdi} may not be written by this process: run as root or leave --read-ahead-kb out"
    )


# Set for a while


def test_a_readahead_is_in_force_inside(bdi: Path, tmp_path: Path) -> None:
    with read_ahead(tmp_path, 128):
        assert read_ahead_kb(tmp_path) == 128
    assert bdi.read_text() == "8192\n"
    assert [path.name for path in tmp_path.iterdir()] == ["sys"]


def test_the_old_value_is_put_back_when_the_run_fails(bdi: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), read_ahead(tmp_path, 128):
        raise KeyboardInterrupt
    assert bdi.read_text() == "8192\n"
    assert not journal_path().exists()


def test_the_journal_is_written_before_the_value(
    bdi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    put: Callable[[Path, int, str], None] = module._put

    def watched(file: Path, kb: int, advice: str) -> None:
        seen.append((file.read_text(), journal_path().read_text()))
        put(file, kb, advice)
        seen.append((file.read_text(), journal_path().read_text()))

    monkeypatch.setattr(module, "_put", watched)
    with read_ahead(tmp_path, 0):
        assert stat.S_IMODE(journal_path().stat().st_mode) == 0o600
    assert seen == [(value, _journal()) for value in ("8192\n", "0\n", "0\n", "8192\n")]
    assert not journal_path().exists()


def test_a_value_that_cannot_be_journalled_is_not_set(bdi: Path, tmp_path: Path) -> None:
    journal_path().mkdir()
    with (
        pytest.raises(
            WeighbridgeError,
            match=r"weighbridge-read-ahead\.json cannot be written \(.+\): make room",
        ),
        read_ahead(tmp_path, 0),
    ):
        pytest.fail("a readahead was set that a kill would have left")
    assert bdi.read_text() == "8192\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sys", journal_path().name]


def test_a_value_the_kernel_refuses_is_one_plain_line(bdi: Path, tmp_path: Path) -> None:
    before = _replaced(bdi, "/proc/self/oom_score_adj")  # writable, and never more than 1000
    said = (
        r"^.+ cannot be set to 5000 KiB \(Invalid argument\): ask for another value or leave"
        r" --read-ahead-kb out$"
    )
    with pytest.raises(WeighbridgeError, match=said), read_ahead(tmp_path, 5000):
        pytest.fail("a value the kernel refuses was set")
    assert read_ahead_kb(tmp_path) == before
    assert not journal_path().exists()


def test_a_value_the_kernel_makes_another_of_is_an_error(bdi: Path, tmp_path: Path) -> None:
    _replaced(bdi, "/proc/self/timerslack_ns")  # which makes its default of 0
    bdi.write_text("8192\n")
    try:
        said = (
            r"^.+ was set to 0 KiB and the kernel made \d+ KiB of it: ask for another value or"
            r" leave --read-ahead-kb out$"
        )
        with pytest.raises(WeighbridgeError, match=said), read_ahead(tmp_path, 0):
            pytest.fail("another value than the one asked for was in force")
        assert bdi.read_text() == "8192\n"
        assert not journal_path().exists()
    finally:
        bdi.write_text("0\n")


def test_a_value_that_cannot_be_put_back_keeps_its_journal(bdi: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(
            WeighbridgeError, match=rf"put it back by hand: echo 8192 \| sudo tee {bdi}$"
        ),
        read_ahead(tmp_path, 0),
    ):
        _replaced(bdi, "/proc/sys/kernel/cap_last_cap")
    assert journal_path().read_text() == _journal()


def test_no_second_value_is_set_over_one_that_is_not_put_back(bdi: Path, tmp_path: Path) -> None:
    with read_ahead(tmp_path, 0):
        with pytest.raises(WeighbridgeError, match="not restored"), read_ahead(tmp_path, 128):
            pytest.fail("the value to go back to was lost")
        assert (bdi.read_text(), journal_path().read_text()) == ("0\n", _journal())
    assert bdi.read_text() == "8192\n"


# Left over by a run that was killed


def test_nothing_left_over_is_nothing_to_say(bdi: Path) -> None:
    assert restore_left_over() is None


def test_the_run_after_a_killed_one_puts_the_old_value_back(
    bdi: Path, sysfs: Path, tmp_path: Path
) -> None:
    _kill_while_set(tmp_path, sysfs)
    assert bdi.read_text() == "0\n"
    device = device_of(tmp_path)
    assert (
        restore_left_over()
        == f"readahead of {device} was left at 0 KiB by a run that was killed; put back to 8192 KiB"
    )
    assert bdi.read_text() == "8192\n"
    assert not journal_path().exists()
    assert restore_left_over() is None


def test_a_value_set_by_somebody_since_stays(bdi: Path, sysfs: Path, tmp_path: Path) -> None:
    _kill_while_set(tmp_path, sysfs)
    bdi.write_text("256\n")
    said = restore_left_over()
    assert (
        said is not None
        and "it was changed to 256 KiB since, so it stays; before that run it was 8192 KiB" in said
    )
    assert bdi.read_text() == "256\n"
    assert not journal_path().exists()


def test_a_value_put_back_already_is_nothing_to_say(bdi: Path, sysfs: Path, tmp_path: Path) -> None:
    _kill_while_set(tmp_path, sysfs)
    bdi.write_text("8192\n")
    assert restore_left_over() is None
    assert not journal_path().exists()


def test_a_value_of_another_boot_is_gone_by_itself(bdi: Path) -> None:
    bdi.write_text("0\n")
    journal_path().write_text(_journal(boot="another"))
    assert restore_left_over() is None
    assert bdi.read_text() == "0\n"
    assert not journal_path().exists()


def test_a_value_is_gone_with_its_device(bdi: Path, sysfs: Path, tmp_path: Path) -> None:
    _kill_while_set(tmp_path, sysfs)
    bdi.unlink()
    assert restore_left_over() is None
    assert not journal_path().exists()
    assert not bdi.exists()


def test_where_it_may_not_be_put_back_the_journal_stays(
    bdi: Path,
) -> None:
    now = _replaced(bdi, "/proc/sys/kernel/cap_last_cap")
    text = _journal(during=now)
    journal_path().write_text(text)
    said = restore_left_over()
    assert said is not None and said.startswith(
        f"readahead of {device_of(bdi.parent)} was left at {now} KiB by a run that was killed; "
    )
    assert said.endswith(f"run as root, or put it back by hand: echo 8192 | sudo tee {bdi}")
    assert journal_path().read_text() == text


@pytest.mark.skipif(
    os.sysconf("SC_PAGE_SIZE") != 4096,
    reason="130 KiB are whole pages or none at another size of page",
)
def test_a_run_killed_before_its_value_was_rounded_is_known(
    bdi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(file: Path, kb: int, advice: str) -> None:
        bdi.write_text("128\n")  # what the kernel makes of 130
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(module, "_put", killed)
        with pytest.raises(SystemExit), read_ahead(tmp_path, 130):
            pytest.fail("the run went on")
    assert bdi.read_text() == "128\n"
    restore_left_over()
    assert bdi.read_text() == "8192\n"


# What lies in a folder that is open to all


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "[" * 4000, "\udcff"),
        '{"device": "8:0"}',
        *(
            {"device": device}
            for device in ("../../x", "8:0/../8:1", "8:0\n", "8", "\u0668:\u0660", 8, None)
        ),
        *({"before": before} for before in (-1, "8192", 1.5, True, None)),
        *({"during": during} for during in (-1, "0", False)),
        {"path": "/etc/passwd"},
    ],
)
def test_a_damaged_journal_changes_nothing(bdi: Path, text: str | dict[str, Any]) -> None:
    bdi.write_text("0\n")
    journal_path().write_text(
        _journal(**text) if isinstance(text, dict) else text, errors="surrogateescape"
    )
    said = restore_left_over()
    assert said is not None and "was damaged and is removed" in said
    assert bdi.read_text() == "0\n"
    assert not journal_path().exists()


@pytest.mark.parametrize("injected", ["link", "pipe", "folder", "another user's"])
def test_a_injected_journal_is_ignored_and_left(bdi: Path, tmp_path: Path, injected: str) -> None:
    bdi.write_text("0\n")
    target = tmp_path / "target"
    target.write_text(_journal())
    match injected:
        case "link":
            journal_path().symlink_to(target)
        case "pipe":
            os.mkfifo(journal_path())
        case "folder":
            journal_path().mkdir()
        case _:
            if os.geteuid() != 0:
                pytest.skip("only root can make a file another user's")
            target.rename(journal_path())
            os.chown(journal_path(), 65534, 65534)
    found = journal_path().lstat()
    assert restore_left_over() is None
    assert bdi.read_text() == "0\n"
    assert journal_path().lstat() == found


def test_a_injected_link_does_not_lead_the_journal_elsewhere(bdi: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    journal_path().symlink_to(victim)
    with read_ahead(tmp_path, 0):
        assert not journal_path().is_symlink()
        assert journal_path().read_text() == _journal()
    assert victim.read_text() == "precious"
    assert bdi.read_text() == "8192\n"


# The real one


def test_the_real_device_has_its_old_readahead_again(tmp_path: Path) -> None:
    """With the real journal and as the run that holds the machine, so that this test too can be
    killed and meets nobody's measurement.
    """

    if refused := setting_refused(tmp_path):
        pytest.skip(refused)
    with ExitStack() as machine:
        try:
            machine.enter_context(only_run(tmp_path))
        except WeighbridgeError as error:
            pytest.skip(str(error))
        restore_left_over()
        before = read_ahead_kb(tmp_path)
        assert before is not None
        other = 128 if before != 128 else 256
        with read_ahead(tmp_path, other):
            assert read_ahead_kb(tmp_path) == other
        assert read_ahead_kb(tmp_path) == before
        with (
            pytest.raises(WeighbridgeError, match=f"the kernel made {other} KiB of it"),
            read_ahead(tmp_path, other + 1),
        ):
            pytest.fail("the kernel keeps whole pages")
        assert read_ahead_kb(tmp_path) == before
        assert not journal_path().exists()
