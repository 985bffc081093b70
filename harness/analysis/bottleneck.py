"""The bottleneck of a load: a resource that it uses as well as can be, or what else its time went
to.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.analysis.arms import ArmSummary
from harness.analysis.ceilings import is_ceiling, resource_of
from harness.analysis.time_model import Fit

NEAR = 0.8
"""Share of its ceiling from which a load is bound by that resource."""
_MOST = 0.5
_FITS_WITHIN = 0.25
_AMPLIFIED = 2.0

PAGE_FAULTS, PER_TENSOR, FIXED = "page faults", "per-tensor cost", "fixed cost"
AMPLIFICATION, WAITING, OWN_WORK = (
    "read amplification",
    "waiting for storage",
    "the loader's own work",
)
OWN_WORK_OR_GPU = "the loader's own work, or its wait for the GPU"

MEANING = {
    "storage": f"at least {100 * NEAR:.0f} % of the fastest read from storage",
    "copy": f"at least {100 * NEAR:.0f} % of the fastest copy in memory",
    "transfer": f"at least {100 * NEAR:.0f} % of the fastest copy to the device",
    PAGE_FAULTS: (
        "the file's pages are mapped and nothing is copied, so the first touch of each page "
        "takes the time"
    ),
    PER_TENSOR: (
        f"at least {100 * _MOST:.0f} % of the time does not depend on bytes, and most of that "
        "grows with the number of tensors, by the line fitted through the sizes"
    ),
    FIXED: "the same, but most of that time is the same at any size",
    AMPLIFICATION: f"at least {_AMPLIFIED:.0f} times the requested bytes were read from storage",
    WAITING: (
        "the processor is idle most of the time, and storage could be faster: requests are too "
        "small, or too few at a time"
    ),
    OWN_WORK: "none of these: unpickling, the loader's own copies, or preparing memory",
    OWN_WORK_OR_GPU: (
        "none of these, on a GPU: a thread that waits for the GPU keeps its processor busy, so "
        "work and waiting look the same"
    ),
}
"""What can bind a load, each with how it is told."""


def bottleneck_of(arm: ArmSummary, fits: Iterable[Fit] = ()) -> str | None:
    """Return the bottleneck an arm's load, one of `MEANING`.

    None without a ceiling to hold it against, or of a ceiling.

    Of `fits` the arm's own is asked for costs that bytes do not explain, unless it misses this cell
    by more than a quarter.
    """
    if not arm.ceiling or is_ceiling(arm.loader) or not arm.share_of_ceiling or not arm.ready:
        return None
    cell, share, ready = arm.cell, arm.share_of_ceiling.median, arm.ready.median
    mapped = copies_nothing(arm)
    if share >= NEAR and not mapped:
        return resource_of(arm.ceiling, cell.cache_state)
    if share < NEAR and (beside := _beside_bytes(arm, fits)):
        return beside
    if mapped:
        return PAGE_FAULTS
    if cell.cache_state == "cold" and arm.amplification and arm.amplification.median >= _AMPLIFIED:
        return AMPLIFICATION
    waits = cell.cache_state == "cold" and arm.cpu_s is not None and arm.cpu_s < _MOST * ready
    if waits:
        return WAITING
    return OWN_WORK if cell.device == "cpu" else OWN_WORK_OR_GPU


def copies_nothing(arm: ArmSummary) -> bool:
    """Return whether an arm's load maps what is in memory already, so that its time is each page's
    first touch.
    """
    cell = arm.cell
    return (
        cell.cache_state == "warm"
        and cell.device == "cpu"
        and (arm.mapped_bytes or 0) >= _MOST * (arm.requested_bytes or arm.bytes)
    )


def _beside_bytes(arm: ArmSummary, fits: Iterable[Fit]) -> str | None:
    """Return which cost that the bytes do not explain is most of an arm's time, the larger where
    both together are, or None.
    """
    cell = arm.cell
    key = (arm.loader, arm.environment, cell.device, cell.cache_state)
    fit = next(
        (fit for fit in fits if (fit.loader, fit.environment, fit.device, fit.cache_state) == key),
        None,
    )
    known = (
        next(
            (
                measured_cell
                for measured_cell in fit.cells
                if measured_cell.checkpoint == cell.checkpoint
            ),
            None,
        )
        if fit
        else None
    )
    if (
        not fit
        or not known
        or not arm.ready
        or arm.requested_bytes is not None
        or abs(fit.deviation(known)) > _FITS_WITHIN
    ):
        return None
    costs = {PER_TENSOR: fit.per_tensor_s * arm.tensors, FIXED: fit.fixed_s}
    return (
        max(costs, key=lambda cost: costs[cost])
        if sum(costs.values()) >= _MOST * arm.ready.median
        else None
    )
