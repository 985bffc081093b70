"""Preflight: every loader once, each in a process of its own, and what went wrong with its words
and its traceback.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from harness.commands import preflight
from harness.commands.preflight import Trial, table
from harness.loaders import all_loaders
from tests.helpers import ROOT

pytestmark = pytest.mark.slow

TOY = """
from harness.loaders import Loader


def _raise(files, device):
    raise RuntimeError("the toy has no wheels")


def _wrong(files, device):
    return {}


def _hang(files, device):
    import time

    time.sleep(600)


LOADERS = (
    Loader("toy-raises", "safetensors", _raise),
    Loader("toy-wrong", "safetensors", _wrong),
    Loader("toy-hangs", "safetensors", _hang),
    Loader("toy-broken", "safetensors", _wrong, requires=("torch", "weighbridge_broken")),
)
"""


HANGS_SOONER = """
import sys
from harness.cli import main
from harness.commands import preflight

preflight.LOAD_S = 8.0
sys.exit(main(sys.argv[1:]))
"""


def _preflight(folder: Path, toys: str) -> tuple[subprocess.CompletedProcess[str], float]:
    (folder / "tmp").mkdir()
    environment = {
        **os.environ,
        "WEIGHBRIDGE_STORE": str(folder / "store"),
        "TMPDIR": str(folder / "tmp"),
    }  # the lock lies there
    site = folder / "site"
    info = site / "weighbridge_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "weighbridge_toy.py").write_text(toys)
    (site / "weighbridge_broken.py").write_text(
        "raise OSError('libnone.so: cannot open shared object file')\n"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weighbridge-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[weighbridge.loaders]\ntoy = weighbridge_toy\n")
    environment["PYTHONPATH"] = str(site)
    start = time.monotonic()
    command = [
        sys.executable,
        "-c",
        HANGS_SOONER,
        "preflight",
        "--device",
        "cpu",
        "--results",
        str(folder / "results"),
    ]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    return ended, time.monotonic() - start


@pytest.mark.long
def test_every_loader_has_its_line_and_one_that_fails_its_words(tmp_path: Path) -> None:
    ended, seconds = _preflight(tmp_path, TOY)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert seconds < 90
    found = {line.split()[0]: line.split()[1] for line in ended.stdout.splitlines()[1:-1]}
    assert found["torch-load"] == found["safetensors-load-file"] == "ok"
    shipped = {found[name] for name in all_loaders() if name in found}
    assert shipped and shipped <= {"ok", "absent"}
    lines = {line.split()[0]: line for line in ended.stdout.splitlines() if line}
    assert (
        "failed" in lines["toy-raises"]
        and "RuntimeError: the toy has no wheels" in lines["toy-raises"]
    )
    assert "failed" in lines["toy-wrong"] and "wrong tensors" in lines["toy-wrong"]
    assert "failed" in lines["toy-hangs"] and "hung" in lines["toy-hangs"]
    assert "absent" in lines["toy-broken"] and "libnone.so" in lines["toy-broken"]
    tracebacks = (tmp_path / "results" / preflight.TRACEBACKS).read_text()
    assert (
        "=== toy-raises" in tracebacks
        and 'raise RuntimeError("the toy has no wheels")' in tracebacks
    )
    assert str(tmp_path) not in tracebacks, "a traceback keeps no absolute path"


def test_without_a_gpu_cuda_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli import main

    monkeypatch.setattr(preflight, "gpus", list)
    assert main(["preflight", "--device", "cuda", "--results", str(tmp_path)]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.parametrize(("working", "code"), [(("torch-load",), 0), (("numpy-npz",), 1)])
def test_before_a_run_only_two_dead_formats_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], code: int
) -> None:
    from harness.cli import main

    trials = [Trial(name, "ok", "") for name in working] + [
        Trial("tensorizer", "failed", "raised: it is broken")
    ]
    monkeypatch.setattr(preflight, "try_loaders", lambda *_: iter(trials))
    monkeypatch.setattr(preflight, "only_run", lambda _: nullcontext())
    assert (
        main(["preflight", "--device", "cpu", "--results", str(tmp_path), "--formats-only"]) == code
    )


def test_the_table_puts_what_failed_first() -> None:
    lines = table(
        [
            Trial("a", "ok", "", 0.01, 0.5, 4_000_000),
            Trial("b", "absent", "not installed"),
            Trial("c", "failed", "hung: " + "x" * 300),
        ]
    )
    assert [line.split()[0] for line in lines[1:4]] == ["c", "a", "b"]
    assert "0.500 s" in lines[2] and lines[-1] == "1 ok, 1 failed, 1 absent"
    assert all(len(line) < 180 for line in lines)
