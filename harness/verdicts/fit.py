"""What a loader takes at any size: `fixed + per_tensor * tensors + per_byte * bytes`, fitted to the cells measured."""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.measure.experiment import MINIMUM_BLOCKS
from harness.measure.sample import WRONG, Sample

SCENARIO = "full-load"
CELLS_AT_LEAST = 3
DRAWS = 2000
MANY = 1000
"""Samples of a cell above which the median of a redrawing is drawn by its place: to redraw them all takes GB, and tells nothing else."""

_PERCENTILES = (2.5, 97.5)
_TOLD_APART = 1e-3
"""Smallest singular value of the scaled design, relative to the largest, from which its three columns count as three."""
_ACTIVE = [list(active) for count in (3, 2, 1) for active in itertools.combinations(range(3), count)]
_EXACT = 1e-9
"""Relative deviation below which a cell is met: what is left there is the rounding of sums."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient in s, s per tensor or s per byte, with the interval that holds 95 % of its draws."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MeasuredCell:
    """What a fit rests on: the times to `ready` in s of one checkpoint's valid samples, shortest first."""

    checkpoint: str
    bytes: int
    tensors: int
    ready_s: tuple[float, ...]

    @cached_property
    def median_s(self) -> float:
        """Their median."""
        return statistics.median(self.ready_s)


@dataclass(frozen=True, eq=False)
class Fit:
    """What one loader takes to `ready`, in one environment and cache state, with no coefficient below zero.

    The intervals tell how far the samples scatter, not whether the straight line is right: for that see `worst`, where `spare` leaves room.
    """

    loader: str
    environment: str
    device: str
    cache_state: str
    fixed_s: Coefficient
    per_tensor_s: Coefficient
    per_byte_s: Coefficient
    cells: tuple[MeasuredCell, ...]
    """Smallest first."""
    draws: Floats
    """The three coefficients, a row for each time that the samples were drawn again."""

    @property
    def spare(self) -> int:
        """Cells beyond the three that three coefficients can meet exactly; where it is 0, a small deviation says nothing."""
        return len(self.cells) - CELLS_AT_LEAST

    @property
    def worst(self) -> MeasuredCell:
        """The cell that lies furthest from the fit, relative to it."""
        return max(self.cells, key=lambda cell: abs(self.deviation(cell)))

    def deviation(self, cell: MeasuredCell) -> float:
        """Return how much longer a cell's median is than the fit says, relative to the fit; negative where it is shorter, 0 where it is met."""
        off = cell.median_s / self.seconds(cell.tensors, cell.bytes) - 1
        return off if abs(off) >= _EXACT else 0.0

    def seconds(self, tensors: float, size: float) -> float:
        """Return the time in s that the fit gives for this many tensors of `size` bytes together."""
        return self.fixed_s.value + self.per_tensor_s.value * tensors + self.per_byte_s.value * size

    def drawn(self, tensors: float, size: float) -> Floats:
        """Return that time as each draw gives it."""
        times: Floats = self.draws[:, 0] + self.draws[:, 1] * tensors + self.draws[:, 2] * size
        return times

    def between(self, tensors: float, size: float) -> tuple[float, float]:
        """Return the interval of that time in s: what the middle 95 % of the draws give."""
        return interval(self.drawn(tensors, size))


@dataclass(frozen=True)
class NotFitted:
    """A loader without a fit, and why."""

    loader: str
    environment: str
    device: str
    cache_state: str
    reason: str


def fit_loaders(samples: Iterable[Sample], device: str = "cpu") -> tuple[list[Fit], list[NotFitted]]:
    """Return the fit of every loader, environment and cache state of `full-load` on `device`, and those that cannot be fitted, with why.

    A checkpoint counts from 6 valid samples on. Each residual is taken relative to its cell's median, so that a small checkpoint counts as
    much as a large one. The same samples give the same figures.
    """
    fits, refused = [], []
    for (environment, cache_state, loader), cells in _measured(samples, device):
        enough = [cell for cell in cells if len(cell.ready_s) >= MINIMUM_BLOCKS]
        reason = _why_not(enough, len(cells))
        if reason:
            refused.append(NotFitted(loader, environment, device, cache_state, reason))
        else:
            fits.append(_fit(loader, environment, device, cache_state, enough))
    return fits, refused


def refitted(fit: Fit, checkpoints: Container[str]) -> Fit | None:
    """Return the fit from these of its cells alone, itself where they are all of them, None where they do not make one."""
    cells = [cell for cell in fit.cells if cell.checkpoint in checkpoints]
    if len(cells) == len(fit.cells):
        return fit
    return None if _why_not(cells, len(cells)) else _fit(fit.loader, fit.environment, fit.device, fit.cache_state, cells)


def interval(values: Floats) -> tuple[float, float]:
    """Return the values between which the middle 95 % lie."""
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def _measured(samples: Iterable[Sample], device: str) -> Iterator[tuple[tuple[str, str, str], list[MeasuredCell]]]:
    """Give the cells of each (environment, cache state, loader), smallest first; one without a valid sample is there with no time.

    A loader that handed back wrong tensors is not there at all.
    """
    arms: dict[tuple[str, str, str], dict[tuple[int, int, str], list[float]]] = {}
    whole = [sample for sample in samples if sample.scenario == SCENARIO and sample.device == device]
    wrong = {(sample.environment, sample.loader) for sample in whole if sample.reason in WRONG}
    for sample in whole:
        if (sample.environment, sample.loader) not in wrong:
            arm = arms.setdefault((sample.environment, sample.cache_state, sample.loader), {})
            times = arm.setdefault((sample.bytes, sample.tensors, sample.checkpoint), [])
            if sample.valid and sample.ready_s:
                times.append(sample.ready_s)
    for key, cells in sorted(arms.items()):
        yield key, [MeasuredCell(name, size, tensors, tuple(sorted(times))) for (size, tensors, name), times in sorted(cells.items())]


