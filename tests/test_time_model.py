"""The time model finds known coefficients again and refuses what it cannot tell apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from harness.analysis.time_model import Fit, fit_loaders
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.sample import Sample
from tests.helpers import make_sample

Line = tuple[float, float, float]
"""(fixed, per tensor, per byte) in s"""

CHECKPOINTS = {
    "many-small": (1000, 4_000_000),
    "small": (100, 90_000_000),
    "middling": (150, 500_000_000),
    "large": (145, 2_500_000_000),
}
"""(tensors, bytes)"""
PICKLE: Line = (0.002, 50e-6, 0.5e-9)


def _time(line: Line, tensors: float, size: float) -> float:
    return line[0] + line[1] * tensors + line[2] * size


def _samples(
    loader: str,
    line: Line,
    noise: Callable[[], float] = lambda: 1.0,
    checkpoints: Mapping[str, tuple[int, int]] = CHECKPOINTS,
    blocks: int = 9,
    **overrides: Any,
) -> list[Sample]:
    """Return full loads of each checkpoint that take what the line says, times the noise."""
    figures: dict[str, Any] = {"scenario": "full-load", "loader": loader}
    return [
        make_sample(
            **figures
            | {"checkpoint": name, "tensors": tensors, "bytes": size, "block": block}
            | {"ready_s": _time(line, tensors, size) * noise()}
            | overrides
        )
        for name, (tensors, size) in CHECKPOINTS.items()
        if name in checkpoints
        for block in range(blocks)
    ]


def _only(*names: str) -> dict[str, tuple[int, int]]:
    return {name: CHECKPOINTS[name] for name in names}


def _fit(samples: Iterable[Sample]) -> Fit:
    (fit,) = fit_loaders(samples)
    return fit


def _line(fit: Fit) -> Line:
    return fit.fixed_s, fit.per_tensor_s, fit.per_byte_s


def _deviations(fit: Fit) -> dict[str, float]:
    return {cell.checkpoint: fit.deviation(cell) for cell in fit.cells}


@pytest.mark.parametrize(
    "line",
    [
        PICKLE,
        (0.005, 8e-6, 0.01e-9),
        (0.0, 50e-6, 0.5e-9),
        (0.01, 0.0, 1e-9),
        (0.01, 40e-6, 0.0),
        (0.0, 0.0, 1e-9),
    ],
)
def test_known_coefficients_are_found_again(line: Line) -> None:
    fit = _fit(_samples("torch-load", line))
    assert _line(fit) == pytest.approx(line, rel=1e-9, abs=1e-15)
    assert fit.seconds(845, 10**11) == pytest.approx(_time(line, 845, 10**11))
    assert list(_deviations(fit).values()) == pytest.approx([0.0] * 4, abs=1e-9)


def test_an_outlier_in_a_cell_does_not_move_the_fit() -> None:
    late = make_sample(
        scenario="full-load",
        loader="torch-load",
        checkpoint="large",
        tensors=145,
        bytes=2_500_000_000,
        ready_s=2.5,
    )
    assert _line(_fit([*_samples("torch-load", PICKLE), late])) == pytest.approx(PICKLE)


@pytest.mark.parametrize("trial", range(20))
def test_no_other_coefficients_would_fit_better(trial: int) -> None:
    """Karush, Kuhn, Tucker: no coefficient can be moved without the squares growing."""
    fit = _fit(_scattered(random.Random(trial)))
    medians = [[cell.median_s] for cell in fit.cells]
    design = np.array([[1.0, cell.tensors, cell.bytes] for cell in fit.cells]) / medians
    line = np.array(_line(fit))
    slope = design.T @ (design @ line - 1) / np.linalg.norm(design, axis=0)
    assert (line >= 0).all()
    assert (slope > -1e-9).all()
    assert np.abs(slope[line > 0]).max() < 1e-9


def _scattered(chance: random.Random) -> list[Sample]:
    """Return samples of times that follow no line."""
    return [
        sample
        for name in CHECKPOINTS
        for sample in _samples(
            "torch-load",
            PICKLE,
            checkpoints=_only(name),
            blocks=MINIMUM_BLOCKS,
            ready_s=chance.lognormvariate(-2, 2),
        )
    ]


def test_a_coefficient_that_would_be_negative_is_zero() -> None:
    """A loader that takes less for many tensors than for few."""
    times = {"many-small": 0.001, "small": 0.1, "middling": 0.3, "large": 1.3}
    fit = _fit(
        sample
        for name, time in times.items()
        for sample in _samples("odd", PICKLE, checkpoints=_only(name), ready_s=time)
    )
    assert fit.per_tensor_s == 0.0
    assert fit.per_byte_s > 0


def test_a_cell_that_the_fit_misses_is_told() -> None:
    straight = _samples("torch-load", PICKLE, checkpoints=_only("many-small", "small", "middling"))
    slow = _samples("torch-load", PICKLE, noise=lambda: 1.5, checkpoints=_only("large"))
    assert 0.3 < _deviations(_fit(straight + slow))["large"] < 0.4


def test_the_order_of_samples_does_not_matter() -> None:
    chance = random.Random(1)
    samples = _samples("torch-load", PICKLE, lambda: chance.lognormvariate(0, 0.1))
    first = _fit(samples)
    chance.shuffle(samples)
    assert _fit(samples) == first


def test_each_arm_has_a_fit_of_its_own() -> None:
    lines: dict[tuple[str, str, str, str], Line] = {
        ("new", "cpu", "warm", "torch-load"): (0.001, 1e-6, 1e-9),
        ("old", "cpu", "cold", "torch-load"): (0.002, 2e-6, 2e-9),
        ("old", "cpu", "warm", "safetensors-pread"): (0.003, 3e-6, 3e-9),
        ("old", "cuda", "warm", "torch-load"): (0.004, 4e-6, 4e-9),
    }
    fits = fit_loaders(
        sample
        for (environment, device, state, loader), line in lines.items()
        for sample in _samples(
            loader, line, environment=environment, device=device, cache_state=state
        )
    )
    by_arm = {
        (fit.environment, fit.device, fit.cache_state, fit.loader): _line(fit) for fit in fits
    }
    assert list(by_arm) == list(lines)
    assert all(by_arm[arm] == pytest.approx(line) for arm, line in lines.items())


def test_invalid_samples_and_other_scenarios_do_not_count() -> None:
    slow: Line = (1.0, 1.0, 1.0)
    samples = _samples("torch-load", PICKLE)
    samples += _samples("torch-load", slow, blocks=30, valid=False, reason="not-warm")
    samples += _samples("torch-load", slow, blocks=30, scenario="part")
    samples += _samples("torch-load", slow, blocks=30, storage="network-disk")
    samples += _samples("torch-load", slow, blocks=30, read_ahead_kb=0)
    assert _line(_fit(samples)) == pytest.approx(PICKLE)


def test_two_checkpoints_make_no_fit() -> None:
    assert (
        fit_loaders(_samples("torch-load", PICKLE, checkpoints=_only("many-small", "large"))) == []
    )


def test_a_cell_of_too_few_valid_samples_does_not_count() -> None:
    enough = _samples("torch-load", PICKLE, checkpoints=_only("many-small", "small"))
    for blocks, fits in ((MINIMUM_BLOCKS - 1, 0), (MINIMUM_BLOCKS, 1)):
        third = _samples("torch-load", PICKLE, checkpoints=_only("large"), blocks=blocks)
        assert len(fit_loaders(enough + third)) == fits


@pytest.mark.parametrize(
    "cells",
    [
        [(10, 10**6), (100, 10**7), (1000, 10**8), (5000, 5 * 10**8)],
        [(100, 10**6), (100, 10**7), (100, 10**9)],
        [(10, 10**8), (100, 10**8), (1000, 10**8)],
        [(10, 10**6), (20, 10**7), (30, 19 * 10**6)],
        [(0, 0), (0, 0), (0, 0)],
    ],
    ids=["bytes per tensor alike", "tensors alike", "sizes alike", "on one line", "empty"],
)
def test_indistinct_checkpoints_make_no_fit(cells: list[tuple[int, int]]) -> None:
    samples = [
        make_sample(
            scenario="full-load",
            checkpoint=f"made-{number}",
            tensors=tensors,
            bytes=size,
            block=block,
            ready_s=1.0,
        )
        for number, (tensors, size) in enumerate(cells)
        for block in range(9)
    ]
    assert fit_loaders(samples) == []
