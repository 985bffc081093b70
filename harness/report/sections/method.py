"""How figures were measured, as the end of every page says it."""

from __future__ import annotations

from harness.analysis.recorded_run import RecordedRun
from harness.report.section_writer import SectionWriter
from harness.report.tables import costs_frame, costs_table, markdown

_UNTIL_PRECISE = (
    "The arms of a cell take turns in blocks. Their order is random, from a recorded seed. A "
    "cell ends when its ratios are precise enough or its time is spent."
)
_SIDES = (
    "Every block measures each loader in all environments, one after the other. Their order is "
    "random, and the next block reverses it, so that drift affects all of them equally. Each "
    "cell is measured in several passes, and each pass starts new servers."
)
METHOD = f"""
- Each sample is one load in a fresh process, forked from a worker that has imported its libraries.
A warm-up load of a tiny checkpoint comes first. - The cache state is set and then proved before
each load, and the bytes read from storage must agree with it. - The content of every tensor is
checked after the clocks have stopped. A sample that fails a check is counted as invalid and enters
no figure. - {_UNTIL_PRECISE} - A figure is a median with its exact order-statistic interval. It
assumes no distribution, pools nothing and drops no outlier.
""".strip()
PAIRED_METHOD = METHOD.replace(_UNTIL_PRECISE, _SIDES)
_COSTS = (
    "Median cost of a sample beyond its load. *process* is the fork, the warm-up load, reading "
    "the counters, and the exit of the process. The *content check* compares every byte. Two "
    "more costs are listed apart: setting and proving the cache state, and touching the memory "
    "that a warm load will use. Without that touch, a warm load could wait until the host "
    "provides the memory."
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
    table = f"As CSV: {writer.table('sample-costs', frame)}"
    return [heading, METHOD, _COSTS, markdown(costs_table(frame)), table]
