"""What the fits say of what was not measured: where one loader overtakes another, and BLOOM-176B over several ranks, as a prediction."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from harness.checkpoints.layouts import BLOOM_176B
from harness.verdicts.ceilings import is_ceiling
from harness.verdicts.cells import REFERENCE
from harness.verdicts.fit import Fit, Floats, interval, refitted

AGREEMENT = 0.95
"""Share of the draws that must order two loaders alike before one is said to be the faster."""
SIZES = (1e6, 1e12)
"""Bytes between which loaders are compared."""
COUNTS = (1.0, 1e5)
"""Tensors between which loaders are compared."""

_DUST = 1e-9
"""Relative difference of two times below which it is rounding."""

PAGE_SLICES_S, PAGE_EVERYTHING_S = 45.0, 600.0
"""What the document under test says of BLOOM on 8 ranks."""

_PICKLE, _MAPPED_PICKLE = "torch-load", "torch-load-mmap"


@dataclass(frozen=True)
class Overtaking:
    """Which of two loaders is faster where, along the bytes at a number of tensors, or along the tensors at a size."""

    environment: str
    device: str
    cache_state: str
    first: str
    second: str
    along: str
    """`bytes` or `tensors`, the unit of what is told of a crossing."""
    held: int
    """The other of the two."""
    below: str | None
    """The faster loader at the lower end of `SIZES` or `COUNTS`, None where the draws do not agree on one."""
    above: str | None
    """The same at the upper end."""
    crossing: float | None
    """Where the fits change places, None where one is faster at both ends or not told at one."""
    low: float | None
    """Lower end of the crossing's interval; where only `below` is told, up to where it holds."""
    high: float | None
    """Upper end; where only `above` is told, from where on it holds."""
    extrapolated: bool
    """Whether the crossing lies outside what the two were measured at."""
    deviation: float
    """Largest relative deviation of any cell from the two fits: what differs by less is not told by them."""

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        if self.below == self.above:
            return f"{self.below} at every {'size' if self.along == 'bytes' else 'tensor count'}" if self.below else "not told apart"
        return f"{self.below or 'not told apart'} below, {self.above or 'not told apart'} above"


@dataclass(frozen=True)
class Prediction:
    """How long BLOOM-176B is predicted to take on several ranks, in s, as no machine here has measured it.

    `low_s` is where loading and storage overlap entirely, `high_s` where they do not overlap at all, each by the nearer end of the interval
    of `load_s`.
    """

    arm: str
    loader: str
    """Whose warm fit stands for the arm."""
    environment: str
    ranks: int
    storage_rate: float
    """Bytes per second that the ranks share."""
    read_bytes: int
    """What all ranks together read from storage."""
    rank_bytes: float
    """What each rank brings up."""
    load_s: float
    """What that takes a rank when it is in the page cache."""
    storage_s: float
    low_s: float
    high_s: float
    page_s: float | None
    """What the document under test says, None where it says nothing; it says it of 8 ranks."""
    times_measured: float
    """How many times larger `rank_bytes` is than the largest checkpoint of the fit: how far this reaches."""
    deviation: float
    """How much longer that checkpoint took than the fit says, relative to it."""


@dataclass(frozen=True)
class PredictedRatio:
    """How many times as long unpickling everything is predicted to take as slices: the least and the most the two predictions allow."""

    over: Prediction
    under: Prediction
    low: float
    high: float
    page: float


@dataclass(frozen=True)
class _Arm:
    words: str
    loader: str
    everything: bool = False
    """Whether every rank brings up the whole checkpoint, or its share."""
    copied: bool = False
    """Whether the share is copied out of the mapped file into memory of the rank's own."""
    read_by_each: bool = False
    page_s: float | None = None


ARMS = (
    _Arm("slices, left in the mapped file", REFERENCE, page_s=PAGE_SLICES_S),
    _Arm("slices, copied out of the mapped file", REFERENCE, copied=True, page_s=PAGE_SLICES_S),
    _Arm("map everything, copy the share", _MAPPED_PICKLE, copied=True),
    _Arm("unpickle everything, read once", _PICKLE, everything=True, page_s=PAGE_EVERYTHING_S),
    _Arm("unpickle everything, read by every rank", _PICKLE, everything=True, read_by_each=True, page_s=PAGE_EVERYTHING_S),
)


def overtakings(fits: Iterable[Fit], tensors: Sequence[int] = (100, 1000), sizes: Sequence[int] = (100_000_000,)) -> list[Overtaking]:
    """Return, for every two loaders of one environment, device and cache state, at which size and number of tensors one overtakes the other.

    Each of `tensors` is held while the bytes run over `SIZES`, each of `sizes` while the tensors run over `COUNTS`. Two loaders are compared
    by the checkpoints that both were measured at, and not at all where those make no fit. Ceilings are no loaders and are left out. What two
    loaders had in common in a block is not taken off, so intervals are rather too wide than too narrow.
    """
    refit, found = cache(refitted), []
    for first, second in itertools.combinations([fit for fit in fits if not is_ceiling(fit.loader)], 2):
        if (first.environment, first.device, first.cache_state) == (second.environment, second.device, second.cache_state):
            common = frozenset.intersection(*(frozenset(cell.checkpoint for cell in fit.cells) for fit in (first, second)))
            one, other = refit(first, common), refit(second, common)
            if one and other:
                found += [_overtaking(one, other, "bytes", count) for count in tensors]
                found += [_overtaking(one, other, "tensors", size) for size in sizes]
    return found


