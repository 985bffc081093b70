"""Scanners, which say of a file whether unpickling it would run anything, without unpickling it:
three libraries, and `weighbridge scan`.

A scanner is given files as a loader is and hands back no tensor. It comes back where it passes
every file, raises `FoundError` where it finds something, and `CannotTellError`, or whatever its
library raises, where it can say nothing. Each is asked as its own command asks it.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.loaders import Scanner, merged

if TYPE_CHECKING:
    from harness.loaders import Tensors

_EXTRA = "scanners"
_SHOWN = 5


class FoundError(Exception):
    """A scanner says that a file would do harm; the message says by what."""


class CannotTellError(Exception):
    """A scanner passed over a file or failed on it; the message says why."""


def _picklescan(file: str) -> None:
    from picklescan.scanner import SafetyLevel, scan_file_path

    logging.getLogger("picklescan").setLevel(logging.CRITICAL)
    result = scan_file_path(file)
    if result.issues_count:
        raise FoundError(
            _listed(
                f"{seen.module}.{seen.name}"
                for seen in result.globals
                if seen.safety == SafetyLevel.Dangerous
            )
        )
    if result.scan_err or not result.scanned_files:
        raise CannotTellError("it failed" if result.scan_err else "it looked at nothing")


def _fickling(file: str) -> None:
    from fickling.analysis import Severity
    from fickling.loader import scan_file, scan_zip_archive

    results = (
        list(scan_zip_archive(file).values()) if zipfile.is_zipfile(file) else [scan_file(file)]
    )
    worst = max((result.severity for result in results), default=None)
    if worst is None or not any(result.results for result in results):
        raise CannotTellError("it looked at nothing")
    if worst > Severity.LIKELY_SAFE:
        raise FoundError(worst.name.lower().replace("_", " "))


def _modelscan(file: str) -> None:
    from modelscan.modelscan import ModelScan

    logging.getLogger("modelscan").setLevel(logging.CRITICAL)
    report = ModelScan().scan(file)
    if report["issues"]:
        raise FoundError(
            _listed(f"{issue.get('module')}.{issue.get('operator')}" for issue in report["issues"])
        )
    if report["errors"]:
        raise CannotTellError(str(report["errors"][0].get("description") or report["errors"][0]))
    if not report["summary"]["scanned"]["total_scanned"]:
        raise CannotTellError("it looked at nothing")


def _weighbridge(file: str) -> None:
    from harness.checkpoints.scan import ScanVerdict, scan

    for finding in scan([Path(file)]):
        if finding.verdict == ScanVerdict.FOUND:
            raise FoundError(finding.detail)
        if finding.verdict == ScanVerdict.UNKNOWN:
            raise CannotTellError(finding.detail)


def _listed(names: Any) -> str:
    known = sorted(set(names))
    return ", ".join(known[:_SHOWN]) + (
        f" and {len(known) - _SHOWN} others" if len(known) > _SHOWN else ""
    )


def _scanner(
    name: str, look: Callable[[str], None], requires: tuple[str, ...], extra: str | None = None
) -> Scanner:
    def scan_all(files: Sequence[str], _device: str) -> Tensors:
        """Raise what is found in any file.

        What cannot be told of one only where no other is passed: an index is no pickle.
        """
        unsure: list[Exception] = []
        for file in files:
            try:
                look(file)
            except FoundError:
                raise
            except Exception as error:
                unsure.append(error)
        if len(unsure) == len(files):
            raise unsure[0]
        return {}

    return Scanner(
        name,
        "torch-zip",
        scan_all,
        requires,
        extra=extra,
        scanned=_what_was_scanned,
        devices=("cpu",),
        memory=0.0,
    )


def _what_was_scanned(files: Sequence[str]) -> Tensors:
    """Return the tensors of the files that were passed, mapped, so that they can be held against
    the checkpoint's.
    """
    import torch

    return merged(lambda file: torch.load(file, weights_only=True, mmap=True), files)


SCANNERS = (
    _scanner("picklescan", _picklescan, ("picklescan",)),
    _scanner("fickling", _fickling, ("fickling",), _EXTRA),
    _scanner("modelscan", _modelscan, ("modelscan", "tomlkit", "rich", "click"), _EXTRA),
    _scanner("weighbridge-scan", _weighbridge, ("torch", "picklescan")),
)
