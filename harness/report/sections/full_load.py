"""The section about loading everything: each cell's table, and what its time went to."""

from __future__ import annotations

from itertools import groupby

from harness.analysis.arms import REFERENCE
from harness.analysis.bottleneck import MEANING, OWN_WORK_OR_GPU
from harness.analysis.recorded_run import RecordedRun
from harness.report.figures.full_load import draw_full_load
from harness.report.format import bottleneck_text, size_text
from harness.report.section_writer import SectionWriter, course
from harness.report.tables import cell_frame, cell_table, gpu_lines, markdown
from harness.scenarios import FULL_LOAD

_READING = f"""
*returned* is when the call gave back its tensors, *ready* when every page of every tensor had been
touched. Each figure is a median with the interval that holds the true one with 95 % confidence. A
ratio is to `{REFERENCE}`, taken block by block: above 1 is slower. Every block holds ceilings too,
the best plain ways to bring up the same bytes: a parallel read with the page cache (`ceiling-read`)
and past it (`ceiling-direct`), a copy in memory (`ceiling-copy`), a copy to the device. A share is
of the one that bounds the cell: of each resource the fastest, of the resources the slowest. A
loader that maps a warm file copies nothing and may exceed 100 %. MB is 10^6 bytes and GB 10^9.
`insufficient`: too few valid samples for an interval; `missing`: no valid sample at all.
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
                    "The bottleneck of a load is told so:",
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
            blocks.append(f"**{cell.cache_state.capitalize()}, on {cell.device}**{course(cell)}")
            if cell.samples or cell.left_out:
                blocks += [
                    markdown(cell_table(cell)),
                    *filter(None, [bottleneck_text(cell, run.fits, "**")]),
                ]
                blocks += gpu_lines(cell)
                blocks.append(
                    f"In plain figures: {writer.table(cell.name, cell_frame(cell, run.fits))}"
                )
    return blocks
