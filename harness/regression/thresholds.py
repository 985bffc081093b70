"""What changes are held to on a machine: its own calibration's thresholds, or safe defaults, said
aloud.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.analysis.regression import Thresholds
from harness.analysis.regression_verdicts import safe_thresholds
from harness.errors import WeighbridgeError
from harness.records.thresholds import FILE, ThresholdsFile

ThresholdsOf = Callable[[str, str], Thresholds]


def thresholds_of(
    path: Path | None, store: Path, machine: Mapping[str, Any]
) -> tuple[ThresholdsOf, str]:
    """Return what changes are held to on the machine of a fingerprint, by cell and loader, and in
    words where that comes from.

    A file that was asked for by name must be one, and be of this machine; the machine's own is left
    aside where it is not.
    """
    if path is None and not (store / FILE).is_file():
        return (
            safe_thresholds,
            (
                "no calibration of this machine: safe defaults miss small slow-downs; `nox -s"
                " calibrate` measures its own thresholds"
            ),
        )
    file = ThresholdsFile.read(path or store / FILE)
    if dict(file.machine) == dict(machine):
        return (
            lambda cell, loader: safe_thresholds(cell, loader, file.cells)
        ), f"calibrated on this machine by run {file.run}"
    if path is not None:
        raise WeighbridgeError(
            f"--thresholds {path}: calibrated on another machine; calibrate on this one"
        )
    left = f"the thresholds of run {file.run} are for another machine and not used"
    return safe_thresholds, f"{left}: safe defaults; `nox -s calibrate` finds this one's"
