"""What meetings with hostile files say: of a loader how it took them, of a meeting whether it is a surprise, of a scanner what it saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.hostile import CODE, NONE
from harness.measure.outcome import CRASHED, HUNG, LOADED, RAN, REFUSED, STARVED
from harness.records.meetings import HOSTILE_FILES, HOSTILE_SCAN, Meeting

QUICK_S = 1.0
"""Longest a refusal may take to be a quick one."""
SMALL_BYTES = 256 << 20
"""Most memory a refusal may take to be a small one."""
SLOW, LARGE, UNCLEAR, LOADED_BAD, REFUSED_GOOD = (
    "slow refusal",
    "large refusal",
    "unclear refusal",
    "loaded a bad file",
    "refused a harmless file",
)
SURPRISES = (RAN, CRASHED, STARVED, HUNG, LOADED_BAD, REFUSED_GOOD, LARGE, SLOW, UNCLEAR)
"""Everything but a quick, clear refusal of a bad file and the loading of a harmless one, the gravest first."""
FOUND, MISSED, FALSE_ALARM, PASSED, SILENT, BROKE = "found", "missed", "false alarm", "passed", "could not tell", "broke"
"""What a scanner made of a file: of one with a payload it is found or missed, of a harmless one passed or a false alarm. A file that lies or
is broken, and runs nothing, may be found or passed; a scanner that crashed, hung or ran out of memory broke."""

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
"""Classes of errors that Python, NumPy or Rust raises of itself where code meets what its author did not think of; `error` is struct's."""
_FINDING = "FoundError"


@dataclass(frozen=True)
class File:
    """A file of the corpus, as a run's manifest describes it."""

    name: str
    family: str
    container: str
    harm: str
    says: str
    bytes: int
    plain: bool


@dataclass(frozen=True)
class Guest:
    """A loader that met the corpus; `base` is the resident memory of its process before the call, in bytes."""

    name: str
    container: str
    base: int | None


@dataclass(frozen=True)
class Account:
    """How one loader took the corpus: how many meetings ended in each way, and the worst of them; None where nothing tells."""

    loader: str
    counts: Mapping[str, int]
    slowest: Meeting | None
    largest: Meeting | None
    growth: int | None
    """How far `largest` took the process's memory above its base, in bytes."""


@dataclass(frozen=True)
class Surprise:
    """One kind of surprise with one loader: how many files gave it, and the smallest that does."""

    loader: str
    kind: str
    count: int
    smallest: File
    meeting: Meeting


def files_of(manifest: Mapping[str, Any]) -> dict[str, File]:
    """Return the files of a run's corpus by name."""
    return {name: File(name, **said) for name, said in (manifest.get("corpus") or {}).get("files", {}).items()}


def guests_of(manifest: Mapping[str, Any]) -> dict[str, Guest]:
    """Return the loaders and scanners of a run that met files, by name."""
    return {name: Guest(name, said["container"], said.get("base_rss_bytes")) for name, said in (manifest.get("guests") or {}).items()}


def growth(meeting: Meeting, guest: Guest) -> int | None:
    """Return how far a meeting took the process's memory above what it had, in bytes, None where that is not known."""
    if meeting.peak_rss_bytes is None or guest.base is None:
        return None
    return max(0, meeting.peak_rss_bytes - guest.base)


def accounts(meetings: Sequence[Meeting], guests: Mapping[str, Guest], scenario: str = HOSTILE_FILES) -> list[Account]:
    """Return an account of each loader that met any file, in the order of `guests`."""
    found = []
    for name, guest in guests.items():
        of_loader = [meeting for meeting in meetings if meeting.loader == name and meeting.scenario == scenario]
        if of_loader:
            grown = [(size, meeting) for meeting in of_loader if (size := growth(meeting, guest)) is not None]
            size, largest = max(grown, key=lambda pair: pair[0], default=(None, None))
            slowest = max(of_loader, key=lambda meeting: meeting.seconds)
            found.append(Account(name, Counter(meeting.outcome for meeting in of_loader), slowest, largest, size))
    return found


def surprise(meeting: Meeting, file: File, guest: Guest) -> str | None:
    """Return which kind of surprise a meeting with a loader is, or None.

    A harmless file is only owed to a loader of its own container; whoever else refuses it does as expected, if it does it well.
    """
    if meeting.outcome in (RAN, CRASHED, STARVED, HUNG):
        return meeting.outcome
    if meeting.outcome == LOADED:
        return None if file.harm == NONE else LOADED_BAD
    if file.harm == NONE and file.container == guest.container:
        return REFUSED_GOOD
    if (growth(meeting, guest) or 0) > SMALL_BYTES:
        return LARGE
    if meeting.seconds > QUICK_S:
        return SLOW
    return None if clear(meeting.error) else UNCLEAR


def clear(error: str | None) -> bool:
    """Return whether an error tells a person what was wrong with the file: it has words, and is not of a class of code gone wrong."""
    kind, colon, words = (error or "").partition(": ")
    return bool(colon and words.strip()) and kind not in _OF_CODE_GONE_WRONG


def surprises(meetings: Iterable[Meeting], files: Mapping[str, File], guests: Mapping[str, Guest]) -> list[Surprise]:
    """Return every kind of surprise that each loader gave, the gravest kind first, with the smallest file that shows it."""
    seen: dict[tuple[str, str], list[Meeting]] = {}
    for meeting in meetings:
        if meeting.scenario == HOSTILE_FILES and (kind := surprise(meeting, files[meeting.file], guests[meeting.loader])):
            seen.setdefault((kind, meeting.loader), []).append(meeting)
    found = []
    order = list(guests)
    for (kind, loader), of_kind in seen.items():
        smallest = min(of_kind, key=lambda meeting: (files[meeting.file].bytes, meeting.file))
        found.append(Surprise(loader, kind, len(of_kind), files[smallest.file], smallest))
    return sorted(found, key=lambda one: (SURPRISES.index(one.kind), order.index(one.loader)))


def seen_by_scanner(meeting: Meeting, file: File) -> str:
    """Return what a scanner made of a file, one of the words above."""
    if meeting.outcome not in (REFUSED, LOADED):
        return BROKE
    finding = meeting.outcome == REFUSED and (meeting.error or "").partition(":")[0] == _FINDING
    if meeting.outcome == REFUSED and not finding:
        return SILENT
    if file.harm == CODE:
        return FOUND if finding else MISSED
    if file.harm == NONE:
        return FALSE_ALARM if finding else PASSED
    return FOUND if finding else PASSED


def scanned(meetings: Iterable[Meeting], files: Mapping[str, File]) -> dict[str, dict[str, Counter[str]]]:
    """Return for each scanner, and in it for files with a payload (`code`), harmless ones and all others, what it made of how many."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for meeting in meetings:
        if meeting.scenario == HOSTILE_SCAN:
            file = files[meeting.file]
            group = "code" if file.harm == CODE else "harmless" if file.harm == NONE else "other"
            by_group = counts.setdefault(meeting.loader, {name: Counter() for name in ("code", "harmless", "other")})
            by_group[group][seen_by_scanner(meeting, file)] += 1
    return counts
