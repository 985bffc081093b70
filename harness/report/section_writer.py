"""Where a run's part of a page lies, and the lines that every scenario's part of it holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from harness.analysis.run_cells import MeasuredCell
from harness.report.figures.style import LOOK, Drawn, told_of_dots
from harness.report.figures.svg import write_svg
from harness.report.format import significant, slug, time_text
from harness.report.tables import csv
from harness.scenarios import SCENARIOS


@dataclass(frozen=True)
class SectionWriter:
    """Where a part of a page lies: the page's folder, the part's own folder inside `tables/` and
    `figures/`, its heading's level.
    """

    folder: Path
    part: str
    level: int
    samples: str | None = None
    """Where the samples lie that everything here is made from, as a link from the page; None where
    no way leads there.
    """

    drawings: list[Drawn] = field(default_factory=list, compare=False)
    """Every figure that was shown, in its order."""

    def heading(self, text: str, below: int = 1) -> str:
        """Return a heading, `below` levels under the run's own."""
        return f"{'#' * (self.level + below)} {text}"

    def title(self, scenario: str) -> str:
        """Return the heading of a scenario's section."""
        return self.heading(SCENARIOS[scenario].title)

    def table(self, name: str, frame: pd.DataFrame) -> str:
        """Write a frame as CSV and return a link to it."""
        path = Path("tables", self.part, f"{slug(name)}.csv")
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(csv(frame), encoding="utf-8", newline="\n")
        return f"[{path.name}]({path.as_posix()})"

    def figure(self, draw: Callable[[], tuple[Figure, Drawn] | None]) -> list[str]:
        """Write what `draw` gives as SVG and return its lines.

        Nothing where there is nothing to draw.
        """
        with style.context(["default", LOOK]):
            done = draw()
            if done is None:
                return []
            figure, drawn = done[0], told_of_dots(*done)
            write_svg(figure, self.folder / "figures" / self.part / drawn.file)
        return self.shown(drawn)

    def shown(self, drawn: Drawn) -> list[str]:
        """Return the lines that show a figure: the drawing, how to read it, and the way to its
        samples.
        """
        self.drawings.append(drawn)
        return self.lines(drawn)

    def lines(self, drawn: Drawn, *also: str, as_above: bool = False) -> list[str]:
        """Return the same lines of a figure that is shown elsewhere too, what else there is to say
        of it at their end.

        `as_above` says that a figure above it is read in the same way.
        """
        reading = "as the figure above" if as_above else drawn.reading.rstrip(".")
        ways = " ".join([*([f"[Its samples]({self.samples})."] if self.samples else []), *also])
        return [
            f"![{drawn.alt}]({(Path('figures', self.part) / drawn.file).as_posix()})",
            f"How to read it: {reading}.{f' {ways}' if ways else ''}",
        ]


def placed(cell: MeasuredCell) -> str:
    """Return the end of a cell's heading: its storage, or nothing for the disk as it is."""
    return f", on {cell.where}" if cell.where else ""


def course(cell: MeasuredCell) -> str:
    """Return how the measuring of a cell went, as the rest of its line."""
    parts = [cell.reason] if cell.reason else []
    if cell.samples:
        parts.append(
            f"{len({sample.block for sample in cell.samples})} blocks, {len(cell.samples)} samples"
        )
    if cell.record.get("stopped"):
        parts.append(f"stopped by {cell.record['stopped']}")
    reference = cell.pair.reference
    arm = cell.arm(reference)
    if arm and arm.touch_s:
        parts.append(
            f"the page touch, part of *ready*, costs {significant(arm.touch_s * 1e3)} ms by "
            f"itself (of `{reference}`)"
        )
    touches = [
        sample.memory_touch_s
        for sample in cell.samples
        if sample.memory_touch_bytes and sample.memory_touch_s
    ]
    if touches:
        parts.append(
            f"touching memory before each load took {time_text(statistics.median(touches))}, "
            f"{time_text(max(touches))} at the slowest"
        )
    return f": {'; '.join(parts)}." if parts else "."
