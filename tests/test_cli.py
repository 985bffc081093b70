"""The command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from harness.cli import main
from harness.loaders import all_formats, all_loaders

ROOT = Path(__file__).parents[1]
_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from harness.cli import main; sys.exit(main())"
)
BARE = (sys.executable, "-I", "-S", "-c", _PROGRAM)
"""The command in an interpreter that has the standard library and nothing else."""


def test_the_doctor_says_whether_a_file_can_be_made_cold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--store", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    facts = {line.split()[0] for line in said.splitlines() if line[0] != " "}
    assert {
        "cold",
        "warm",
        "kernel",
        "processor",
        "memory",
        "GPU",
        "store",
        "storage",
        "limited",
        "packages",
        "loaders",
    } <= facts
    assert [name for name in all_loaders() if name not in said] == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm")
def test_the_doctor_says_why_tmpfs_cannot_be_made_cold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", "/dev/shm"]) == 0
    assert capsys.readouterr().out.startswith(
        "cold        no: after fsync and eviction 1.000 of a file stays resident"
    )


def test_the_doctor_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*BARE, "doctor", "--store", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "no: torch is not installed" in ended.stdout


def test_a_missing_package_is_named_without_a_traceback() -> None:
    ended = subprocess.run([*BARE, "report"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert (
        "is not installed here; requirements/reference.txt holds what report needs" in ended.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "no/such/run"], "no/such/run: no run directory; one holds a manifest.json"),
        (["report"], "no results/reference here; name the runs to report on"),
        (
            ["doctor", "--store", "/proc/weighbridge"],
            "--store /proc/weighbridge: cannot be written to",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.long
@pytest.mark.slow
def test_the_committed_page_is_what_the_committed_runs_give(
    tmp_path: Path,
) -> None:
    """The same input gives the same bytes: what is in reports/ can be traced to results/reference/.

    The other processor is this one without its wider instructions, which round in another order:
    numpy's, its linear algebra's and the C library's.
    """

    shutil.copytree(ROOT / "results/reference", tmp_path / "results/reference")
    numpy = import_module("numpy._core._multiarray_umath")
    plainer = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(
            name for name in numpy.__cpu_dispatch__ if numpy.__cpu_features__[name]
        ),
        "OPENBLAS_CORETYPE": "Prescott",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA",
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "harness", "report"],
        cwd=tmp_path,
        env=os.environ | plainer,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    tracked = subprocess.run(
        ["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"reports/README.md", "reports/index.html"} <= set(tracked)
    assert [
        path for path in tracked if (tmp_path / path).read_bytes() != (ROOT / path).read_bytes()
    ] == []


@pytest.mark.slow
def test_make_leaves_a_checkpoint_and_its_ranks_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["make", "lora-1000", "--store", str(tmp_path)]) == 0
    made = [
        name
        for name, form in all_formats().items()
        if not form.refusal("lora-1000", {"float32"}, False)
    ]
    assert f"lora-1000: 4 MB in {', '.join(made)}, digest fa87a1702db3" in capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    assert (folder / "safetensors.receipt.json").exists()
    assert main(["make", "lora-1000", "--store", str(tmp_path)]) == 0
    assert "making" not in capsys.readouterr().out, "what is there is not made again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt5"], "unknown checkpoint 'gpt5'"),
        (
            ["bloom-slim", "--ranks", "3"],
            (
                "bloom-slim cannot be split over 3 ranks: its 16 attention heads go evenly over 1,"
                " 2, 4, 8, 16 only"
            ),
        ),
        (
            ["lora-1000", "--ranks", "2"],
            (
                "lora-1000 cannot be split over ranks: no rule is known for how its matrices are"
                " shared out"
            ),
        ),
    ],
)
def test_make_refuses_what_cannot_be_made_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["make", *arguments, "--store", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not any(tmp_path.iterdir())
