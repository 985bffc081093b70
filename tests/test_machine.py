"""The machine: a cache state is proved or refused, one run has the machine, and its description
names nobody.
"""

from __future__ import annotations

import getpass
import json
import mmap
import os
import platform
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.errors import WeighbridgeError
from harness.machine import counters, description, page_cache, proof
from harness.machine.description import available_memory, describe_machine, packages, usable_cores
from harness.machine.heap import collapse_heap
from harness.machine.lock import lock_path, only_run
from harness.machine.page_cache import Residency
from harness.machine.proof import Capability
from harness.machine.storage import storage
from harness.machine.storage_stack import mount_of
from harness.records.limits import COLD_AT_MOST
from tests.helpers import ROOT, hear, python

PAGE = mmap.PAGESIZE
PAGES = 1024
SHARED_MEMORY = Path("/dev/shm")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="the page cache is set and proved by Linux's own calls",
)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder whose files can leave the page cache."""
    if storage(tmp_path).file_system in ("tmpfs", "ramfs"):
        pytest.skip("the temporary folder lies in memory; name one on a disk with --basetemp")
    return tmp_path


def _synced(path: Path, size: int = PAGES * PAGE) -> Path:
    with path.open("wb") as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())
    return path


def _read_every_second_page(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(
            fd, 0, 0, os.POSIX_FADV_RANDOM
        )  # or readahead would bring the pages between
        for page in range(0, PAGES, 2):
            os.pread(fd, PAGE, page * PAGE)
    finally:
        os.close(fd)


def test_a_clean_file_is_proved_cold_after_eviction(disk: Path) -> None:
    path = _synced(disk / "weights")
    cold = page_cache.evict([path])
    assert (cold.pages, cold.cached, cold.fraction) == (PAGES, 0, 0.0)
    warm = page_cache.warm([path])
    assert (warm.pages, warm.cached, warm.fraction) == (PAGES, PAGES, 1.0)
    assert page_cache.residency([path]) == warm


def test_a_half_resident_file_is_warmed_to_its_last_page(disk: Path) -> None:
    path = _synced(disk / "weights", PAGES * PAGE - 1)
    page_cache.evict([path])
    _read_every_second_page(path)
    assert page_cache.warm([path]).cached == PAGES


def test_advice_alone_leaves_unsynced_pages_and_evict_does_not(disk: Path) -> None:
    """`posix_fadvise` reports success on dirty pages and leaves them: a figure taken after it alone
    would be a warm one.
    """

    path = disk / "weights"
    path.write_bytes(os.urandom(PAGES * PAGE))
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert page_cache.residency([path]).fraction > COLD_AT_MOST
    assert page_cache.evict([path]).cached == 0


def test_unsynced_pages_are_counted_as_dirty(disk: Path) -> None:
    path = disk / "weights"
    path.write_bytes(os.urandom(PAGES * PAGE))
    found = page_cache.residency([path])
    if found.method != "cachestat":
        pytest.skip("mincore does not tell dirty pages from clean ones")
    assert found.dirty
    assert page_cache.evict([path]).dirty == 0


def test_pages_another_process_has_mapped_stay(disk: Path) -> None:
    path = _synced(disk / "weights")
    script = """
import mmap, sys
read = mmap.ACCESS_READ
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=read) as mapping:
    touched = sum(mapping[::mmap.PAGESIZE])
    print("mapped", flush=True)
    sys.stdin.read()
