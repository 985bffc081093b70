"""The section about what each loader's first call took."""

from __future__ import annotations

from harness.analysis.recorded_run import RecordedRun
from harness.report.section_writer import SectionWriter
from harness.report.tables import first_calls_frame, first_calls_table, markdown

_READING = (
    "The time of each loader's first call on a tiny checkpoint, in a process that has only "
    "imported its library. This call pays for late imports and set-up. That cost belongs to the "
    "process and not to a load, so no figure above includes it."
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
        f"As CSV: {writer.table('first-calls', frame)}",
    ]
