"""Hostile files: what each loader does with every file of a corpus that means harm.

Each outcome is recorded, and none fails the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import WeighbridgeError
from harness.run.hostile_trials import loaders_to_test
from harness.run.options import Options
from harness.workers.sandbox_client import NoTrialError

if TYPE_CHECKING:
    from harness.run.run import Run


def loaders_under_test(options: Options) -> tuple[str, ...]:
    """Return the loaders and scanners that meet the corpus: all, or those that a person names."""
    return tuple(
        name for name in loaders_to_test() if options.loaders is None or name in options.loaders
    )


def test_hostile_files(loader_under_test: str, run: Run) -> None:
    try:
        run.try_hostile_files(loader_under_test)
    except NoTrialError as error:
        pytest.skip(str(error))
    except WeighbridgeError as error:
        pytest.fail(str(error), pytrace=False)
