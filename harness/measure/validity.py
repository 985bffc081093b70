"""The sample: everything one load leaves behind, and the rules that make it valid or say why it is
not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from harness.machine.nvidia import THROTTLED
from harness.records.limits import COLD_AT_MOST, STORAGE_AT_LEAST, WARM_AT_LEAST
from harness.records.sample import BUSY, LATE

LIBRARIES_READ_AT_MOST = 1 << 16
"""Most bytes that a process may read from storage before its load: blocks of folders, which no
proof of a file's pages covers. As single blocks they take some milliseconds of its seconds.
"""


LATE_AT_MOST = 0.25
"""Largest share of the waiting for shaped storage that may be its server's own."""


@dataclass(frozen=True)
class Judgement:
    """Whether a sample counts, and why not."""

    valid: bool
    reason: str | None = None
    detail: str | None = None


def judge(
    cache_state: str,
    resident_before: float,
    size: int,
    answer: dict[str, Any],
    reads: bool = True,
    writes: bool = False,
    always_throttled: Collection[str] = (),
    busy: float | None = None,
    busy_at_most: float = 1.0,
    late: float | None = None,
) -> Judgement:
    """Return whether a sample counts, from the cache state asked for, the residency proved before,
    the bytes asked for and the child's answer.

    What `reads` no file while the clock runs, a ceiling of memory or of the way to a device, owes
    storage nothing. What `writes` one may be given as much by storage, warm, as a cold load may do
    without: the file system reads its maps of what is free. `always_throttled` are the throttle
    reasons that the GPU gives at rest too: they tell nothing of a load, and invalidate none. `busy`
    is the share of the usable cores' time that others had; more than `busy_at_most` makes a sample
    invalid that nothing else does. `late` is the share of all waiting for shaped storage that its
    server added to what the shape says.
    """
    if "failure" in answer:
        return Judgement(False, answer["failure"], answer["detail"])
    read = answer["storage_read_bytes"]
    if cache_state == "cold" and resident_before > COLD_AT_MOST:
        state = Judgement(
            False, "not-cold", f"{resident_before:.4f} of the file was resident before"
        )
    elif cache_state == "warm" and resident_before < WARM_AT_LEAST:
        state = Judgement(
            False, "not-warm", f"{resident_before:.4f} of the file was resident before"
        )
    elif cache_state == "cold" and read is None:
        state = Judgement(False, "storage-unknown", "no /proc/self/io")
    elif cache_state == "cold" and reads:
        enough = read >= STORAGE_AT_LEAST * size
        state = (
            Judgement(enough)
            if enough
            else Judgement(
                False, "storage-short", f"{read} bytes read from storage for {size} bytes asked for"
            )
        )
    else:
        allowed = (1 - STORAGE_AT_LEAST) * size if writes else 0
        state = (
            Judgement(False, "storage-read", f"{read} bytes read from storage")
            if (read or 0) > allowed
            else Judgement(True)
        )
    if state.valid and (answer.get("libraries_read_bytes") or 0) > LIBRARIES_READ_AT_MOST:
        state = Judgement(
            False,
            "libraries-read",
            f"{answer['libraries_read_bytes']} bytes read from storage before the load",
        )
    if state.valid and late is not None and late > LATE_AT_MOST:
        state = Judgement(
            False,
            LATE,
            f"answers took {late:.0%} longer than the shape says, more than {LATE_AT_MOST:.0%}",
        )
    if state.valid and busy is not None and busy > busy_at_most:
        state = Judgement(
            False, BUSY, f"others had {busy:.0%} of the cores' time, more than {busy_at_most:.0%}"
        )
    return _fault_of_the_load(answer, always_throttled) or state


def _fault_of_the_load(
    answer: dict[str, Any], always_throttled: Collection[str]
) -> Judgement | None:
    """Return what is wrong with what a load handed back, or with the device while it did.

    It is told before the cache state.
    """
    if answer.get("not_private"):
        return Judgement(False, "not-private", answer["not_private"])
    if not answer["content_ok"]:
        return Judgement(
            False,
            "wrong-content",
            answer.get("wrong") or "a tensor's name, dtype, shape or bytes differ",
        )
    if answer.get("misplaced"):
        return Judgement(False, "misplaced", answer["misplaced"])
    blocks = [
        reason
        for reason in answer.get("throttle_reasons") or ()
        if reason in THROTTLED and reason not in always_throttled
    ]
    return Judgement(False, "throttled", ", ".join(blocks)) if blocks else None
