"""Promises: what the page says of formats, single files and revisions, each put to the test and
recorded; a broken one is an outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.analysis.promises import PROMISES, Promise, PromiseResult
from harness.run.options import Options
from harness.workers.promise_client import CannotBeCheckedError

if TYPE_CHECKING:
    from harness.run.run import Run


def promises(options: Options) -> tuple[Promise, ...]:
    """Return what is put to the test: everything, or nothing where a person names what is to be
    measured.
    """
    named = (options.models, options.checkpoints, options.loaders)
    return () if any(named) else PROMISES


def test_promises(promise: Promise, run: Run) -> None:
    try:
        check = run.check(promise)
    except CannotBeCheckedError as error:
        pytest.fail(str(error), pytrace=False)
    if check.outcome == PromiseResult.NOT_TESTED:
        pytest.skip(check.happened)
