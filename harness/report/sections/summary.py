"""The plain answer of a run: a few sentences computed from its cells."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.arms import REFERENCE, ArmSummary
from harness.analysis.documented_figures import CLAIM_ALIKE, CLAIMED_BYTES, CLAIMED_RATIO, CLAIMED_S
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, find, indistinguishable, nearest_to_claim
from harness.report.format import significant, size_text, spread, time_text
from harness.report.section_writer import SectionWriter
from harness.report.sections.hostile_files import hostile_answer
from harness.report.sections.pipeline_load import compared
from harness.report.sections.process_start import waited
from harness.report.sections.sharded_load import claimed
from harness.scenarios import FULL_LOAD, PARTIAL_LOAD, SCAN, SCENARIOS, SHARDED_LOAD

_PICKLE = "torch-load"


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the section that answers what the run was asked, from its trials where it loaded
    nothing.
    """
    loads = any(cell.scenario != SCAN for cell in run.cells)
    answer = (
        plain_answer(run.cells)
        if loads
        else hostile_answer(run.manifest, run.trials) or plain_answer(run.cells)
    )
    return [writer.heading("The answer"), answer]


def plain_answer(cells: Sequence[MeasuredCell]) -> str:
    """Return a run's answer in Markdown: the claim's two loaders warm, cold and beside the claim,
    the fastest; then parts, ranks, pipelines, whole processes, and who was wrong.
    """
    whole, rest = (
        _whole(cells),
        [
            *_parts(cells),
            *_ranks(cells),
            *filter(None, (compared(cells), waited(cells))),
            *_wrong(cells),
        ],
    )
    if not whole and not rest:
        return (
            "**No load gave a valid sample, so this run answers nothing.** The reasons are below."
        )
    if not whole:
        whole = [
            "This run has no valid sample of a whole checkpoint. It measured:",
            "",
        ]
    return "\n".join([*whole, *(f"- {point}" for point in rest)])


def _whole(cells: Sequence[MeasuredCell]) -> list[str]:
    """Return the lines about loading everything, none where no valid sample tells of it."""
    checkpoint = nearest_to_claim(cells)
    if checkpoint is None:
        return []
    cells = [cell for cell in cells if cell.scenario == FULL_LOAD]
    devices = sorted(
        {cell.device for cell in cells if cell.checkpoint == checkpoint and cell.measured()}
    )
    device = "cpu" if "cpu" in devices else devices[0]
    warm, cold = (find(cells, checkpoint, state, device) for state in ("warm", "cold"))
    size = next(cell.bytes for cell in cells if cell.checkpoint == checkpoint) or 0
    opening = (
        f"At **{checkpoint}** ({size_text(size)}, on {device}), the checkpoint nearest the claim's"
        " 500 MB:"
    )
    points = [_compared(warm, "warm"), _compared(cold, "cold"), _claim(warm, size, device)]
    fastest = [_fastest(cell) for cell in (cold, warm) if cell and cell.measured()]
    points.append(f"The fastest loader to *ready* is {'; '.join(fastest)}.")
    return [opening, "", *(f"- {point}" for point in points)]


def _parts(cells: Sequence[MeasuredCell]) -> list[str]:
    """Return what a part of the largest checkpoint costs storage by `get_slice`, at the best and at
    the worst, beside loading whole files.
    """
    cold = [cell for cell in cells if cell.scenario == PARTIAL_LOAD and cell.cache_state == "cold"]
    known = [
        (arm.amplification.median, cell, arm)
        for cell in cold
        if (arm := cell.arm(SCENARIOS[PARTIAL_LOAD].pair.reference)) and arm.amplification
    ]
    if not known:
        return []
    largest = max(cell.bytes or 0 for _, cell, _ in known)
    of_largest = sorted(
        (entry for entry in known if entry[1].bytes == largest), key=lambda entry: entry[0]
    )
    words = " and ".join(
        dict.fromkeys(_costs(cell, arm) for _, cell, arm in (of_largest[0], of_largest[-1]))
    )
    return [
        f"Of a part of {of_largest[0][1].checkpoint}, cold, storage gives by"
        f" `{SCENARIOS[PARTIAL_LOAD].pair.reference}` {words}."
    ]