def _why_not(enough: Sequence[MeasuredCell], asked: int) -> str | None:
    if len(enough) < CELLS_AT_LEAST:
        have = f"{len(enough)} of {asked} checkpoints have {MINIMUM_BLOCKS} or more valid samples"
        return f"{have}, and three coefficients need {CELLS_AT_LEAST}"
    design = _design(enough)
    strengths = np.linalg.svd(design / np.maximum(design.max(axis=0), 1), compute_uv=False)
    if strengths[-1] < _TOLD_APART * strengths[0]:
        names = ", ".join(cell.checkpoint for cell in enough)
        return f"the sizes and numbers of tensors of {names} cannot tell what is fixed, per tensor and per byte apart"
    return None


def _fit(loader: str, environment: str, device: str, cache_state: str, cells: Sequence[MeasuredCell]) -> Fit:
    design = _design(cells)
    (found,) = _non_negative(design, np.array([[cell.median_s for cell in cells]]))
    draws = _non_negative(design, _medians_drawn_again("/".join((loader, environment, device, cache_state)), cells))
    fixed, per_tensor, per_byte = (Coefficient(float(value), *interval(drawn)) for value, drawn in zip(found, draws.T, strict=True))
    return Fit(loader, environment, device, cache_state, fixed, per_tensor, per_byte, tuple(cells), draws)


def _design(cells: Sequence[MeasuredCell]) -> Floats:
    return np.array([[1.0, cell.tensors, cell.bytes] for cell in cells])


def _medians_drawn_again(key: str, cells: Sequence[MeasuredCell]) -> Floats:
    """Return (draws, cells) medians of each cell's samples drawn again with replacement."""
    # A bit generator's own stream is what numpy promises never to change; its distributions are not.
    source = np.random.PCG64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))
    columns = []
    for cell in cells:
        count = len(cell.ready_s)
        if count > MANY:
            columns.append(_medians_of_many(source, cell.ready_s))
            continue
        drawn = (source.random_raw(DRAWS * count) % np.uint64(count)).reshape(DRAWS, count)
        columns.append(np.median(np.array(cell.ready_s)[drawn], axis=1))
    return np.stack(columns, axis=1)


def _medians_of_many(source: np.random.PCG64, ordered: Sequence[float]) -> Floats:
    """Return the medians without the redrawings: of n values the median of a redrawing stands at place n / 2, give or take sqrt(n) / 2, normally spread."""
    chances = (source.random_raw(DRAWS) >> np.uint64(11)) + 0.5
    places = [NormalDist(len(ordered) / 2, math.sqrt(len(ordered)) / 2).inv_cdf(chance / 2**53) for chance in chances]
    return np.interp(places, np.arange(len(ordered)) + 0.5, ordered)


def _non_negative(design: Floats, times: Floats) -> Floats:
    """Return for every row of `times` (rows, cells) the three coefficients, none negative, of least squared relative residuals.

    Of the coefficients left free, the rest being zero, every choice is solved, and the best without a negative one taken.
    """
    relative = design.T[:, :, None] / times.T
    best, least = np.zeros((len(times), 3)), np.full(len(times), np.inf)
    for active in _ACTIVE:
        # Where all three are free and none is zero, nothing can be better.
        rows = np.flatnonzero((best == 0).any(axis=1))
        found, cost = _least_squares(relative[active][:, :, rows])
        better = (found >= 0).all(axis=0) & (cost < least[rows])
        least[rows[better]] = cost[better]
        best[rows[better]] = 0.0
        best[rows[better, None], active] = found.T[better]
    return best


def _least_squares(columns: Floats) -> tuple[Floats, Floats]:
    """Return the coefficients (columns, rows) of `columns` (columns, cells, rows) whose sum comes nearest to 1 in every cell, and the squared miss.

    By Gram-Schmidt's method, modified, in single sums and products: a processor's own library of linear algebra may round in another order
    than the next one's, and the same samples shall give the same figures on both.
    """
    basis: list[Floats] = []
    shares = np.zeros((len(columns), len(columns), columns.shape[2]))
    along = np.zeros((len(columns), columns.shape[2]))
    miss = np.ones(columns.shape[1:])
    for place, column in enumerate(columns):
        for before, direction in enumerate(basis):
            shares[before, place] = _dot(direction, column)
            column = column - shares[before, place] * direction
        shares[place, place] = np.sqrt(_dot(column, column))
        basis.append(column / shares[place, place])
        along[place] = _dot(basis[place], miss)
        miss = miss - along[place] * basis[place]
    found = np.zeros_like(along)
    for place in reversed(range(len(columns))):
        known = _dot(shares[place, place + 1 :], found[place + 1 :])
        found[place] = (along[place] - known) / shares[place, place]
    return found, _dot(miss, miss)


def _dot(a: Floats, b: Floats) -> Floats:
    """Return the sum of products along the first axis, added one after another."""
    return sum(a * b, start=np.zeros(a.shape[1:]))
