"""Where a run's part of a page lies, and the lines that every scenario's part of it holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from harness.report.cells import Cell
from harness.report.drawing import LOOK, Drawn, told_of_dots
from harness.report.tables import csv
from harness.report.words import significant, slug, time_text
from harness.verdicts.cells import reference_of


@dataclass(frozen=True)
class Place:
    """Where a run's part of a page lies: the page's folder, the run's own folder inside `tables/` and `figures/`, its heading's level."""

    folder: Path
    part: str
    level: int

    def heading(self, text: str, below: int = 1) -> str:
        """Return a heading, `below` levels under the run's own."""
        return f"{'#' * (self.level + below)} {text}"

    def table(self, name: str, frame: pd.DataFrame) -> str:
        """Write a frame as CSV and return a link to it."""
        path = Path("tables", self.part, f"{slug(name)}.csv")
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(csv(frame), encoding="utf-8", newline="\n")
        return f"[{path.name}]({path.as_posix()})"

    def figure(self, draw: Callable[[], tuple[Figure, Drawn] | None]) -> list[str]:
        """Write what `draw` gives as SVG and return its lines; nothing where there is nothing to draw."""
        with style.context(["default", LOOK]):
            done = draw()
            if done is None:
                return []
            figure, drawn = done[0], told_of_dots(*done)
            path = Path("figures", self.part)
            (self.folder / path).mkdir(parents=True, exist_ok=True)
            figure.savefig(self.folder / path / drawn.file, format="svg", metadata={"Date": None, "Creator": None})
        return self.shown(drawn)

    def shown(self, drawn: Drawn) -> list[str]:
        """Return the lines that show a figure."""
        return [f"![{drawn.alt}]({(Path('figures', self.part) / drawn.file).as_posix()})", f"How to read it: {drawn.reading}"]


def course(cell: Cell) -> str:
    """Return how the measuring of a cell went, as the rest of its line."""
    parts = [cell.reason] if cell.reason else []
    if cell.samples:
        parts.append(f"{len({sample.block for sample in cell.samples})} blocks, {len(cell.samples)} samples")
    if cell.record.get("stopped"):
        parts.append(f"stopped by {cell.record['stopped']}")
    reference = reference_of(cell.scenario, cell.checkpoint)
    arm = cell.arm(reference)
    if arm and arm.walk_s:
        parts.append(f"the walk inside *ready* costs {significant(arm.walk_s * 1e3)} ms by itself (of `{reference}`)")
    touches = [sample.memory_touch_s for sample in cell.samples if sample.memory_touch_bytes and sample.memory_touch_s]
    if touches:
        parts.append(
            f"touching memory before each load took {time_text(statistics.median(touches))}, {time_text(max(touches))} at the slowest"
        )
    return f": {'; '.join(parts)}." if parts else "."
