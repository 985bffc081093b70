"""What trials of hostile files say: of a loader how it took them, of a trial whether it is a
surprise, of a scanner what it saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harness.records.trials import Harm, Outcome, Trial
from harness.scenarios import HOSTILE_FILES, HOSTILE_SCAN

QUICK_S = 1.0
"""Longest a refusal may take to be a quick one."""
SMALL_BYTES = 256 << 20
"""Most memory a refusal may take to be a small one."""


class SurpriseKind(StrEnum):
    """A refusal or a load that is not as it should be."""

    SLOW = "slow refusal"
    LARGE = "large refusal"
    UNCLEAR = "unclear refusal"
    LOADED_BAD = "loaded a bad file"
    REFUSED_GOOD = "refused a harmless file"


SURPRISES = (
    Outcome.RAN,
    Outcome.CRASHED,
    Outcome.STARVED,
    Outcome.HUNG,
    SurpriseKind.LOADED_BAD,
    SurpriseKind.REFUSED_GOOD,
    SurpriseKind.LARGE,
    SurpriseKind.SLOW,
    SurpriseKind.UNCLEAR,
)
"""Everything but a quick, clear refusal of a bad file and the loading of a harmless one, the
gravest first.
"""


class ScannerResult(StrEnum):
    """What a scanner made of a file.

    Of one with a payload it is found or missed, of a harmless one passed or a false alarm. A file
    that lies or is broken, and runs nothing, may be found or passed; a scanner that crashed, hung
    or ran out of memory broke.
    """

    FOUND = "found"
    MISSED = "missed"
    FALSE_ALARM = "false alarm"
    PASSED = "passed"
    SILENT = "could not tell"
    BROKE = "broke"


_OF_CODE_GONE_WRONG = {
    "AssertionError",
    "AttributeError",
    "IndexError",
    "KeyError",
    "NameError",
    "NotImplementedError",
    "PanicException",
    "RecursionError",
    "StopIteration",
    "SystemError",
    "TypeError",
    "UnboundLocalError",
    "ZeroDivisionError",
    "error",
}
"""Classes of errors that Python, NumPy or Rust raises of itself where code meets what its author
did not think of; `error` is struct's.
"""

_FINDING = "FoundError"


@dataclass(frozen=True)
class File:
    """A file of the corpus, as a run's manifest describes it."""

    name: str
    family: str
    format: str
    harm: Harm
    says: str
    bytes: int
    plain: bool


@dataclass(frozen=True)
class LoaderUnderTest:
    """A loader that met the corpus.

    `base` is the resident memory of its process before the call, in bytes.
    """

    name: str
    format: str
    base: int | None


@dataclass(frozen=True)
class Account:
    """How one loader took the corpus: how many trials ended in each way, and the worst of them.

    None where nothing tells.
    """

    loader: str
    counts: Mapping[str, int]
    slowest: Trial | None
    largest: Trial | None
    growth: int | None
    """How far `largest` took the process's memory above its base, in bytes."""


@dataclass(frozen=True)
class Surprise:
    """One kind of surprise with one loader: how many files gave it, and the smallest that does."""

    loader: str
    kind: str
    count: int
    smallest: File
    trial: Trial


def files_of(manifest: Mapping[str, Any]) -> dict[str, File]:
    """Return the files of a run's corpus by name."""
    return {
        name: File(name, **corpu)
        for name, corpu in (manifest.get("corpus") or {}).get("files", {}).items()
    }


def loaders_of(manifest: Mapping[str, Any]) -> dict[str, LoaderUnderTest]:
    """Return the loaders and scanners of a run that met files, by name."""
    return {
        name: LoaderUnderTest(name, text["format"], text.get("base_rss_bytes"))
        for name, text in (manifest.get("loaders_under_test") or {}).items()
    }


def growth(trial: Trial, tested: LoaderUnderTest) -> int | None:
    """Return how far a trial took the process's memory above what it had, in bytes, None where that
    is not known.
    """
    if trial.peak_rss_bytes is None or tested.base is None:
        return None
    return max(0, trial.peak_rss_bytes - tested.base)