def _costs(cell: MeasuredCell, arm: ArmSummary) -> str:
    ahead = (
        "" if cell.key.read_ahead_kb is None else f" with {cell.key.read_ahead_kb} KiB of readahead"
    )
    pickle = cell.arm(_PICKLE)
    beside = (
        f"; torch-load then slice takes {spread(pickle.ratio_ready, 'no pairs')} times as long"
        if pickle and pickle.ratio_ready
        else ""
    )
    return (
        f"**{spread(arm.amplification, 'unknown')}** times the bytes asked for"
        f" (`{cell.key.part}`{ahead}{beside})"
    )


def _ranks(cells: Sequence[MeasuredCell]) -> list[str]:
    cells_here = [cell for cell in cells if cell.scenario == SHARDED_LOAD and cell.measured()]
    return [claimed(cells_here)] if cells_here else []


def _wrong(cells: Sequence[MeasuredCell]) -> list[str]:
    wrong_arms = [
        (cell.label(arm), cell.name, arm.wrong) for cell in cells for arm in cell.arms if arm.wrong
    ]
    return [
        f"**{loader} returned wrong tensors** in {cell}, so it has no rank there: {what}."
        for loader, cell, what in wrong_arms
    ]


def _compared(cell: MeasuredCell | None, state: str) -> str:
    arms = (cell.arm(_PICKLE), cell.arm(REFERENCE)) if cell else (None, None)
    pickle, reference = arms
    if cell is None or not pickle or not reference:
        why = (
            "it was not requested"
            if cell is None
            else cell.reason or "one of the two has no valid sample"
        )
        return f"{state.capitalize()}, {_PICKLE} and {REFERENCE} cannot be compared ({why})."
    parts = [
        f"{time_text(over.median)} against {time_text(under.median)} by *{clock}*,"
        f" **{spread(ratio, 'no pairs')}** times as long"
        for clock, over, under, ratio in (
            ("returned", pickle.returned, reference.returned, pickle.ratio_returned),
            ("ready", pickle.ready, reference.ready, pickle.ratio_ready),
        )
        if over and under
    ]
    return f"{state.capitalize()}, {_PICKLE} takes {', and '.join(parts)} as {REFERENCE}."


def _claim(warm: MeasuredCell | None, size: int, device: str) -> str:
    page = (
        f"{significant(CLAIMED_S[_PICKLE] * 1e3)} ms against"
        f" {significant(CLAIMED_S[REFERENCE] * 1e3)} ms, {CLAIMED_RATIO:.1f} times"
    )
    claim = f"The documentation claims {page}, for 500 MB on the CPU"
    pickle = warm.arm(_PICKLE) if warm else None
    if (
        not pickle
        or not pickle.ratio_returned
        or not pickle.ratio_ready
        or device != "cpu"
        or abs(size / CLAIMED_BYTES - 1) > CLAIM_ALIKE
    ):
        return f"{claim}; this run has no warm figure of that size."
    returned, ready = (
        significant(pickle.ratio_returned.median),
        significant(pickle.ratio_ready.median),
    )
    return (
        f"{claim}: here, warm, it is {returned} times by *returned* and {ready} times once every"
        " page is there to be used."
    )


def _fastest(cell: MeasuredCell) -> str:
    first, *others = indistinguishable(cell)
    words = (
        f"{cell.cache_state} **{cell.label(first)}** ({spread(first.ready, '', 1e3)} ms,"
        f" {significant((first.rate or 0.0) / 1e9)} GB/s)"
    )
    if first.status == "insufficient":
        words += ", with too few samples to rank the others"
    elif others:
        words += (
            f", not significantly different from {', '.join(cell.label(arm) for arm in others)}"
        )
    return words
