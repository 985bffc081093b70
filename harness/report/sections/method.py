"""How figures were measured, as the end of every page says it."""

from __future__ import annotations

from harness.analysis.recorded_run import RecordedRun
from harness.report.section_writer import SectionWriter
from harness.report.tables import costs_frame, costs_table, markdown

_UNTIL_PRECISE = (
    "A cell's arms take turns in blocks, in random order from a recorded seed, until its ratios are"
    " known narrowly enough or its time is spent."
)
_SIDES = (
    "Every block holds all environments: of each loader one after the other, in random order, and"
    " in the next block in the reverse order, so that what drifts falls on each alike. Cells are"
    " gone through several times, each time with servers started anew."
)
METHOD = f"""
- Each sample is one load in a fresh process, forked from a worker that has imported its libraries.
  A warm-up load of a tiny checkpoint comes first.
- The cache state is set and then proved before each load, and the bytes read from storage must
  agree with it.
- The content of every tensor is checked after the clocks have stopped; a sample that fails a check
  is counted, and enters no figure.
- {_UNTIL_PRECISE}
- A figure is a median with its exact order-statistic interval: no distribution is assumed, nothing
  is pooled, no outlier is dropped.
""".strip()
PAIRED_METHOD = METHOD.replace(_UNTIL_PRECISE, _SIDES)
_COSTS = (
    "Medians of what a sample took beyond its load: *process* is the fork, the warm-up load, the"
    " counters and the process going away with its memory; the *content check* compares every byte."
    " Apart from them stand setting and proving the cache state, and touching the memory that a"
    " warm load is given, so that it does not wait for a host to back it."
)


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the section about how the run was measured, and what its samples took beyond their
    loads.
    """
    heading = writer.heading("How it was measured")
    if run.paired:
        return [heading, PAIRED_METHOD]
    frame = costs_frame(run.samples)
    if frame.empty:
        return [heading, METHOD]
    table = f"In plain figures: {writer.table('sample-costs', frame)}"
    return [heading, METHOD, _COSTS, markdown(costs_table(frame)), table]
