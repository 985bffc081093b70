"""The section about loading everything: each cell's table, and what its time went to."""

from __future__ import annotations

from itertools import groupby

from harness.analysis.arms import REFERENCE
from harness.analysis.bottleneck import MEANING, OWN_WORK_OR_GPU
from harness.analysis.recorded_run import RecordedRun
from harness.report.figures.full_load import draw_full_load
from harness.report.format import bottleneck_text, size_text
from harness.report.section_writer import SectionWriter, course, placed
from harness.report.tables import cell_frame, cell_table, gpu_lines, markdown
from harness.scenarios import FULL_LOAD

_READING = f"""
*returned* is when the call returned its tensors. *ready* is when every page of every tensor had
been touched. Each figure is a median with the interval that holds the true median with 95 %
confidence. A ratio is to `{REFERENCE}`, taken within blocks: above 1 is slower. Every block also
measures ceilings, the fastest plain ways to move the same bytes. They are a parallel read through
the page cache (`ceiling-read`) and past it (`ceiling-direct`), a copy in memory (`ceiling-copy`),
and a copy to the device. For each resource the fastest ceiling counts, and the slowest of those
bounds the cell. A share is of that ceiling. A loader that maps a warm file copies nothing and may
exceed 100 %. MB is 10^6 bytes and GB 10^9. `insufficient`: too few valid samples for an interval;
`missing`: no valid sample at all.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about full loads, none where there is no such cell."""
    cells = run.cells_of(FULL_LOAD)
    if not cells:
        return []
    blocks = [writer.title(FULL_LOAD), _READING]
    on_gpu = any(cell.device != "cpu" for cell in cells)
    meanings = {
        what: meaning for what, meaning in MEANING.items() if on_gpu or what != OWN_WORK_OR_GPU
    }
    if any(cell.ceiling for cell in cells):
        blocks.append(
            "\n".join(
                [
                    "A load's bottleneck is one of these, in the order in which they are tested:",
                    "",
                    *(f"- **{what}**: {meaning}." for what, meaning in meanings.items()),
                ]
            )
        )
    for drawn in draw_full_load(cells, writer.folder / "figures" / writer.part, run.fits):
        blocks += writer.shown(drawn)
    for checkpoint, group in groupby(cells, key=lambda cell: cell.checkpoint):
        cells_here = list(group)
        tensors = next(
            (f", {cell.samples[0].tensors:,} tensors" for cell in cells_here if cell.samples), ""
        )
        blocks.append(writer.heading(f"{checkpoint}, {size_text(cells_here[0].bytes)}{tensors}", 2))
        for cell in cells_here:
            blocks.append(
                f"**{cell.cache_state.capitalize()}, on {cell.device}{placed(cell)}**{course(cell)}"
            )
            if cell.samples or cell.left_out:
                blocks += [
                    markdown(cell_table(cell)),
                    *filter(None, [bottleneck_text(cell, run.fits, "**")]),
                ]
                blocks += gpu_lines(cell)
                blocks.append(f"As CSV: {writer.table(cell.name, cell_frame(cell, run.fits))}")
    return blocks