"""
    with python(script, path) as holder:
        assert hear(holder) == "mapped"
        assert page_cache.evict([path]).fraction == 1.0
    assert page_cache.evict([path]).fraction == 0.0


def test_a_file_in_memory_cannot_be_evicted(memory_folder: Path) -> None:
    path = memory_folder / "weights"
    path.write_bytes(os.urandom(PAGES * PAGE))
    assert page_cache.evict([path]).fraction == 1.0


def test_cold_is_refused_with_a_reason_where_files_lie_in_memory(memory_folder: Path) -> None:
    found = proof.capability(memory_folder)
    assert (found.cold, found.warm) == (False, True)
    assert found.reason is not None
    assert "1.000 of a file stays resident" in found.reason
    assert "tmpfs" in found.reason


def test_a_folder_on_disk_can_be_set_cold_and_warm(disk: Path) -> None:
    method = page_cache.residency([_synced(disk / "weights")]).method
    found = proof.capability(disk)
    assert (found.cold, found.warm, found.method, found.reason) == (True, True, method, None)
    assert [path.name for path in disk.iterdir()] == ["weights"]


def test_a_kernel_that_hides_residency_can_be_set_to_no_state(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(fd: int) -> Residency:
        raise page_cache.ResidencyHiddenError("mincore is refused by this kernel")

    monkeypatch.setattr(page_cache, "_by_cachestat", lambda fd: None)
    monkeypatch.setattr(page_cache, "_by_mincore", hidden)
    assert proof.capability(disk) == Capability(
        cold=False, warm=False, method=None, reason="mincore is refused by this kernel"
    )


@pytest.mark.parametrize(("state", "cached"), [("cold", 0), ("half", PAGES // 2), ("warm", PAGES)])
def test_cachestat_and_mincore_count_the_same_pages(disk: Path, state: str, cached: int) -> None:
    path = _synced(disk / "weights")
    page_cache.evict([path])
    if state == "half":
        _read_every_second_page(path)
    if state == "warm":
        page_cache.warm([path])
    fd = os.open(path, os.O_RDONLY)
    try:
        by_cachestat, by_mincore = page_cache._by_cachestat(fd), page_cache._by_mincore(fd)
    finally:
        os.close(fd)
    assert by_mincore == Residency(PAGES, cached, None, "mincore")
    if by_cachestat is None:
        pytest.skip("this kernel has no cachestat (Linux 6.5 and later have)")
    assert by_cachestat == Residency(PAGES, cached, 0, "cachestat")


def test_mincore_is_asked_where_the_kernel_has_no_cachestat(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _synced(disk / "weights")
    monkeypatch.setattr(page_cache, "_by_cachestat", lambda fd: None)
    assert page_cache.evict([path]) == Residency(PAGES, 0, None, "mincore", (0.0,))
    assert page_cache.warm([path]) == Residency(PAGES, PAGES, None, "mincore", (1.0,))


def test_mincore_is_believed_only_of_a_file_one_owns(tmp_path: Path) -> None:
    """Of any other file the kernel says "all resident", so a cold file would pass for a warm
    one.
    """

    if os.geteuid() != 0:
        pytest.skip("only root can become a user who neither owns nor may write a file of this one")
    closed, open_to_all = _synced(tmp_path / "closed", PAGE), _synced(tmp_path / "open", PAGE)
    closed.chmod(0o644)
    open_to_all.chmod(0o666)
    owned = _synced(tmp_path / "owned", PAGE)
    os.chown(owned, 65534, 65534)
    owned.chmod(0o444)
    script = """
