"""A confined process: what it may not do fails, what it leaves behind is ended, and where it cannot
be confined that is said.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.machine import confinement
from harness.machine.confinement import Limits, descendants
from tests.helpers import hear, python

CONFINED = """
import os, sys
from pathlib import Path
from harness.machine.confinement import Limits, confine
folder, outside = Path(sys.argv[1]), Path(sys.argv[2])
confine(folder, Limits(memory=64 << 20, file_bytes=1 << 20, files=64))
tries = {
    "write inside": lambda: (folder / "a").write_text("a"),
    "write outside": lambda: (outside / "new").write_text("a"),
    "append outside": lambda: open(outside / "there", "a"),
    "cut outside": lambda: os.truncate(outside / "there", 0),
    "remove outside": lambda: os.remove(outside / "there"),
    "rename outside": lambda: os.rename(outside / "there", folder / "taken"),
    "link in": lambda: os.link(outside / "there", folder / "linked"),
    "make a folder outside": lambda: os.mkdir(outside / "folder"),
    "by a shell": lambda: os.system(f"echo a > {outside}/shell 2>/dev/null") and int("no"),
    "read outside": lambda: (outside / "there").read_text(),
    "memory": lambda: bytearray(128 << 20),
    "a large file": lambda: (folder / "large").write_bytes(bytes(2 << 20)),
    "many files": lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(100)],
    "signal the parent": lambda: os.kill(os.getppid(), 0),
}
for what, work in tries.items():
    try:
        work()
        print(what, "done", flush=True)
    except (OSError, MemoryError, ValueError) as error:
        print(what, "failed", flush=True)
"""
FAILING = (
    "write outside",
    "append outside",
    "cut outside",
    "remove outside",
    "rename outside",
    "link in",
    "make a folder outside",
    "by a shell",
    "memory",
    "a large file",
    "many files",
)

pytestmark = pytest.mark.skipif(
    confinement.refusal() is not None, reason=str(confinement.refusal())
)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder outside, and what came of each try of a confined process."""
    inside, outside = tmp_path_factory.mktemp("inside"), tmp_path_factory.mktemp("outside")
    (outside / "there").write_text("whole")
    found: dict[str, str] = {}
    with python(CONFINED, inside, outside) as process:
        while line := hear(process):
            what, _, came = line.rpartition(" ")
            found[what] = came
    return outside, found


@pytest.mark.parametrize("what", FAILING)
def test_what_a_confined_process_may_not_do_fails(
    what: str, ended: tuple[Path, dict[str, str]]
) -> None:
    assert ended[1][what] == "failed"


def test_it_writes_in_its_own_folder_and_reads_everywhere(
    ended: tuple[Path, dict[str, str]],
) -> None:
    assert ended[1]["write inside"] == ended[1]["read outside"] == "done"


def test_nothing_outside_has_changed(ended: tuple[Path, dict[str, str]]) -> None:
    assert [path.name for path in ended[0].iterdir()] == ["there"]
    assert (ended[0] / "there").read_text() == "whole"


def test_the_same_tries_succeed_where_nothing_is_confined(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "there").write_text("whole")
    script = CONFINED.replace(
        "confine(folder, Limits(memory=64 << 20, file_bytes=1 << 20, files=64))", ""
    )
    with python(script, inside, outside) as process:
        lines = {
            line.rpartition(" ")[0]: line.rpartition(" ")[2]
            for line in iter(lambda: hear(process), "")
        }
    done = {
        "write outside",
        "append outside",
        "make a folder outside",
        "by a shell",
        "memory",
        "a large file",
        "many files",
    }
    assert {what for what, came in lines.items() if came == "done"} >= done


def test_what_a_child_leaves_behind_is_ended_and_counted() -> None:
    script = """
import os, time
from harness.machine.confinement import adopt_orphans, end_descendants
adopt_orphans()
pid = os.fork()
if pid == 0:
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    os._exit(0)
os.waitpid(pid, 0)
print(end_descendants(settle=False), flush=True)
time.sleep(600)
"""
    with python(script) as process:
        assert hear(process) == "2"
        assert descendants(process.pid) == []


def test_what_ends_by_itself_soon_is_waited_for_and_not_killed(tmp_path: Path) -> None:
    script = """
import os, sys, time
from harness.machine.confinement import adopt_orphans, end_descendants
adopt_orphans()
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.1)
        open(sys.argv[1], "w").close()
    os._exit(0)
print(end_descendants(), flush=True)
"""
    with python(script, tmp_path / "done") as process:
        assert hear(process) == "0"
    assert (tmp_path / "done").exists()


def test_descendants_are_told_down_to_the_last(tmp_path: Path) -> None:
    with subprocess.Popen(["sh", "-c", "sh -c 'sleep 600; :' ; :"]) as process:
        deadline = time.monotonic() + 5
        while len(descendants(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        below = descendants(process.pid)
        for pid in (process.pid, *below):
            subprocess.run(["kill", "-9", str(pid)], check=False)
    assert len(below) == 2


@pytest.mark.parametrize(("abi", "said"), [(-1, "none"), (2, "version 2")])
def test_a_kernel_that_cannot_confine_is_told_by_what_it_lacks(
    abi: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "_abi", lambda: abi)
    refusal = confinement.refusal()
    assert refusal
    assert "Landlock" in refusal
    assert said in refusal


def test_elsewhere_than_on_linux_nothing_is_confined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux" in (confinement.refusal() or "")


def test_the_usual_limits_leave_room_for_a_load() -> None:
    assert Limits().memory >= 400_000_000
    assert Limits().processes >= 8
