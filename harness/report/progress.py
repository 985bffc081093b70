"""What a run shows while it goes on: one live line on a terminal, one plain line a cell elsewhere.

Colours follow `NO_COLOR`. Nothing is drawn by a thread of its own: a line changes only between
samples, so that drawing never runs beside a load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.analysis.run_cells import cells_of
from harness.records.sample import Sample
from harness.report.format import time_text


class RunProgress:
    """The progress of a run's cells on one stream."""

    def __init__(self, stream: TextIO, cells: int, *, tables: bool = False) -> None:
        """`tables` shows each cell's whole table when it is done, in place of its line."""
        self.console = Console(file=stream, soft_wrap=True)
        self._cells, self._tables = cells, tables
        self._names: set[str] = set()
        self._live: Progress | None = None

    def say(self, text: str) -> None:
        """Show what is going on, on a terminal only."""
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            return
        if self._live is None:
            self.console.print()  # what stands on this line already stays
            columns = (MofNCompleteColumn(), BarColumn(bar_width=20), TimeElapsedColumn())
            self._live = Progress(
                *columns,
                TextColumn("{task.description}", markup=False),
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.add_task("", total=self._cells, completed=len(self._names))
            self._live.start()
        self._live.update(self._live.task_ids[0], description=text)
        self._live.refresh()

    def cell_done(self, name: str, samples: Sequence[Sample], reason: str | None) -> None:
        """Say how a cell ended, once; `reason` is why it was not measured or not wholly."""
        if name in self._names:
            return
        self._names.add(name)
        self.pause()
        if self._tables and samples:
            from harness.report.terminal import cell_table  # brings matplotlib, which takes long

            text = cell_table(samples)
        else:
            text = f"cell {len(self._names)} of {self._cells}: {name}: {_ended(samples, reason)}"
        self.console.print()
        self.console.print(text, markup=False)

    def pause(self) -> None:
        """Take the live line away until there is more to say."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _ended(samples: Sequence[Sample], reason: str | None) -> str:
    if not samples:
        return reason or "no samples"
    [cell] = cells_of({}, samples)
    spent = sum(sample.prepare_s + sample.sample_s for sample in samples)
    blocks = len({sample.block for sample in samples})
    fastest = next(iter(cell.measured()), None)
    first = (
        f", fastest {cell.label(fastest)} in {time_text(fastest.ready.median)}"
        if fastest and fastest.ready
        else ""
    )
    return f"{blocks} blocks in {spent:.0f} s{first}{f'; {reason}' if reason else ''}"