import ctypes, os, sys
from harness.machine import page_cache, proof
files = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
pid = os.fork()
if pid == 0:
    os.setgid(65534)
    os.setuid(65534)
    # PR_SET_DUMPABLE, which setuid clears: without it /dev/fd is closed to this process
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    for fd in files:
        try:
            print(page_cache._by_mincore(fd).cached, flush=True)
        except page_cache.ResidencyHiddenError as error:
            print(error.strerror, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    with python(script, closed, open_to_all, owned) as promise_client:
        assert (
            hear(promise_client)
            == "mincore is only correct for a user who owns the file or may write it"
        )
        assert (hear(promise_client), hear(promise_client)) == ("1", "1")


def test_an_empty_file_counts_as_resident_whatever_is_done_to_it(disk: Path) -> None:
    path = _synced(disk / "empty", 0)
    for found in (page_cache.residency([path]), page_cache.evict([path]), page_cache.warm([path])):
        assert (found.pages, found.cached, found.fraction) == (0, 0, 1.0)
    fd = os.open(path, os.O_RDONLY)
    assert page_cache._by_mincore(fd) == Residency(0, 0, None, "mincore")
    os.close(fd)


@pytest.mark.parametrize(("size", "pages"), [(1, 1), (PAGE, 1), (PAGE + 1, 2)])
def test_a_page_begun_is_a_page(disk: Path, size: int, pages: int) -> None:
    path = _synced(disk / "weights", size)
    assert page_cache.warm([path]).pages == pages


def test_several_files_are_one_checkpoint(disk: Path) -> None:
    small, large = _synced(disk / "small", 256 * PAGE), _synced(disk / "large", 768 * PAGE)
    assert page_cache.evict([small, large]).fraction == 0.0
    page_cache.warm([large])
    together = page_cache.residency([small, large])
    assert (together.pages, together.cached, together.fraction) == (1024, 768, 0.75)
    assert page_cache.warm([small, large]).cached == 1024


HOLDER = """
import sys, tempfile
from pathlib import Path
from harness.machine.lock import only_run
tempfile.tempdir = sys.argv[1]
with only_run(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of its own, so that a real run on this machine is neither met nor
    stopped.
    """

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_second_run_is_refused_and_told_who_holds_the_machine(lock_folder: Path) -> None:
    with python(HOLDER, lock_folder, "results/the-first") as holder:
        assert hear(holder) == "held"
        with (
            pytest.raises(
                WeighbridgeError, match=rf"process {holder.pid}, directory results/the-first;"
            ),
            only_run(Path("results/the-second")),
        ):
            pytest.fail("two runs held the machine at once")


def test_the_machine_is_free_again_after_its_holder_was_killed(lock_folder: Path) -> None:
    with python(HOLDER, lock_folder, "results/killed") as holder:
        assert hear(holder) == "held"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with only_run(Path("results/next")):
            assert lock_path().read_text() == f"{os.getpid()} results/next\n"


def test_the_machine_is_free_again_after_a_run_that_failed(lock_folder: Path) -> None:
    with pytest.raises(KeyError), only_run(Path("results/failed")):
        raise KeyError
    assert lock_path().read_text() == ""
    with only_run(Path("results/next")):
        pass


def test_the_lock_is_open_to_every_user_of_the_machine(lock_folder: Path) -> None:
    with only_run(Path("results/run")):
        assert stat.S_IMODE(lock_path().stat().st_mode) == 0o666


def test_storage_tells_the_file_system_and_its_room(tmp_path: Path) -> None:
    found = storage(tmp_path)
    assert found.file_system in Path("/proc/filesystems").read_text().split()
    sizes = os.statvfs(tmp_path)
    assert found.total_bytes == sizes.f_blocks * sizes.f_frsize
    assert 0 < found.free_bytes <= found.total_bytes


def test_storage_in_memory_is_told_by_its_name(memory_folder: Path) -> None:
    found = storage(memory_folder)
    assert (found.file_system, found.rotational, found.model) == ("tmpfs", None, None)


def test_the_nearest_mount_above_a_folder_is_its_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device can be mounted in several places, and only the one above the folder says how."""
    mounts = (
        "20 1 8:1 / / rw - ext4 /dev/root-disk rw\n"
        "21 20 8:1 /a /data rw,shared:1 - xfs /dev/near rw\n"
        "22 20 8:1 /b /data/models/deep rw - btrfs /dev/below rw\n"
        "23 20 8:2 / /data/models rw - nfs elsewhere:/other rw\n"
    )
    monkeypatch.setattr("harness.machine.storage_stack._text", lambda path: mounts)
    monkeypatch.setattr("harness.machine.storage_stack.device_of", lambda folder: "8:1")
    mount = mount_of(Path("/data/models"))
    assert mount and (mount.file_system, mount.source) == ("xfs", "/dev/near")


def test_a_subvolume_s_own_number_still_finds_its_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    """btrfs gives a subvolume a device number that no mount has.

    The longest mount point above the folder is its storage then.
    """

    mounts = "20 1 8:1 / / rw - ext4 /dev/root-disk rw\n21 20 0:40 / /data rw - btrfs /dev/vdb rw\n"
    monkeypatch.setattr("harness.machine.storage_stack._text", lambda path: mounts)
    monkeypatch.setattr("harness.machine.storage_stack.device_of", lambda folder: "0:45")
    mount = mount_of(Path("/data/models"))
    assert mount and (mount.file_system, mount.source) == ("btrfs", "/dev/vdb")


OVERLAY = """
dirs=lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/scratch
mount -t overlay overlay -o $dirs {0}/merged && exec {1} -c '
from pathlib import Path
from harness.machine import page_cache, proof
from harness.machine.storage import storage
folder = Path("{0}/merged")
print(proof.capability(folder).method, storage(folder).file_system)
file = folder / "weights"
print(page_cache.warm([file]).fraction, page_cache.evict([file]).fraction)
'
"""


def test_in_a_container_cold_and_warm_are_proved_by_mincore(tmp_path: Path) -> None:
    """On overlayfs `cachestat` asks an inode without pages and says 0 of a file that is wholly
    resident.
    """

    for name in ("lower", "upper", "scratch", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/weights").write_bytes(os.urandom(4 << 20))
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", OVERLAY.format(tmp_path, sys.executable)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "mount: " in ended.stderr or "unshare: " in ended.stderr:
        pytest.skip(f"no overlay can be mounted here: {ended.stderr.strip()}")
    assert ended.stdout.split() == ["mincore", "overlay", "1.0", "0.0"], ended.stderr


def test_two_answers_that_differ_are_neither_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        page_cache, "_by_cachestat", lambda fd: page_cache.Residency(256, 0, 0, "cachestat")
    )
    monkeypatch.setattr(
        page_cache, "warm", lambda paths: page_cache.Residency(256, 256, 0, "cachestat", (1.0,))
    )
    found = proof.capability(tmp_path)
    assert (found.cold, found.warm) == (False, False) and "mincore says" in (found.reason or "")


def test_available_memory_is_some_and_no_more_than_there_is() -> None:
    available = available_memory()
    assert available is not None
    assert 0 < available <= (describe_machine()["memory_bytes"] or 0)


def test_available_memory_is_never_more_than_the_control_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(description, "_memory_limit", lambda: 12345)
    available = available_memory()
    assert available is not None
    assert available <= 12345


def test_the_description_names_neither_host_nor_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checked with names that cannot occur by chance, and with this machine's own wherever a whole
    value could be one.
    """

    secret = "sentinel-of-anna"
    uname = platform.uname()
    monkeypatch.setattr(platform, "uname", lambda: uname._replace(node=secret))
    monkeypatch.setattr(platform, "node", lambda: secret)
    own = {socket.gethostname(), getpass.getuser(), str(Path.home()), str(Path.cwd())}
    monkeypatch.setattr(socket, "gethostname", lambda: secret)
    for name in ("USER", "LOGNAME", "HOME", "HOSTNAME"):
        monkeypatch.setenv(name, f"/{secret}")
    machine = describe_machine() | {"packages": packages()}
    assert json.loads(json.dumps(machine)) == machine
    assert secret not in json.dumps(machine)
    assert own.isdisjoint(value for value in machine.values() if isinstance(value, str))


def test_the_description_tells_what_a_figure_depends_on() -> None:
    machine = describe_machine()
    assert (machine["kernel"], machine["cores"], machine["page_bytes"]) == (
        platform.release(),
        usable_cores(),
        PAGE,
    )
    assert (machine["memory_bytes"] or 0) > 0
    assert packages()["python"] == platform.python_version()
    assert description.version("no-such-distribution") is None


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        (
            "cpu family : 25\nmodel : 17\nmodel name : AMD EPYC\nstepping : 1",
            "family 25, model 17, stepping 1",
        ),
        (
            "CPU implementer : 0x41\nCPU variant : 0x3\nCPU part : 0xd0c\nCPU revision : 1",
            "implementer 0x41, part 0xd0c, variant 0x3, revision 1",
        ),
        ("model name : Unknown", None),
    ],
    ids=["x86", "arm", "untold"],
)
def test_the_model_tells_a_processor_from_others_of_its_name(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str, model: str | None
) -> None:
    kept = description._lines
    monkeypatch.setattr(
        description,
        "_lines",
        lambda path: cpuinfo.splitlines() if path == Path("/proc/cpuinfo") else kept(path),
    )
    assert describe_machine()["cpu_model"] == model