def accounts(
    trials: Sequence[Trial], loaders: Mapping[str, LoaderUnderTest], scenario: str = HOSTILE_FILES
) -> list[Account]:
    """Return an account of each loader that met any file, in the order of `loaders`."""
    results = []
    for name, tested in loaders.items():
        of_loader = [
            trial for trial in trials if trial.loader == name and trial.scenario == scenario
        ]
        if of_loader:
            grown = [
                (size, trial) for trial in of_loader if (size := growth(trial, tested)) is not None
            ]
            size, largest = max(grown, key=lambda pair: pair[0], default=(None, None))
            slowest = max(of_loader, key=lambda trial: trial.seconds)
            results.append(
                Account(name, Counter(trial.outcome for trial in of_loader), slowest, largest, size)
            )
    return results


def surprise(trial: Trial, file: File, tested: LoaderUnderTest) -> str | None:
    """Return which kind of surprise a trial with a loader is, or None.

    A harmless file is only owed to a loader of its own format; whoever else refuses it does as
    expected, if it does it well.
    """
    if trial.outcome in (Outcome.RAN, Outcome.CRASHED, Outcome.STARVED, Outcome.HUNG):
        return trial.outcome
    if trial.outcome == Outcome.LOADED:
        return None if file.harm == Harm.NONE else SurpriseKind.LOADED_BAD
    if file.harm == Harm.NONE and file.format == tested.format:
        return SurpriseKind.REFUSED_GOOD
    if (growth(trial, tested) or 0) > SMALL_BYTES:
        return SurpriseKind.LARGE
    if trial.seconds > QUICK_S:
        return SurpriseKind.SLOW
    return None if clear(trial.error) else SurpriseKind.UNCLEAR


def clear(error: str | None) -> bool:
    """Return whether an error tells a person what was wrong with the file: it has words, and is not
    of a class of code gone wrong.
    """
    kind, colon, words = (error or "").partition(": ")
    return bool(colon and words.strip()) and kind not in _OF_CODE_GONE_WRONG


def surprises(
    trials: Iterable[Trial], files: Mapping[str, File], loaders: Mapping[str, LoaderUnderTest]
) -> list[Surprise]:
    """Return every kind of surprise that each loader gave, the gravest kind first, with the
    smallest file that shows it.
    """
    seen: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if trial.scenario == HOSTILE_FILES and (
            kind := surprise(trial, files[trial.file], loaders[trial.loader])
        ):
            seen.setdefault((kind, trial.loader), []).append(trial)
    case = []
    order = list(loaders)
    for (kind, loader), of_kind in seen.items():
        smallest = min(of_kind, key=lambda trial: (files[trial.file].bytes, trial.file))
        case.append(Surprise(loader, kind, len(of_kind), files[smallest.file], smallest))
    return sorted(
        case, key=lambda surprise: (SURPRISES.index(surprise.kind), order.index(surprise.loader))
    )


def seen_by_scanner(trial: Trial, file: File) -> str:
    """Return what a scanner made of a file, one of the words above."""
    if trial.outcome not in (Outcome.REFUSED, Outcome.LOADED):
        return ScannerResult.BROKE
    finding = trial.outcome == Outcome.REFUSED and (trial.error or "").partition(":")[0] == _FINDING
    if trial.outcome == Outcome.REFUSED and not finding:
        return ScannerResult.SILENT
    if file.harm == Harm.CODE:
        return ScannerResult.FOUND if finding else ScannerResult.MISSED
    if file.harm == Harm.NONE:
        return ScannerResult.FALSE_ALARM if finding else ScannerResult.PASSED
    return ScannerResult.FOUND if finding else ScannerResult.PASSED


def scanned(
    trials: Iterable[Trial], files: Mapping[str, File]
) -> dict[str, dict[str, Counter[str]]]:
    """Return for each scanner, and in it for files with a payload (`code`), harmless ones and all
    others, what it made of how many.
    """
    counts: dict[str, dict[str, Counter[str]]] = {}
    for trial in trials:
        if trial.scenario == HOSTILE_SCAN:
            file = files[trial.file]
            group = (
                "code"
                if file.harm == Harm.CODE
                else "harmless"
                if file.harm == Harm.NONE
                else "other"
            )
            by_group = counts.setdefault(
                trial.loader, {name: Counter() for name in ("code", "harmless", "other")}
            )
            by_group[group][seen_by_scanner(trial, file)] += 1
    return counts
