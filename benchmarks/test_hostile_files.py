"""Hostile files: what each loader does with every file of a corpus that means harm; each outcome is recorded, and none fails the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import WeighbridgeError
from harness.measure.warden_client import CannotMeetError
from harness.meeting import guests as all_guests
from harness.options import Options

if TYPE_CHECKING:
    from harness.session import Run


def guests(options: Options) -> tuple[str, ...]:
    """Return the loaders and scanners that meet the corpus: all, or those that a person names."""
    return tuple(name for name in all_guests() if options.loaders is None or name in options.loaders)


def test_hostile_files(guest: str, run: Run) -> None:
    try:
        run.meet(guest)
    except CannotMeetError as error:
        pytest.skip(str(error))
    except WeighbridgeError as error:
        pytest.fail(str(error), pytrace=False)
