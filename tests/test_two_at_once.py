"""Two writers at once, interruptions, and file systems as they are: what is published is whole, and
each end is one line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness import atomic_write
from harness.atomic_write import write_atomically, write_folder_atomically
from tests.helpers import ROOT

pytestmark = pytest.mark.slow

CONVERT = [sys.executable, "-m", "harness", "convert"]
VERIFY = [sys.executable, "-m", "harness", "verify"]


def _start(*command: object) -> subprocess.Popen[str]:
    """Start a command that can be interrupted, though these tests themselves may run in the
    background, where a shell has SIGINT ignored.
    """
    return subprocess.Popen(
        [*map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _sharded(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    where = {}
    for number in range(1, count + 1):
        name = f"pytorch_model-{number:05}-of-{count:05}.bin"
        torch.save({f"s{number}": torch.ones(64, 1024)}, folder / name)
        where[f"s{number}"] = name
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2])
def test_of_two_conversions_at_once_one_makes_all_of_it(tmp_path: Path, delay: float) -> None:
    source = _sharded(tmp_path / "model")
    first = _start(*CONVERT, source)
    time.sleep(delay)
    second = _start(*CONVERT, source)
    ended = [(process.communicate(timeout=120), process.returncode) for process in (first, second)]
    assert sorted(code for _, code in ended) == [0, 2], ended
    (words,) = (error for (_, error), code in ended if code == 2)
    assert "meanwhile" in words or "exists already" in words
    made = tmp_path / "model-safetensors"
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert all((made / name).is_file() for name in index["weight_map"].values())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("write", [write_atomically, write_folder_atomically])
def test_a_name_that_is_taken_meanwhile_stays_as_it_is(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    target = tmp_path / "made"

    def make(temporary: Path) -> None:
        target.mkdir()
        (target / "first").write_text("the other's")
        if write is write_folder_atomically:
            (temporary / "second").write_text("mine")
        else:
            temporary.write_text("mine")

    with pytest.raises(FileExistsError):
        write(target, make, lambda _: None, replace=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["first", "made"]


def test_a_file_system_without_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "_HAS_RENAMEAT2", False)
    write_atomically(tmp_path / "a", lambda temporary: temporary.write_text("first"), replace=False)
    with pytest.raises(FileExistsError):
        write_atomically(
            tmp_path / "a", lambda temporary: temporary.write_text("second"), replace=False
        )
    assert (tmp_path / "a").read_text() == "first"


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    place = atomic_write._place()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    dead, alive = (
        tmp_path / f".a.{place}-{gone.pid}-0.part.bin",
        tmp_path / f".a.{place}-{os.getpid()}-999.part.bin",
    )
    elsewhere = tmp_path / f".a.00000000-{gone.pid}-0.part.bin"
    for path in (dead, alive, elsewhere):
        path.write_text("a part")
    write_atomically(tmp_path / "a.bin", lambda temporary: temporary.write_text("whole"))
    assert (dead.exists(), alive.exists(), elsewhere.exists()) == (False, True, True)


def test_ctrl_c_is_one_line_and_130_and_leaves_nothing(tmp_path: Path) -> None:
    torch.save(
        {f"w{number}": torch.zeros(20 << 20, dtype=torch.uint8) for number in range(20)},
        tmp_path / "big.ckpt",
    )
    process = _start(*CONVERT, tmp_path / "big.ckpt")
    _wait_for(lambda: list(tmp_path.glob(".big.*.part.safetensors")))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.strip()) == (130, "weighbridge: stopped")
    assert [path.name for path in tmp_path.iterdir()] == ["big.ckpt"]


def test_a_mapped_file_that_shrinks_is_one_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file(
            {f"w{number}": torch.zeros(50 << 20, dtype=torch.uint8) for number in range(8)},
            tmp_path / f"{name}.safetensors",
        )
    process = _start(*VERIFY, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    _wait_for(lambda: any("b.safetensors" in _maps(pid) for pid in _children(process.pid)))
    os.truncate(tmp_path / "a.safetensors", 1 << 20)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and error.count("\n") == 1, error
    assert "became shorter while it was read" in error


def test_an_error_none_thought_of_is_one_line(tmp_path: Path) -> None:
    program = (
        "import sys, harness.cli as cli; import harness.commands.doctor as doctor; doctor.run ="
        " lambda _: 1 / 0; raise SystemExit(cli.entry())"
    )
    for flags, lines in (((), 1), (("--traceback",), 5)):
        ended = subprocess.run(
            [sys.executable, "-c", program, "doctor", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ended.stderr.count("\n") >= lines and ("Traceback" in ended.stderr) == (lines > 1)
        assert ended.returncode == (2 if lines == 1 else 1)


def test_a_reader_who_leaves_early_sees_no_traceback(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"a-rather-long-name-{number:04}-of-a-checkpoint.bin").touch()
    line = f"{sys.executable} -m harness scan {tmp_path} | head -1; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in ended.stderr and ended.stdout.splitlines()[-1] in ("141", "2"), ended


def test_a_name_that_is_no_text_is_converted_and_verified(tmp_path: Path) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + "模型".encode("gbk") + b".ckpt"))
    torch.save({"a": torch.ones(3)}, tmp_path / "plain.ckpt")
    (tmp_path / "plain.ckpt").rename(source)
    for command in (
        [*CONVERT, str(source)],
        [*VERIFY, str(source), str(source.with_suffix(".safetensors"))],
    ):
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
        assert ended.returncode == 0, ended


def _wait_for(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""
