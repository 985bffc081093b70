"""What a search for the smallest memory limit found, as tables of a page and of a terminal write
it.
"""

from __future__ import annotations

from harness.analysis.memory_limits import FACTORS
from harness.analysis.memory_use import LoaderLimits
from harness.records.sample import BUSY
from harness.report.format import DASH, megabytes, significant, time_text

HEADS = (
    "loader",
    "loads with, MB",
    "of its size",
    "with less",
    "no limit",
    *(f"{factor:g}x" for factor in FACTORS),
)
"""The heads of `limit_row`; the last ones are times to ready under multiples of the size."""


def limit_row(row: LoaderLimits, dash: str = DASH) -> list[str]:
    """Return one loader's row under `HEADS`."""
    floor = row.floor
    times = [row.at(factor) for factor in FACTORS]
    return [
        row.loader,
        megabytes(floor.limit_bytes) if floor else "not known",
        f"{significant(floor.limit_bytes / row.size)}" if floor else dash,
        (floor.outcome or "not tried") if floor else dash,
        time_text(row.free_s) if row.free_s else BUSY,
        *(time_text(seconds) if seconds else failed or dash for seconds, failed in times),
    ]
