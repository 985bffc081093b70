"""Words and figures as every table, figure and sentence of a report writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from harness.analysis.arms import ArmSummary
from harness.analysis.bottleneck import bottleneck_of
from harness.analysis.ceilings import resource_of
from harness.analysis.run_cells import MeasuredCell, invalid_counts
from harness.analysis.statistics import Estimate
from harness.analysis.time_model import Fit
from harness.records.limits import BUSY_AT_MOST
from harness.records.sample import BUSY, Sample

DASH = "\u2013"
BUSY_SAMPLES = 0.02
"""A machine counts as busy from this share of samples on that are invalid for it."""
MEGABYTE = 1e6


def significant(value: float) -> str:
    """Return a number with three significant figures and no exponent."""
    rounded = float(f"{value:.2e}")
    if rounded == 0 or not math.isfinite(rounded):
        return f"{rounded:.0f}"
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"


def size_text(size: float | None) -> str:
    """Return a size in bytes as decimal MB (10^6) or GB (10^9)."""
    if size is None:
        return "unknown size"
    return f"{significant(size / 1e9)} GB" if size >= 1e9 else f"{significant(size / MEGABYTE)} MB"


def megabytes(size: float | None) -> str:
    """Return a size in bytes as decimal MB without the unit.

    What is less than 0.01 MB either way is 0.
    """
    if size is None:
        return "unknown"
    return "0" if abs(size) < 0.01 * MEGABYTE else significant(size / MEGABYTE)


def slug(name: str) -> str:
    """Return a name as part of a file's name: a person's checkpoint may be called anything."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def listed(parts: Sequence[str]) -> str:
    """Return parts as a sentence lists them: a, b and c."""
    *first, last = parts
    return " and ".join(filter(None, (", ".join(first), last)))


def time_unit(times_s: Iterable[float | None]) -> tuple[float, str]:
    """Return the factor from seconds, and the name, of the one unit that suits all of these
    times.
    """
    known = [time for time in times_s if time is not None]
    return (1.0, "s") if known and min(known) >= 1.0 else (1e3, "ms")


def time_text(time_s: float) -> str:
    """Return a time in s as text with the unit that suits it."""
    factor, unit = time_unit([time_s])
    return f"{significant(time_s * factor)} {unit}"


def time_spread(estimate: Estimate | None) -> str:
    """Return a time in s with its interval, in the unit that suits it.

    `no figure` where there is none.
    """
    if estimate is None:
        return "no figure"
    factor, unit = time_unit([estimate.median])
    return (
        time_text(estimate.median)
        if estimate.low is None
        else f"{spread(estimate, '', factor)} {unit}"
    )


def spread(estimate: Estimate | None, otherwise: str, factor: float = 1.0, dash: str = DASH) -> str:
    """Return a median with its interval, `insufficient` in the interval's place, or `otherwise`
    where there is no median.
    """
    if estimate is None:
        return otherwise
    interval = (
        "insufficient"
        if estimate.low is None or estimate.high is None
        else f"{significant(estimate.low * factor)}{dash}{significant(estimate.high * factor)}"
    )
    return f"{significant(estimate.median * factor)} [{interval}]"


def ratio_text(
    cell: MeasuredCell, arm: ArmSummary, estimate: Estimate | None, dash: str = DASH
) -> str:
    """Return a ratio to the reference loader with its interval, or why there is none."""
    reference = cell.pair.reference
    if arm.loader == reference and estimate:
        return "1 (reference)"
    return spread(
        estimate, "no reference" if cell.arm(reference) is None else "no pairs", dash=dash
    )


def share_text(arm: ArmSummary, *, interval: bool = True) -> str:
    """Return an arm's share of the ceiling that bounds it in per cent, or why there is none."""
    if arm.ceiling is None:
        return "no ceiling"
    if arm.loader == arm.ceiling:
        return "ceiling"
    if not interval and arm.share_of_ceiling:
        return significant(100 * arm.share_of_ceiling.median)
    return spread(arm.share_of_ceiling, "no pairs", 100)


def bottleneck_text(cell: MeasuredCell, fits: Iterable[Fit] = (), mark: str = "") -> str | None:
    """Return a sentence on the bottleneck the loads of a cell, `mark` around what is set off.

    None where no ceiling was measured.
    """
    ceiling = cell.ceiling
    if not ceiling or not ceiling.rate:
        return None
    fits = list(fits)
    bound: dict[str | None, list[str]] = {}
    for arm in cell.measured():
        bound.setdefault(bottleneck_of(arm, fits), []).append(cell.label(arm))
    resource = resource_of(ceiling.loader, cell.cache_state)
    text = "; ".join(
        f"{mark}{what}{mark} ({', '.join(arms)})" for what, arms in bound.items() if what
    )
    ends = f", and the bottleneck is {text}" if text else ""
    return (
        f"The ceiling is {ceiling.loader} ({resource}, {significant(ceiling.rate / 1e9)}"
        f" GB/s){ends}."
    )


def was_busy(samples: Sequence[Sample]) -> bool:
    """Return whether so many samples are invalid for a busy machine that a reader must know of it
    first.
    """
    return sum(sample.reason == BUSY for sample in samples) > BUSY_SAMPLES * len(samples)


def busy_line(manifest: Mapping[str, Any], samples: Sequence[Sample]) -> str | None:
    """Return how busy the machine was with something else and what to do about it, in one line.

    None where no sample tells.
    """
    shares = [
        sample.others_cpu_share + (sample.steal_share or 0.0)
        for sample in samples
        if sample.others_cpu_share is not None
    ]
    if not shares:
        return None
    busy = sum(sample.reason == BUSY for sample in samples)
    most = (
        f"{median(shares):.0%} of the cores' time in the median sample, {max(shares):.0%} at most"
    )
    allowed = (manifest.get("options") or {}).get("busy_at_most")
    if not busy and max(shares) > BUSY_AT_MOST:
        return (
            f"the machine was busy, which was allowed: other processes used {most}; the figures "
            "still count"
        )
    if not busy:
        return f"the machine was quiet: other processes used {most}"
    if not was_busy(samples):
        return (
            f"the machine was quiet in all but {busy} of {len(samples)} samples, which are"
            f" invalid: other processes used {most}"
        )
    limit = f" (more than {allowed:.0%})" if allowed is not None else ""
    return (
        f"the machine was busy: other processes used {most}; this made {busy} of {len(samples)} "
        f"samples invalid{limit}. Stop other programs, or wait, and measure again"
    )


def invalid_line(samples: Sequence[Sample]) -> str:
    """Return how many of the samples are invalid, their share, and for which reasons, on one
    line.
    """
    counts = invalid_counts(samples)
    number = sum(counts.values())
    if not number:
        return f"invalid samples: 0 of {len(samples)}"
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    return (
        f"invalid samples: {number} of {len(samples)} ({100 * number / len(samples):.1f} %):"
        f" {reasons}"
    )
