"""The plain answer of a run: a few sentences computed from its cells."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.cells import CLAIMED_BYTES, Cell, find, nearest_to_claim, not_told_apart
from harness.report.figures import CLAIMED_RATIO, CLAIMED_S
from harness.report.words import significant, size_text, spread, time_text
from harness.verdicts.cells import REFERENCE

_PICKLE = "torch-load"
_ALIKE = 0.25
"""A checkpoint whose size is within this share of the claim's is spoken of as one of that size."""


def plain_answer(cells: Sequence[Cell]) -> str:
    """Return a line and four points in Markdown: the claim's two loaders warm, cold and beside the claim, and the fastest loader."""
    checkpoint = nearest_to_claim(cells)
    if checkpoint is None:
        return "**No load of a whole checkpoint gave a valid sample, so this run answers nothing**; why is told below."
    devices = sorted({cell.device for cell in cells if cell.checkpoint == checkpoint and cell.measured()})
    device = "cpu" if "cpu" in devices else devices[0]
    warm, cold = (find(cells, checkpoint, state, device) for state in ("warm", "cold"))
    size = next(cell.bytes for cell in cells if cell.checkpoint == checkpoint) or 0
    opening = f"At **{checkpoint}** ({size_text(size)}, on {device}), the checkpoint nearest the claim's 500 MB:"
    points = [_compared(warm, "warm"), _compared(cold, "cold"), _claim(warm, size, device)]
    fastest = [_fastest(cell) for cell in (cold, warm) if cell and cell.measured()]
    points.append(f"The fastest loader to *ready* is {'; '.join(fastest)}.")
    return "\n".join([opening, "", *(f"- {point}" for point in points)])


def _compared(cell: Cell | None, state: str) -> str:
    arms = (cell.arm(_PICKLE), cell.arm(REFERENCE)) if cell else (None, None)
    pickle, reference = arms
    if cell is None or not pickle or not reference:
        why = "it was not asked for" if cell is None else cell.reason or "one of the two has no valid sample"
        return f"{state.capitalize()}, {_PICKLE} and {REFERENCE} cannot be compared ({why})."
    parts = [
        f"{time_text(over.median)} against {time_text(under.median)} by *{clock}*, **{spread(ratio, 'no pairs')}** times as long"
        for clock, over, under, ratio in (
            ("returned", pickle.returned, reference.returned, pickle.ratio_returned),
            ("ready", pickle.ready, reference.ready, pickle.ratio_ready),
        )
        if over and under
    ]
    return f"{state.capitalize()}, {_PICKLE} takes {', and '.join(parts)} as {REFERENCE}."


def _claim(warm: Cell | None, size: int, device: str) -> str:
    page = f"{significant(CLAIMED_S[_PICKLE] * 1e3)} ms against {significant(CLAIMED_S[REFERENCE] * 1e3)} ms, {CLAIMED_RATIO:.1f} times"
    claim = f"The document under test claims {page}, for 500 MB on the CPU"
    pickle = warm.arm(_PICKLE) if warm else None
    if not pickle or not pickle.ratio_returned or not pickle.ratio_ready or device != "cpu" or abs(size / CLAIMED_BYTES - 1) > _ALIKE:
        return f"{claim}; this run has no warm figure of that size to set beside it."
    returned, ready = significant(pickle.ratio_returned.median), significant(pickle.ratio_ready.median)
    return f"{claim}: here, warm, it is {returned} times by *returned* and {ready} times once every page is there to be used."


def _fastest(cell: Cell) -> str:
    first, *others = not_told_apart(cell)
    words = f"{cell.cache_state} **{cell.label(first)}** ({spread(first.ready, '', 1e3)} ms, {significant((first.rate or 0.0) / 1e9)} GB/s)"
    if first.status == "insufficient":
        words += ", too few samples to tell it from the others"
    elif others:
        words += f", not told apart from {', '.join(cell.label(arm) for arm in others)}"
    return words
