"""What holds for every test."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.records.limits import BUSY_VARIABLE


def pytest_configure(config: pytest.Config) -> None:
    """Make a warning an error: in the tests, not in a run of the benchmarks, which must go on under
    a release that warns.

    The machine that tests run on may be busy: only those about that look at it. Two workers and
    what they start share its cores, so torch's threads wait without spinning: a spinning one keeps
    a core from the thread that it waits for, and makes a small pipeline ten times as slow.
    """

    os.environ[BUSY_VARIABLE] = "1"
    os.environ["OMP_WAIT_POLICY"] = "passive"
    _keep_bytecode()
    _own_temporary_folder(os.environ.pop("PYTEST_XDIST_WORKER", None))
    config.addinivalue_line("filterwarnings", "error")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch.*")


def _keep_bytecode() -> None:
    """Let Python keep what it compiles, whatever the surroundings say.

    The tests start about two hundred processes, and each would compile the project again, for 2 s.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _own_temporary_folder(worker: str | None) -> None:
    """Give each of several workers a temporary folder of its own, and so a lock of its own: one run
    at a time holds a machine, and tests of different files run side by side.

    The variable that names the worker is not handed on: a run that a test starts is none of its
    business.
    """
    if worker:
        folder = Path(tempfile.gettempdir(), f"weighbridge-tests-{os.getuid()}-{worker}")
        folder.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder on tmpfs."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("this machine has no /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)