def predict_bloom(fits: Iterable[Fit], storage_rates: Sequence[float], ranks: int = 8) -> list[Prediction]:
    """Return the predictions for BLOOM-176B on `ranks` ranks of one machine, for each environment and storage rate in bytes/s.

    A rank's load is the warm CPU fit of the arm's loader at all tensors and at the bytes that the rank brings up: its share, or everything.
    A share that is copied costs besides, for each byte, what `torch-load` takes, which reads from the page cache into memory of its own.
    The ranks load at the same time, each as fast as one alone: a core for each, memory that gives all of them their rate, and room for what
    they hold. They share one storage: the checkpoint is read from it once where memory keeps it for the others, else by every rank anew.
    Nothing is reckoned for the way to a GPU. An arm whose fits are missing is left out.
    """
    warm = {(fit.environment, fit.loader): fit for fit in fits if (fit.cache_state, fit.device) == ("warm", "cpu")}
    environments = dict.fromkeys(environment for environment, _ in warm)
    return [
        _prediction(arm, fit, warm.get((environment, _PICKLE)), rate, ranks)
        for environment, rate, arm in itertools.product(environments, storage_rates, ARMS)
        if (fit := warm.get((environment, arm.loader))) and (not arm.copied or (environment, _PICKLE) in warm)
    ]


def predicted_ratios(predictions: Sequence[Prediction]) -> list[PredictedRatio]:
    """Return, within each environment, storage rate and number of ranks, each way of unpickling everything over each way of slices."""
    return [
        PredictedRatio(over, under, over.low_s / under.high_s, over.high_s / under.low_s, PAGE_EVERYTHING_S / PAGE_SLICES_S)
        for over, under in itertools.product(predictions, predictions)
        if (over.loader, under.loader) == (_PICKLE, REFERENCE)
        and (over.environment, over.storage_rate, over.ranks) == (under.environment, under.storage_rate, under.ranks)
    ]


def _prediction(arm: _Arm, fit: Fit, copying: Fit | None, rate: float, ranks: int) -> Prediction:
    size, tensors = BLOOM_176B.bytes, len(BLOOM_176B.tensors)
    held = size if arm.everything else size / ranks
    load, drawn = fit.seconds(tensors, held), fit.drawn(tensors, held)
    if arm.copied and copying:
        load, drawn = load + copying.per_byte_s.value * held, drawn + copying.draws[:, 2] * held
    read = size * ranks if arm.read_by_each else size
    storage = read / rate
    low, high = interval(drawn)
    return Prediction(
        arm=arm.words,
        loader=arm.loader,
        environment=fit.environment,
        ranks=ranks,
        storage_rate=rate,
        read_bytes=read,
        rank_bytes=held,
        load_s=load,
        storage_s=storage,
        low_s=max(low, storage),
        high_s=high + storage,
        page_s=arm.page_s,
        times_measured=held / fit.cells[-1].bytes,
        deviation=fit.deviation(fit.cells[-1]),
    )


def _overtaking(first: Fit, second: Fit, along: str, held: int) -> Overtaking:
    ends, axis = (np.array(SIZES), 2) if along == "bytes" else (np.array(COUNTS), 1)
    (base, slope), (other_base, other_slope) = (_line(fit, axis, held) for fit in (first, second))
    times, other_times = base[:, None] + slope[:, None] * ends, other_base[:, None] + other_slope[:, None] * ends
    orders = np.where(np.isclose(times, other_times, rtol=_DUST, atol=0), 0.0, np.sign(times - other_times))
    agreed = (orders[1:] == orders[0]).mean(axis=0) >= AGREEMENT
    below, above = (
        ((first if order < 0 else second).loader if order and told else None) for order, told in zip(orders[0], agreed, strict=True)
    )
    rise = slope - other_slope
    changes = np.divide(other_base - base, rise, out=np.full(len(rise), ends[1]), where=rise != 0)
    crossing = low = high = None
    if below and above and below != above:
        crossing = float(changes[0])
        low, high = interval(changes[1:][(orders[1:] == orders[0]).all(axis=1)])
    elif below != above and below:
        low = float(np.quantile(_reach(orders, changes, ends), 1 - AGREEMENT))
    elif below != above:
        high = float(np.quantile(_reach(orders[:, ::-1], changes, ends[::-1]), AGREEMENT))
    seen: list[int] = [getattr(cell, along) for cell in first.cells]
    extrapolated = crossing is not None and not min(seen) <= crossing <= max(seen)
    deviation = max(abs(fit.deviation(fit.worst)) for fit in (first, second))
    where = (first.environment, first.device, first.cache_state, first.loader, second.loader, along, held)
    return Overtaking(*where, below, above, crossing, low, high, extrapolated, deviation)


def _line(fit: Fit, axis: int, held: int) -> tuple[Floats, Floats]:
    """Return (time at nothing, time per unit) along one axis, the other held: of the fit first, then of its draws."""
    found = np.vstack([[fit.fixed_s.value, fit.per_tensor_s.value, fit.per_byte_s.value], fit.draws])
    return found[:, 0] + found[:, 3 - axis] * held, found[:, axis]


def _reach(orders: Floats, changes: Floats, ends: Floats) -> Floats:
    """Return how far from the first of `ends` the fit's order there holds in each draw: nowhere, to where it changes, or to the other end."""
    right, throughout = orders[1:, 0] == orders[0, 0], orders[1:, 0] == orders[1:, 1]
    return np.where(right, np.where(throughout, ends[1], changes[1:]), ends[0])
