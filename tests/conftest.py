"""What holds for every test."""

from __future__ import annotations

import os

import pytest

from harness.run.options import BUSY_VARIABLE


def pytest_configure(config: pytest.Config) -> None:
    """Make a warning an error: in the tests, not in a run of the benchmarks, which must go on under
    a release that warns.

    The machine that tests run on may be busy: only those about that look at it.
    """

    os.environ[BUSY_VARIABLE] = "1"
    config.addinivalue_line("filterwarnings", "error")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch.*")
