"""The figures that README and docs quote, each from one cell of one reference run.

An entry of a figures file says which; an unknown or a missing key is an error that names the entry.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

import msgspec

from harness.analysis.machines import Machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, pair_ratio
from harness.analysis.shown_run import shown_run
from harness.analysis.statistics import Estimate, estimate
from harness.errors import WeighbridgeError
from harness.records.sample import Sample

Clock = Literal["returned", "ready", "module_ready"]


class QuotedFigure(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    """A figure of one cell. Its subclass is what is measured."""

    cell: str
    """The cell's name, such as `full-load/gpt2/cold/cpu`."""
    says: str
    """What the figure is, in a few words."""
    shown: bool = False
    """Whether it is of the run that the figure of README shows, and not of the run that has most
    samples of it.
    """

    machine: int = 1
    """Which machine, the one with most samples first: 1 is the first that has the cell.
    """

    def estimate(self, cell: MeasuredCell) -> Estimate | None:
        """Return the figure of a cell with its interval, None where the cell has none."""
        raise NotImplementedError


class RatioFigure(QuotedFigure, frozen=True, kw_only=True, tag="ratio"):
    """How many times as long one loader takes as another, within blocks."""

    over: str
    under: str
    clock: Clock = "ready"

    def estimate(self, cell: MeasuredCell) -> Estimate | None:
        """Return the ratio."""
        return pair_ratio(cell, self.over, self.under, attrgetter(f"{self.clock}_s"))


class RequestsFigure(QuotedFigure, frozen=True, kw_only=True, tag="request-size"):
    """How many times as large one loader's requests are as another's, within blocks."""

    over: str
    under: str

    def estimate(self, cell: MeasuredCell) -> Estimate | None:
        """Return the ratio of mean sizes."""
        return pair_ratio(cell, self.over, self.under, attrgetter("storage_request_bytes"))


class TimeFigure(QuotedFigure, frozen=True, kw_only=True, tag="time"):
    """How long a loader takes, in s."""

    loader: str
    clock: Clock = "ready"

    def estimate(self, cell: MeasuredCell) -> Estimate | None:
        """Return the time."""
        return _of_loader(cell, self.loader, attrgetter(f"{self.clock}_s"))


class AmplificationFigure(QuotedFigure, frozen=True, kw_only=True, tag="amplification"):
    """Bytes that storage gave over bytes that were asked for."""

    loader: str

    def estimate(self, cell: MeasuredCell) -> Estimate | None:
        """Return the ratio."""
        arm = cell.arm(self.loader)
        return arm.amplification if arm else None


AnyFigure = RatioFigure | RequestsFigure | TimeFigure | AmplificationFigure


@dataclass(frozen=True)
class Quote:
    """A figure with its value and the run that it is of."""

    figure: AnyFigure
    estimate: Estimate
    run: str
    loaders: int
    """How many loaders the run compared in the cell."""


def read_figures(path: Path) -> dict[str, AnyFigure]:
    """Return the figures of a file by name; raises `WeighbridgeError` where it cannot be read."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), dict[str, AnyFigure])
    except (ValueError, msgspec.ValidationError) as error:
        raise WeighbridgeError(f"{path.name}: {error}") from None


def quote(figure: AnyFigure, machines: Sequence[Machine]) -> Quote:
    """Return the figure's value: of the run with most samples of it, of as many the one with most
    loaders in the cell, and then the newest.

    None of it looks at what was found. Raises `WeighbridgeError` where no run has it.
    """
    run = shown_run(machines) if figure.shown else None
    runs = [[run[0]]] if run else [machine.runs for machine in machines]
    of_machines = [quotes for own in runs if (quotes := list(_quotes(figure, own)))]
    if len(of_machines) < figure.machine:
        where = f" on a machine number {figure.machine}" if figure.machine > 1 else ""
        raise WeighbridgeError(
            f"no reference run has {figure.says}, in the cell {figure.cell}{where}; measure it, "
            "or take the figure out"
        )
    quotes = of_machines[figure.machine - 1]
    return max(quotes, key=lambda quote: (quote.estimate.count, quote.loaders, quote.run))


def _quotes(figure: AnyFigure, runs: Sequence[RecordedRun]) -> Iterator[Quote]:
    """Yield the figure of each run that has it; of none with environments side by side."""
    for run in runs:
        for cell in () if run.paired else run.cells:
            value = figure.estimate(cell) if cell.name == figure.cell else None
            if value and value.low is not None:
                yield Quote(figure, value, run.name, len(cell.arms))


def _of_loader(
    cell: MeasuredCell, loader: str, value: Callable[[Sample], float | None]
) -> Estimate | None:
    arm = cell.arm(loader)
    values = [] if arm is None else [value(sample) for sample in cell.valid(arm)]
    return estimate([known for known in values if known is not None])
