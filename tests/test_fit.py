"""Fits: coefficients that are found again, refusals in words, crossings where they lie, and predictions that can be reckoned by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from harness.checkpoints.layouts import BLOOM_176B
from harness.measure.experiment import MINIMUM_BLOCKS
from harness.measure.sample import Sample
from harness.verdicts import fit as fitting
from harness.verdicts.cells import REFERENCE
from harness.verdicts.fit import DRAWS, MANY, Coefficient, Fit, MeasuredCell, fit_loaders, refitted
from harness.verdicts.prediction import Overtaking, Prediction, overtakings, predict_bloom, predicted_ratios
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
    """Return full loads of each checkpoint that take what the line says, times what the noise says."""
    figures: dict[str, Any] = {"scenario": "full-load", "loader": loader}
    return [
        make_sample(
            **figures
            | {"checkpoint": name, "tensors": tensors, "bytes": size, "block": block, "ready_s": _time(line, tensors, size) * noise()}
            | overrides
        )
        for name, (tensors, size) in CHECKPOINTS.items()
        if name in checkpoints
        for block in range(blocks)
    ]


def _only(*names: str) -> dict[str, tuple[int, int]]:
    return {name: CHECKPOINTS[name] for name in names}


def _one(samples: Iterable[Sample]) -> Fit:
    fits, refused = fit_loaders(samples)
    assert refused == []
    (fit,) = fits
    return fit


def _line(fit: Fit) -> Line:
    return fit.fixed_s.value, fit.per_tensor_s.value, fit.per_byte_s.value


def _off(line: Line, *factors: float) -> tuple[MeasuredCell, ...]:
    """Return cells that take what the line says, or each as many times as long as its factor says."""
    return tuple(
        MeasuredCell(name, size, tensors, (_time(line, tensors, size) * factor,))
        for (name, (tensors, size)), factor in zip(CHECKPOINTS.items(), factors or [1.0] * len(CHECKPOINTS), strict=True)
    )


def _known(loader: str, line: Line, draws: Iterable[Line] = (), **overrides: Any) -> Fit:
    """Return a fit of this line, which its cells meet exactly; its `DRAWS` draws are the line unless they are given."""
    fixed, per_tensor, per_byte = (Coefficient(value, value, value) for value in line)
    figures: dict[str, Any] = {"environment": "reference", "device": "cpu", "cache_state": "warm", "cells": _off(line)}
    figures |= {"fixed_s": fixed, "per_tensor_s": per_tensor, "per_byte_s": per_byte, "draws": np.array(list(draws) or [line] * DRAWS)}
    return Fit(loader, **(figures | overrides))


# Coefficients


@pytest.mark.parametrize(
    "line", [PICKLE, (0.005, 8e-6, 0.01e-9), (0.0, 50e-6, 0.5e-9), (0.01, 0.0, 1e-9), (0.01, 40e-6, 0.0), (0.0, 0.0, 1e-9)]
)
def test_known_coefficients_are_found_again(line: Line) -> None:
    fit = _one(_samples("torch-load", line))
    assert _line(fit) == pytest.approx(line, rel=1e-9, abs=1e-15)
    assert fit.seconds(845, 10**11) == pytest.approx(_time(line, 845, 10**11))
    assert abs(fit.deviation(fit.worst)) < 1e-9
    assert fit.spare == 1


def test_samples_that_do_not_scatter_have_an_interval_of_no_width() -> None:
    fit = _one(_samples("torch-load", PICKLE))
    assert fit.between(845, 10**11) == pytest.approx((fit.seconds(845, 10**11),) * 2)
    assert (fit.per_byte_s.low, fit.per_byte_s.high) == pytest.approx((0.5e-9, 0.5e-9))


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_the_intervals_hold_what_noise_hides(sigma: float) -> None:
    """In nine of ten cases at least: a bootstrap of a few medians promises a little more than it keeps."""
    trials, held = 40, np.zeros(4)
    for trial in range(trials):
        chance = random.Random(f"{trial} {sigma}")
        fit = _one(_samples("torch-load", PICKLE, lambda: chance.lognormvariate(0, sigma)))  # noqa: B023  # called here and now
        found = [(figure.low, figure.high) for figure in (fit.fixed_s, fit.per_tensor_s, fit.per_byte_s)] + [fit.between(845, 10**11)]
        held += [low <= true <= high for (low, high), true in zip(found, (*PICKLE, _time(PICKLE, 845, 10**11)), strict=True)]
    assert (held / trials >= 0.9).all()


def test_more_noise_makes_wider_intervals() -> None:
    widths = []
    for sigma in (0.01, 0.05, 0.25):
        chance = random.Random(7)
        low, high = _one(_samples("torch-load", PICKLE, lambda: chance.lognormvariate(0, sigma))).between(845, 10**11)  # noqa: B023  # the same
        widths.append(high - low)
    assert widths == sorted(widths)
    assert widths[2] > 5 * widths[0] > 0


def test_an_outlier_in_a_cell_moves_neither_the_coefficients_nor_their_intervals() -> None:
    late = make_sample(scenario="full-load", loader="torch-load", checkpoint="large", tensors=145, bytes=2_500_000_000, ready_s=2.5)
    fit = _one([*_samples("torch-load", PICKLE), late])
    assert _line(fit) == pytest.approx(PICKLE)
    assert (fit.per_byte_s.low, fit.per_byte_s.high) == pytest.approx((0.5e-9, 0.5e-9))


@pytest.mark.parametrize("trial", range(20))
def test_no_coefficient_is_negative_and_no_others_would_fit_better(trial: int) -> None:
    """Of relative residuals: no coefficient can be moved, none that is zero raised, without the squares growing (Karush, Kuhn, Tucker)."""
    fit = _one(_wild(random.Random(trial)))
    design = np.array([[1.0, cell.tensors, cell.bytes] for cell in fit.cells]) / [[cell.median_s] for cell in fit.cells]
    found = np.array(_line(fit))
    slope = design.T @ (design @ found - 1) / np.linalg.norm(design, axis=0)
    assert (found >= 0).all()
    assert (slope > -1e-9).all()
    assert np.abs(slope[found > 0]).max() < 1e-9
    assert (fit.draws >= 0).all()


def _wild(chance: random.Random) -> list[Sample]:
    """Return samples of times that follow no line."""
    return [
        make_sample(scenario="full-load", loader="torch-load", checkpoint=name, tensors=tensors, bytes=size, block=block, ready_s=middle)
        for name, (tensors, size) in CHECKPOINTS.items()
        for middle in [chance.lognormvariate(-2, 2)]
        for block in range(MINIMUM_BLOCKS)
    ]


def test_a_coefficient_that_would_be_negative_is_zero() -> None:
    """A loader that takes less for many tensors than for few."""
    times = {"many-small": 0.001, "small": 0.1, "middling": 0.3, "large": 1.3}
    samples = [sample for name, time in times.items() for sample in _samples("odd", PICKLE, checkpoints=_only(name), ready_s=time)]
    fit = _one(samples)
    assert fit.per_tensor_s == Coefficient(0.0, 0.0, 0.0)
    assert fit.per_byte_s.value > 0


def test_a_fit_does_not_hide_a_cell_that_it_misses() -> None:
    bent = _samples("torch-load", PICKLE, checkpoints=_only("many-small", "small", "middling"))
    fit = _one(bent + _samples("torch-load", PICKLE, noise=lambda: 1.5, checkpoints=_only("large")))
    assert fit.worst.checkpoint == "large"
    assert 0.3 < fit.deviation(fit.worst) < 0.4


@pytest.mark.parametrize(("factors", "worst"), [((1.0, 0.5, 1.0, 1.25), "small"), ((0.75, 1.0, 1.5, 1.25), "middling")])
def test_the_worst_cell_is_the_furthest_to_either_side(factors: tuple[float, ...], worst: str) -> None:
    fit = _known("torch-load", PICKLE, cells=_off(PICKLE, *factors))
    assert fit.worst.checkpoint == worst
    assert [fit.deviation(cell) for cell in fit.cells] == pytest.approx([factor - 1 for factor in factors])


def test_three_cells_are_met_exactly_and_leave_nothing_to_judge_the_line_by() -> None:
    bent = _samples("torch-load", (0.05, 50e-6, 0.5e-9), noise=lambda: 1.2, checkpoints=_only("many-small"))
    fit = _one(bent + _samples("torch-load", (0.05, 50e-6, 0.5e-9), checkpoints=_only("small", "large")))
    assert fit.spare == 0
    assert abs(fit.deviation(fit.worst)) < 1e-9
    assert fit.per_tensor_s.value > 60e-6


def test_cells_stand_smallest_first_with_their_samples() -> None:
    fit = _one(_samples("torch-load", PICKLE)[::-1])
    assert [(cell.checkpoint, len(cell.ready_s)) for cell in fit.cells] == [(name, 9) for name in CHECKPOINTS]


def test_the_same_samples_give_the_same_figures_whatever_their_order() -> None:
    chance = random.Random(1)
    samples = _samples("torch-load", PICKLE, lambda: chance.lognormvariate(0, 0.1))
    first = _one(samples)
    chance.shuffle(samples)
    again = _one(samples)
    assert first.draws.tobytes() == again.draws.tobytes()
    assert (first.fixed_s, first.per_tensor_s, first.per_byte_s) == (again.fixed_s, again.per_tensor_s, again.per_byte_s)
    assert first.draws.shape == (DRAWS, 3)


# What is fitted and what is not


def test_every_loader_environment_and_cache_state_has_a_fit_of_its_own() -> None:
    lines: dict[tuple[str, str, str], Line] = {
        ("new", "warm", "torch-load"): (0.001, 1e-6, 1e-9),
        ("old", "cold", "torch-load"): (0.002, 2e-6, 2e-9),
        ("old", "warm", "safetensors-pread"): (0.003, 3e-6, 3e-9),
        ("old", "warm", "torch-load"): (0.004, 4e-6, 4e-9),
    }
    samples = [
        sample
        for (environment, state, loader), line in lines.items()
        for sample in _samples(loader, line, environment=environment, cache_state=state)
    ]
    fits, _ = fit_loaders(samples)
    found = {(fit.environment, fit.cache_state, fit.loader): _line(fit) for fit in fits}
    assert list(found) == list(lines)
    assert all(found[key] == pytest.approx(line) for key, line in lines.items())


def test_invalid_samples_other_scenarios_and_other_devices_are_left_aside() -> None:
    slow: Line = (1.0, 1.0, 1.0)
    samples = _samples("torch-load", PICKLE)
    samples += _samples("torch-load", slow, blocks=30, valid=False, reason="not-warm")
    samples += _samples("torch-load", slow, blocks=30, scenario="part") + _samples("torch-load", slow, blocks=30, device="cuda")
    assert _line(_one(samples)) == pytest.approx(PICKLE)
    (gpu,), _ = fit_loaders(samples, device="cuda")
    assert gpu.device == "cuda"
    assert _line(gpu) == pytest.approx(slow)


def test_two_cells_make_no_fit() -> None:
    fits, (refused,) = fit_loaders(_samples("torch-load", PICKLE, checkpoints=_only("many-small", "large")))
    assert fits == []
    assert (refused.loader, refused.environment, refused.device, refused.cache_state) == ("torch-load", "reference", "cpu", "warm")
    assert refused.reason == "2 of 2 checkpoints have 6 or more valid samples, and three coefficients need 3"


def test_a_cell_of_too_few_valid_samples_does_not_count() -> None:
    enough = _samples("torch-load", PICKLE, checkpoints=_only("many-small", "small"))
    few = _samples("torch-load", PICKLE, checkpoints=_only("large"), blocks=MINIMUM_BLOCKS - 1)
    fits, (refused,) = fit_loaders(enough + few)
    assert fits == []
    assert refused.reason.startswith("2 of 3 checkpoints")
    assert _one(enough + _samples("torch-load", PICKLE, checkpoints=_only("large"), blocks=MINIMUM_BLOCKS)).spare == 0


def test_a_loader_without_a_valid_sample_is_refused_and_not_passed_over() -> None:
    fits, (refused,) = fit_loaders(_samples("torch-load", PICKLE, valid=False, reason="raised", ready_s=None, checkpoints=_only("large")))
    assert fits == []
    assert refused.reason == "0 of 1 checkpoints have 6 or more valid samples, and three coefficients need 3"


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
def test_checkpoints_that_cannot_tell_the_coefficients_apart_are_refused_in_words(cells: list[tuple[int, int]]) -> None:
    samples = [
        make_sample(scenario="full-load", checkpoint=f"made-{number}", tensors=tensors, bytes=size, block=block, ready_s=1.0)
        for number, (tensors, size) in enumerate(cells)
        for block in range(9)
    ]
    fits, (refused,) = fit_loaders(samples)
    assert fits == []
    assert "made-0, made-1, made-2" in refused.reason
    assert refused.reason.endswith("cannot tell what is fixed, per tensor and per byte apart")


def test_a_refit_is_the_fit_of_those_cells_alone() -> None:
    samples = _samples("torch-load", PICKLE, random.Random(3).random)
    few = _only("many-small", "small", "large")
    found = refitted(_one(samples), few)
    wanted = _one(sample for sample in samples if sample.checkpoint in few)
    assert found is not None
    assert (_line(found), found.cells, found.draws.tobytes()) == (_line(wanted), wanted.cells, wanted.draws.tobytes())


def test_a_refit_from_too_few_cells_is_none_and_from_all_of_them_the_fit_itself() -> None:
    fit = _one(_samples("torch-load", PICKLE))
    assert refitted(fit, CHECKPOINTS) is fit
    assert refitted(fit, _only("small", "large")) is None


# Which loader overtakes which


def _along(axis: str, held: int, *fits: Fit) -> Overtaking:
    tensors, sizes = ((held,), ()) if axis == "bytes" else ((), (held,))
    (found,) = overtakings(fits, tensors, sizes)
    return found


A, B = "torch-load", "safetensors-load-file"


def test_the_size_at_which_one_overtakes_the_other_is_where_the_lines_meet() -> None:
    """0.001 + 1 ns a byte against 0.011 + 0.5 ns a byte meet at 20 MB; 10 us a tensor more for one, at 40 MB with 1,000 of them."""
    first, second = _known(A, (0.001, 0.0, 1e-9)), _known(B, (0.011, 10e-6, 0.5e-9))
    found = _along("bytes", 0, first, second)
    assert (found.below, found.above, found.outcome) == (A, B, f"{A} below, {B} above")
    assert (found.crossing, found.low, found.high) == pytest.approx((20e6,) * 3)
    assert _along("bytes", 1000, first, second).crossing == pytest.approx(40e6)
    assert (found.first, found.second, found.along, found.held) == (A, B, "bytes", 0)


def test_the_tensors_at_which_one_overtakes_the_other_are_where_the_lines_meet() -> None:
    """At 100 MB, 0.101 s against 0.061 s and 10 us a tensor meet at 4,000 tensors."""
    first, second = _known(A, (0.001, 0.0, 1e-9)), _known(B, (0.011, 10e-6, 0.5e-9))
    found = _along("tensors", 100_000_000, second, first)
    assert (found.below, found.above) == (B, A)
    assert found.crossing == pytest.approx(4000)


@pytest.mark.parametrize(
    ("axis", "second", "faster"),
    [
        ("bytes", (0.002, 2e-4, 2e-9), A),
        ("bytes", (0.0111, 0.0, 0.5e-9), B),
        ("bytes", (5.0, 0.0, 0.999e-9), A),
        ("tensors", (0.00105, 0.0, 1e-9), B),
        ("tensors", (20.0, 0.0, 1e-9), A),
    ],
    ids=["more of everything", "meets below 1 MB", "meets above 1 TB", "meets below one tensor", "meets above 100,000 tensors"],
)
def test_where_the_lines_meet_outside_what_is_compared_one_is_faster_everywhere(axis: str, second: Line, faster: str) -> None:
    found = _along(axis, 100 if axis == "bytes" else 1_000_000, _known(A, (0.001, 1e-4, 1e-9)), _known(B, second))
    assert (found.below, found.above) == (faster, faster)
    assert found.outcome == f"{faster} at every {'size' if axis == 'bytes' else 'tensor count'}"
    assert (found.crossing, found.low, found.high, found.extrapolated) == (None, None, None, False)


def test_loaders_that_take_as_long_are_not_told_apart() -> None:
    found = _along("bytes", 100, _known(A, PICKLE), _known(B, (PICKLE[0], PICKLE[1], PICKLE[2] * (1 + 1e-13))))
    assert (found.below, found.above, found.crossing, found.outcome) == (None, None, None, "not told apart")


@pytest.mark.parametrize(("against", "told"), [(5, True), (6, False)])
def test_one_in_twenty_draws_may_say_otherwise_and_no_more(against: int, told: bool) -> None:
    draws = [(0.001, 0.0, 1e-9) if draw % 100 >= against else (1.0, 0.0, 3e-9) for draw in range(DRAWS)]
    found = _along("bytes", 100, _known(A, (0.001, 0.0, 1e-9), draws), _known(B, (0.01, 0.0, 2e-9)))
    assert found.outcome == (f"{A} at every size" if told else "not told apart")


def test_the_interval_of_a_crossing_is_that_of_the_draws_that_agree() -> None:
    """The crossing lies at twice as many ns as the fixed cost: draws from 10 to 30 ms put it between 20 and 60 MB, some have none."""
    draws = [*((fixed, 0.0, 0.5e-9) for fixed in np.linspace(0.010, 0.030, DRAWS - 80)), *[(0.0, 0.0, 0.5e-9)] * 80]
    found = _along("bytes", 100, _known(A, (0.0, 0.0, 1e-9)), _known(B, (0.020, 0.0, 0.5e-9), draws))
    assert found.crossing == pytest.approx(40e6)
    assert (found.low, found.high) == pytest.approx((21e6, 59e6))


@pytest.mark.parametrize("fixed", [0.040, 0.029], ids=["the fits cross", "the fits do not"])
def test_where_only_the_upper_end_is_told_it_is_said_from_where_on_it_holds(fixed: float) -> None:
    """For small checkpoints the draws disagree; the last of them changes at 60 MB, all but one in twenty by 56 MB."""
    draws = [(drawn, 0.0, 0.5e-9) for drawn in np.linspace(0.020, 0.060, DRAWS)]
    found = _along("bytes", 100, _known(A, (0.030, 0.0, 1e-9)), _known(B, (fixed, 0.0, 0.5e-9), draws))
    assert (found.below, found.above, found.outcome) == (None, B, f"not told apart below, {B} above")
    assert (found.crossing, found.low) == (None, None)
    assert found.high == pytest.approx(56e6)


def test_draws_that_say_otherwise_push_out_from_where_on_it_holds() -> None:
    """Of the 96 in 100 that agree in the end, all but one have to be counted to make 95."""
    draws = [*((drawn, 0.0, 0.5e-9) for drawn in np.linspace(0.020, 0.060, DRAWS - 80)), *[(0.060, 0.0, 2e-9)] * 80]
    found = _along("bytes", 100, _known(A, (0.030, 0.0, 1e-9)), _known(B, (0.040, 0.0, 0.5e-9), draws))
    assert (found.below, found.above) == (None, B)
    assert found.high == pytest.approx(2e9 * (0.95 / 0.96 * 0.040 - 0.010), rel=1e-3)


def test_where_only_the_lower_end_is_told_it_is_said_up_to_where_it_holds() -> None:
    """For many tensors the draws disagree; one in twenty changes before 1,111."""
    draws = [(0.010, slope, 0.0) for slope in np.linspace(0.0, 20e-6, DRAWS)]
    found = _along("tensors", 10**6, _known(A, (0.0, 10e-6, 0.0)), _known(B, (0.010, 9e-6, 0.0), draws))
    assert (found.below, found.above, found.outcome) == (A, None, f"{A} below, not told apart above")
    assert (found.crossing, found.high) == (None, None)
    assert found.low == pytest.approx(0.010 / 9e-6, rel=1e-3)


def test_the_ceiling_and_loaders_of_another_environment_state_or_device_are_not_compared() -> None:
    fits = [
        _known("ceiling-read", PICKLE),
        _known(A, PICKLE),
        _known(B, PICKLE, environment="other"),
        _known(B, PICKLE, cache_state="cold"),
        _known(B, PICKLE, device="cuda"),
    ]
    assert overtakings(fits) == []
    assert {(found.first, found.second) for found in overtakings([*fits, _known(B, PICKLE)])} == {(A, B)}


def test_every_pair_is_compared_at_every_number_of_tensors_and_size_asked_for() -> None:
    fits = [_known(loader, PICKLE) for loader in ("a", "b", "c")]
    found = overtakings(fits, tensors=(1, 2), sizes=(3,))
    asked = [("bytes", 1), ("bytes", 2), ("tensors", 3)]
    assert [(one.first, one.second, one.along, one.held) for one in found] == [
        (*pair, *how) for pair in (("a", "b"), ("a", "c"), ("b", "c")) for how in asked
    ]
    assert [one.held for one in overtakings(fits[:2])] == [100, 1000, 100_000_000]


def test_loaders_are_compared_by_the_checkpoints_that_both_were_measured_at() -> None:
    """Two that take the same, of which one alone was asked for the checkpoint where both would be slow, are not told apart."""
    chance = random.Random(5)
    few = _only("many-small", "small", "middling")
    samples = [sample for loader in (A, B) for sample in _samples(loader, PICKLE, lambda: chance.lognormvariate(0, 0.02), few)]
    samples += _samples(A, PICKLE, lambda: 3.0, _only("large"))
    fits, _ = fit_loaders(samples)
    alone = {fit.loader: fit.between(100, 10**10) for fit in fits}
    assert alone[A][0] > alone[B][1]
    assert {found.outcome for found in overtakings(fits)} == {"not told apart"}


def test_loaders_without_enough_checkpoints_in_common_are_not_compared() -> None:
    fits, _ = fit_loaders(
        _samples(A, PICKLE, checkpoints=_only("many-small", "small", "middling"))
        + _samples(B, PICKLE, checkpoints=_only("many-small", "small", "large"))
    )
    assert len(fits) == 2
    assert overtakings(fits) == []


@pytest.mark.parametrize(("fixed", "extrapolated"), [(0.001, True), (0.011, False), (1.2, False), (1.3, True)])
def test_a_crossing_beyond_what_was_measured_says_so(fixed: float, extrapolated: bool) -> None:
    """Measured between 4 MB and 2.5 GB; the lines meet at 2 bytes per ns of the fixed cost."""
    found = _along("bytes", 100, _known(A, (0.0, 0.0, 1e-9)), _known(B, (fixed, 0.0, 0.5e-9)))
    assert found.crossing == pytest.approx(fixed * 2e9)
    assert found.extrapolated is extrapolated


def test_a_comparison_tells_how_far_its_fits_lie_from_their_cells() -> None:
    off = _known(B, PICKLE, cells=_off(PICKLE, 1.0, 0.7, 1.2, 1.0))
    assert _along("bytes", 100, _known(A, PICKLE), off).deviation == pytest.approx(0.3)


# BLOOM-176B, a prediction

SIZE, TENSORS = BLOOM_176B.bytes, len(BLOOM_176B.tensors)
MAPPED = "torch-load-mmap"
FITS = [
    _known(REFERENCE, (1.0, 0.001, 1e-11)),
    _known(A, (2.0, 0.002, 5e-10)),
    _known(MAPPED, (3.0, 0.003, 2e-11)),
]
SLICES, SLICES_COPIED, MAP_AND_COPY, ONCE, BY_EACH = (
    "slices, left in the mapped file",
    "slices, copied out of the mapped file",
    "map everything, copy the share",
    "unpickle everything, read once",
    "unpickle everything, read by every rank",
)


def _predicted(fits: Iterable[Fit] = FITS, rate: float = 2e9, ranks: int = 8) -> dict[str, Prediction]:
    return {found.arm: found for found in predict_bloom(fits, [rate], ranks)}


def test_a_rank_s_load_is_the_warm_fit_at_what_it_brings_up() -> None:
    found = _predicted()
    loads = {
        SLICES: 1.0 + 0.001 * TENSORS + SIZE / 8 * 1e-11,
        SLICES_COPIED: 1.0 + 0.001 * TENSORS + SIZE / 8 * (1e-11 + 5e-10),
        MAP_AND_COPY: 3.0 + 0.003 * TENSORS + SIZE / 8 * (2e-11 + 5e-10),
        ONCE: 2.0 + 0.002 * TENSORS + SIZE * 5e-10,
        BY_EACH: 2.0 + 0.002 * TENSORS + SIZE * 5e-10,
    }
    assert {arm: one.load_s for arm, one in found.items()} == pytest.approx(loads)
    assert {arm: one.rank_bytes for arm, one in found.items()} == {arm: SIZE if arm in (ONCE, BY_EACH) else SIZE / 8 for arm in loads}


def test_the_storage_is_shared_and_read_once_unless_every_rank_reads_anew() -> None:
    found = _predicted(rate=4e9)
    assert {arm: one.read_bytes // SIZE for arm, one in found.items()} == {
        SLICES: 1,
        SLICES_COPIED: 1,
        MAP_AND_COPY: 1,
        ONCE: 1,
        BY_EACH: 8,
    }
    assert found[SLICES].storage_s == pytest.approx(SIZE / 4e9)
    assert found[BY_EACH].storage_s == pytest.approx(8 * SIZE / 4e9)


@pytest.mark.parametrize("rate", [1e9, 1e12])
def test_a_prediction_lies_between_a_perfect_overlap_and_none(rate: float) -> None:
    for found in _predicted(rate=rate).values():
        assert found.low_s == pytest.approx(max(found.load_s, found.storage_s))
        assert found.high_s == pytest.approx(found.load_s + found.storage_s)


def test_the_fit_s_interval_widens_a_prediction_at_both_ends() -> None:
    """Per byte between 4e-10 and 6e-10 s, of which the middle 95 % are taken."""
    unsure = _known(A, (0.0, 0.0, 5e-10), [(0.0, 0.0, rate) for rate in np.linspace(4e-10, 6e-10, DRAWS)])
    found = _predicted([unsure, FITS[0]], rate=1e12)
    assert (found[ONCE].low_s, found[ONCE].high_s) == pytest.approx((4.05e-10 * SIZE, 5.95e-10 * SIZE + SIZE / 1e12))
    share = SIZE / 8
    load = 1.0 + 0.001 * TENSORS + 1e-11 * share
    assert (found[SLICES_COPIED].low_s, found[SLICES_COPIED].high_s) == pytest.approx(
        (load + 4.05e-10 * share, load + 5.95e-10 * share + SIZE / 1e12)
    )


def test_more_ranks_share_the_slices_and_read_the_pickle_more_often() -> None:
    eight, sixteen = _predicted(), _predicted(ranks=16)
    assert sixteen[SLICES].rank_bytes == eight[SLICES].rank_bytes / 2
    assert sixteen[BY_EACH].storage_s == 2 * eight[BY_EACH].storage_s
    assert sixteen[ONCE].load_s == eight[ONCE].load_s
    assert {one.ranks for one in sixteen.values()} == {16}


def test_the_page_s_figure_stands_beside_what_it_speaks_of() -> None:
    assert {arm: one.page_s for arm, one in _predicted().items()} == {
        SLICES: 45.0,
        SLICES_COPIED: 45.0,
        MAP_AND_COPY: None,
        ONCE: 600.0,
        BY_EACH: 600.0,
    }


def test_a_prediction_says_how_far_beyond_the_measurements_it_reaches_and_how_well_the_largest_was_met() -> None:
    found = _predicted([FITS[0], _known(A, PICKLE, cells=_off(PICKLE, 2.0, 1.0, 1.0, 1.25))])
    assert found[ONCE].times_measured == pytest.approx(SIZE / 2.5e9)
    assert found[SLICES].times_measured == pytest.approx(SIZE / 8 / 2.5e9)
    assert found[ONCE].deviation == pytest.approx(0.25)


def test_only_warm_fits_on_the_cpu_predict() -> None:
    assert _predicted([_known(fit.loader, PICKLE, cache_state="cold") for fit in FITS]) == {}
    assert _predicted([_known(fit.loader, PICKLE, device="cuda") for fit in FITS]) == {}


def test_an_arm_without_its_fits_is_left_out() -> None:
    assert set(_predicted(FITS[:1])) == {SLICES}
    assert set(_predicted(FITS[:2])) == {SLICES, SLICES_COPIED, ONCE, BY_EACH}


def test_every_environment_and_storage_rate_has_its_own_predictions() -> None:
    fits = [_known(fit.loader, PICKLE, environment=name) for name in ("new", "old") for fit in FITS]
    found = predict_bloom(fits, [1e9, 2e9])
    assert [(one.environment, one.storage_rate) for one in found[::5]] == [("new", 1e9), ("new", 2e9), ("old", 1e9), ("old", 2e9)]
    assert len(found) == 20


def test_a_copy_is_reckoned_from_the_same_environment() -> None:
    elsewhere = _known(A, PICKLE, environment="other")
    assert set(_predicted([FITS[0], elsewhere])) == {SLICES, ONCE, BY_EACH}


def test_a_predicted_ratio_lies_between_what_the_two_predictions_allow() -> None:
    predictions = predict_bloom(FITS, [2e9])
    found = {(ratio.over.arm, ratio.under.arm): ratio for ratio in predicted_ratios(predictions)}
    assert set(found) == {(over, under) for over in (ONCE, BY_EACH) for under in (SLICES, SLICES_COPIED)}
    ratio = found[ONCE, SLICES]
    assert ratio.low == pytest.approx(ratio.over.low_s / ratio.under.high_s)
    assert ratio.high == pytest.approx(ratio.over.high_s / ratio.under.low_s)
    assert ratio.page == pytest.approx(600 / 45)


def test_ratios_are_taken_within_an_environment_and_storage_rate() -> None:
    fits = [_known(fit.loader, PICKLE, environment=name) for name in ("new", "old") for fit in FITS]
    ratios = predicted_ratios(predict_bloom(fits, [1e9, 2e9]))
    assert len(ratios) == 4 * 4
    assert all((one.over.environment, one.over.storage_rate) == (one.under.environment, one.under.storage_rate) for one in ratios)


def test_medians_of_many_samples_scatter_as_if_all_had_been_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    times = tuple(sorted(chance.lognormvariate(0, 0.3) for _ in range(MANY + 1)))
    cell = MeasuredCell("gpt2", 1000, 10, times)
    by_place = fitting._medians_drawn_again("a", [cell])[:, 0]
    monkeypatch.setattr(fitting, "MANY", MANY + 1)
    one_by_one = fitting._medians_drawn_again("a", [cell])[:, 0]
    assert by_place.shape == one_by_one.shape == (DRAWS,)
    assert by_place.std() == pytest.approx(one_by_one.std(), rel=0.1)
    assert np.median(by_place) == pytest.approx(cell.median_s, abs=0.2 * one_by_one.std())
    assert np.median(one_by_one) == pytest.approx(cell.median_s, abs=0.2 * one_by_one.std())