TIED = """
import os, signal, sys
from harness.machine.lifeline import die_with_parent
die_with_parent(int(sys.argv[1]) or os.getppid())
os.write(int(sys.argv[2]), b"alive\\n")
signal.alarm(20)  # where nothing ends it, it ends itself
signal.pause()
"""

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], "0", sys.argv[2]], pass_fds=[int(sys.argv[2])])
sys.stdin.read()
"""


def test_a_process_tied_to_its_parent_is_gone() -> None:
    """The writing end of a pipe is held by the tied process and its parent alone, so it closes when
    the last of the two is gone.
    """

    reading, writing = os.pipe()
    with python(PARENT, TIED, writing, pass_fds=[writing]) as parent:
        os.close(writing)
        assert os.read(reading, 6) == b"alive\n"
        os.kill(parent.pid, signal.SIGKILL)
        readable, _, _ = select.select([reading], [], [], 10)
        assert readable, "the tied process outlived its parent by 10 s"
        assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_process_whose_parent_is_gone_already_leaves_at_once() -> None:
    with python(TIED, os.getppid(), 1) as orphan:  # its parent is this process, not the one named
        assert hear(orphan) == ""
        assert orphan.wait(timeout=10) == 1


def test_bytes_fetched_from_storage_are_counted(
    disk: Path,
) -> None:
    path = _synced(disk / "weights")
    page_cache.evict([path])
    found = []
    for _ in range(2):
        before = counters.counters().storage_read_bytes
        path.read_bytes()
        after = counters.counters().storage_read_bytes
        if before is None or after is None:
            pytest.skip("this kernel keeps no /proc/self/io")
        found.append(after - before)
    assert found == [PAGES * PAGE, 0]


def _fresh(size: int) -> mmap.mmap:
    """Return memory that nothing had before, written to: what an allocator gives may have been
    resident all along.
    """

    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[::PAGE] = bytes([1]) * (size // PAGE)
    return memory


def test_memory_tells_a_process_s_own_from_mapped_files(disk: Path) -> None:
    path = _synced(disk / "weights")
    start = counters.memory()
    with _fresh(8 << 20):
        grown = counters.memory()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        assert len(mapping[::PAGE]) == PAGES
        mapped = counters.memory()
    assert start.anonymous
    assert grown.anonymous
    assert grown.mapped
    assert mapped.mapped
    assert grown.anonymous - start.anonymous == pytest.approx(8 << 20, abs=2 << 20)
    assert mapped.mapped - grown.mapped == pytest.approx(PAGES * PAGE, abs=2 << 20)


def test_the_memory_peak_starts_afresh_when_it_is_reset() -> None:
    with _fresh(64 << 20):
        pass
    before = counters.memory().peak
    if not counters.reset_peak():
        pytest.skip("this kernel does not let a process reset its peak")
    after = counters.memory().peak
    assert before
    assert after
    assert before - after > 32 << 20


# The heap of a process that forks


def test_a_heap_in_huge_pages_holds_what_it_held() -> None:
    content = os.urandom(16 << 20)
    held = bytearray(content)
    gathered = collapse_heap()
    assert gathered % (2 << 20) == 0
    assert held == content


def test_without_a_list_of_mappings_the_heap_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: Path) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert collapse_heap() == 0
