"""The section about what each loader's first call took."""

from __future__ import annotations

from harness.analysis.recorded_run import RecordedRun
from harness.report.section_writer import SectionWriter
from harness.report.tables import first_calls_frame, first_calls_table, markdown

_READING = (
    "What each loader's first call took in a process that had imported its library but not used it"
    " yet, on a tiny checkpoint. What it pays for, imports and set-up, belongs to the process and"
    " to no load, so no figure above holds it."
)


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the section about first calls."""
    frame = first_calls_frame(run.manifest)
    blocks = [writer.heading("First calls")]
    if frame.empty:
        return [*blocks, "No first call was recorded."]
    return [
        *blocks,
        _READING,
        markdown(first_calls_table(frame)),
        f"In plain figures: {writer.table('first-calls', frame)}",
    ]
