"""The rules that make one run of a person's command valid, or say why it is not."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.limits import COLD_AT_MOST, WARM_AT_LEAST
from harness.records.sample import BUSY
from harness.records.weighing import WeighingReason
from harness.scenarios import CacheState

SLACK_SHARE, SLACK_BYTES = 0.01, 1 << 16
"""By how much pages and bytes read may differ: blocks of folders, and a page of readahead more."""


@dataclass(frozen=True)
class WeighingJudgement:
    """Whether a weighing counts, and why not."""

    valid: bool
    reason: WeighingReason | None = None
    detail: str | None = None


def judge_weighing(
    state: CacheState,
    before: float | None,
    after: float | None,
    file_bytes: int,
    read_bytes: int | None,
    counted: bool,
    problem: str | None = None,
    busy: float | None = None,
    busy_at_most: float = 1.0,
) -> WeighingJudgement:
    """Return whether a weighing counts, from what was resident of the files before and after it and
    from what storage gave to the command.

    A command may read a part of the files, or other files too. Cold, it may not find pages that it
    did not read itself; warm, it may not read as much from storage as a hundredth of the files, and
    the files must stay. `counted` is whether the kernel counts a process's bytes on this storage:
    where it does not, pages cannot be held against them. `problem` says why the state could not be
    set.
    """
    if before is None:
        return WeighingJudgement(False, "unprepared", problem)
    slack = SLACK_SHARE * file_bytes + SLACK_BYTES
    if state == "cold" and before > COLD_AT_MOST:
        return WeighingJudgement(False, "not-cold", f"{before:.4f} of the files was resident")
    if state == "warm" and before < WARM_AT_LEAST:
        return WeighingJudgement(False, "not-warm", f"{before:.4f} of the files was resident")
    if state == "warm" and after is not None and after < WARM_AT_LEAST:
        return WeighingJudgement(False, "not-kept", f"{after:.4f} of the files was resident at end")
    if state == "warm" and (read_bytes or 0) > slack:
        return WeighingJudgement(
            False,
            "storage-read",
            f"{read_bytes} bytes came from storage though the files were warm: the command reads"
            " files that are not named, or past the page cache (O_DIRECT)",
        )
    gained = None if after is None else (after - before) * file_bytes
    if state == "cold" and counted and gained and gained > (read_bytes or 0) + slack:
        return WeighingJudgement(
            False,
            "read-by-others",
            f"{gained:.0f} bytes of the files became resident and the command read {read_bytes}: a"
            " process that it did not start reads them",
        )
    if busy is not None and busy > busy_at_most:
        return WeighingJudgement(
            False, BUSY, f"others had {busy:.0%} of the cores' time, more than {busy_at_most:.0%}"
        )
    return WeighingJudgement(True)
