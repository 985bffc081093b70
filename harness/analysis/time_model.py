"""How a loader's time grows with size: `fixed + per tensor * tensors + per byte * bytes`.

The model only explains what limits a load that was measured. It predicts nothing.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from harness.records.cell import MINIMUM_BLOCKS
from harness.records.sample import WRONG, Sample
from harness.scenarios import AS_IS, FULL_LOAD

CHECKPOINTS_AT_LEAST = 3
"""Three coefficients need as many checkpoints."""

_DISTINCT = 1e-6
"""Smallest determinant of the scaled normal equations that tells three coefficients apart."""

Row = tuple[int, int, int]
"""What one checkpoint contributes: 1, its tensors, its bytes."""


@dataclass(frozen=True)
class FittedCell:
    """The median time to `ready` in s of one checkpoint's valid samples."""

    checkpoint: str
    bytes: int
    tensors: int
    median_s: float

    @property
    def row(self) -> Row:
        """The cell's row of the design matrix."""
        return (1, self.tensors, self.bytes)


@dataclass(frozen=True)
class Fit:
    """One loader's model in one environment, device and cache state; no coefficient is negative."""

    loader: str
    environment: str
    device: str
    cache_state: str
    fixed_s: float
    per_tensor_s: float
    per_byte_s: float
    cells: tuple[FittedCell, ...]
    """The cells that it was fitted to, smallest first."""

    def seconds(self, tensors: int, size: int) -> float:
        """Return the modelled time in s for `tensors` tensors of `size` bytes together."""
        return self.fixed_s + self.per_tensor_s * tensors + self.per_byte_s * size

    def deviation(self, cell: FittedCell) -> float:
        """Return (measured - modelled) / modelled for one cell."""
        return cell.median_s / self.seconds(cell.tensors, cell.bytes) - 1


def fit_loaders(samples: Iterable[Sample]) -> list[Fit]:
    """Return the model of each loader, environment, device and cache state of `full-load`.

    A checkpoint counts from 6 valid samples on, and a model needs three checkpoints whose sizes
    and numbers of tensors tell the three coefficients apart. Residuals are relative to each cell's
    median, so that a small checkpoint counts as much as a large one.
    """
    return [
        Fit(loader, environment, device, cache_state, *_coefficients(cells), tuple(cells))
        for (environment, device, cache_state, loader), cells in _measured(samples)
        if len(cells) >= CHECKPOINTS_AT_LEAST and _distinct([cell.row for cell in cells])
    ]


def _measured(
    samples: Iterable[Sample],
) -> Iterator[tuple[tuple[str, str, str, str], list[FittedCell]]]:
    """Yield each loader's cells, smallest first; a loader that returned wrong tensors has none."""
    arms: dict[tuple[str, str, str, str], dict[tuple[int, int, str], list[float]]] = {}
    full_loads = [
        sample
        for sample in samples
        if sample.scenario == FULL_LOAD
        and sample.storage == AS_IS  # shaped storage takes another time for the same bytes
        and sample.read_ahead_kb is None
    ]
    wrong = {(sample.environment, sample.loader) for sample in full_loads if sample.reason in WRONG}
    for sample in full_loads:
        if sample.valid and sample.ready_s and (sample.environment, sample.loader) not in wrong:
            arm: tuple[str, str, str, str]
            arm = (sample.environment, sample.device, sample.cache_state, sample.loader)
            checkpoint = (sample.bytes, sample.tensors, sample.checkpoint)
            arms.setdefault(arm, {}).setdefault(checkpoint, []).append(sample.ready_s)
    for arm, checkpoints in sorted(arms.items()):
        yield (
            arm,
            [
                FittedCell(name, size, tensors, statistics.median(times))
                for (size, tensors, name), times in sorted(checkpoints.items())
                if len(times) >= MINIMUM_BLOCKS
            ],
        )


def _distinct(rows: Sequence[Row]) -> bool:
    """Return whether the rows tell the three coefficients apart."""
    largest = [max(max(column), 1) for column in zip(*rows, strict=True)]
    scaled = [
        [Fraction(value, top) for value, top in zip(row, largest, strict=True)] for row in rows
    ]
    products = _normal_equations(scaled, (0, 1, 2))
    return float(_determinant(products)) >= _DISTINCT


def _coefficients(cells: Sequence[FittedCell]) -> tuple[float, float, float]:
    """Return the coefficients of least squared relative residuals, none of them negative.

    Every choice of coefficients that may differ from zero is solved, and the best one without a
    negative coefficient is taken. Fractions make the result the same bits on every processor.
    """
    design = [[Fraction(value) / Fraction(cell.median_s) for value in cell.row] for cell in cells]
    best: list[Fraction] = [Fraction(0)] * 3
    least = Fraction(len(cells))
    for count in (3, 2, 1):
        for active in itertools.combinations(range(3), count):
            solution = _solve(
                _normal_equations(design, active),
                [sum((row[i] for row in design), Fraction(0)) for i in active],
            )
            if solution is None or min(solution) < 0:
                continue
            full = [dict(zip(active, solution, strict=True)).get(i, Fraction(0)) for i in range(3)]
            cost = sum(
                (sum(a * b for a, b in zip(row, full, strict=True)) - 1) ** 2 for row in design
            )
            if cost < least:
                best, least = full, Fraction(cost)
    return float(best[0]), float(best[1]), float(best[2])


def _normal_equations(
    design: Sequence[Sequence[Fraction]], active: Sequence[int]
) -> list[list[Fraction]]:
    return [[sum((row[i] * row[j] for row in design), Fraction(0)) for j in active] for i in active]


def _determinant(matrix: Sequence[Sequence[Fraction]]) -> Fraction:
    if len(matrix) == 1:
        return matrix[0][0]
    minors = ([row[:i] + row[i + 1 :] for row in map(list, matrix[1:])] for i in range(len(matrix)))
    return sum(
        ((-1) ** i * matrix[0][i] * _determinant(minor) for i, minor in enumerate(minors)),
        Fraction(0),
    )


def _solve(
    matrix: Sequence[Sequence[Fraction]], right: Sequence[Fraction]
) -> list[Fraction] | None:
    """Return the solution by Cramer's rule, None of a singular matrix."""
    divisor = _determinant(matrix)
    if not divisor:
        return None
    columns = range(len(matrix))
    return [
        _determinant(
            [[right[j] if k == i else row[k] for k in columns] for j, row in enumerate(matrix)]
        )
        / divisor
        for i in columns
    ]
