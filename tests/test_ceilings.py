"""Ceilings: which one bounds a cell, and what is said to bind a load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.analysis.arms import ArmSummary, precise, summarise
from harness.analysis.bottleneck import (
    AMPLIFICATION,
    FIXED,
    MEANING,
    OWN_WORK,
    PAGE_FAULTS,
    PER_TENSOR,
    WAITING,
    bottleneck_of,
)
from harness.analysis.ceilings import bounding, is_ceiling, resource_of
from harness.analysis.time_model import fit_loaders
from harness.records.sample import WRONG, Sample
from tests.helpers import make_sample


def _arm(loader: str, ready_s: float, blocks: int = 6, **figures: Any) -> list[Sample]:
    return [
        make_sample(loader=loader, block=block, ready_s=ready_s, returned_s=ready_s, **figures)
        for block in range(blocks)
    ]


def _found(samples: Sequence[Sample], loader: str) -> ArmSummary:
    return next(arm for arm in summarise(samples) if arm.loader == loader)


@pytest.mark.parametrize(
    ("loader", "state", "resource"),
    [
        ("ceiling-read", "cold", "storage"),
        ("ceiling-read-4m", "cold", "storage"),
        ("ceiling-direct", "cold", "storage"),
        ("ceiling-read", "warm", "copy"),
        ("ceiling-copy", "warm", "copy"),
        ("ceiling-to-device", "warm", "transfer"),
        ("ceiling-to-device-pageable", "cold", "transfer"),
    ],
)
def test_a_ceiling_is_the_best_of_one_resource(loader: str, state: str, resource: str) -> None:
    assert is_ceiling(loader)
    assert resource_of(loader, state) == resource
    assert resource in MEANING


@pytest.mark.parametrize(
    ("device", "state", "times", "bound"),
    [
        (
            "cpu",
            "cold",
            {"ceiling-read": 3.0, "ceiling-direct": 2.0, "ceiling-read-4m": 4.0},
            "ceiling-direct",
        ),
        ("cpu", "warm", {"ceiling-read": 3.0, "ceiling-copy": 2.0}, "ceiling-copy"),
        (
            "cuda",
            "cold",
            {"ceiling-read": 3.0, "ceiling-direct": 2.0, "ceiling-to-device": 1.0},
            "ceiling-direct",
        ),
        (
            "cuda",
            "cold",
            {"ceiling-read": 3.0, "ceiling-to-device": 4.0, "ceiling-to-device-pageable": 9.0},
            "ceiling-to-device",
        ),
        (
            "cuda",
            "warm",
            {"ceiling-read": 3.0, "ceiling-to-device": 1.0, "ceiling-to-device-pageable": 2.0},
            "ceiling-to-device",
        ),
        ("cuda", "warm", {"ceiling-read": 3.0}, "ceiling-read"),
        ("cpu", "warm", {"torch-load": 3.0}, None),
        ("cpu", "warm", {}, None),
    ],
)
def test_the_slowest_resource_s_fastest_ceiling_bounds_a_cell(
    device: str, state: str, times: dict[str, float], bound: str | None
) -> None:
    assert (
        bounding(device, state, {name: _arm(name, ready) for name, ready in times.items()}) == bound
    )


def test_a_ceiling_without_a_valid_sample_bounds_nothing() -> None:
    broken = [make_sample(loader="ceiling-direct", valid=False, reason="raised", ready_s=0.1)]
    assert (
        bounding(
            "cpu", "cold", {"ceiling-direct": broken, "ceiling-read": _arm("ceiling-read", 1.0)}
        )
        == "ceiling-read"
    )
    assert bounding("cpu", "cold", {"ceiling-direct": broken}) is None


def test_a_share_is_of_the_bounding_ceiling() -> None:
    samples = _arm("ceiling-read", 3.0) + _arm("ceiling-copy", 1.0) + _arm("torch-load", 4.0)
    samples += _arm("ceiling-read", 2.0, environment="new") + _arm(
        "torch-load", 4.0, environment="new"
    )
    shares = {
        (arm.environment, arm.loader): (arm.ceiling, arm.share_of_ceiling)
        for arm in summarise(samples)
    }
    ceiling, share = shares["reference", "torch-load"]
    assert (ceiling, share and share.median) == ("ceiling-copy", 0.25)
    ceiling, share = shares["new", "torch-load"]
    assert (ceiling, share and share.median) == ("ceiling-read", 0.5)


@pytest.mark.parametrize(
    ("state", "figures", "word"),
    [
        ("cold", {"ready_s": 1.1}, "storage"),
        ("warm", {"ready_s": 1.1}, "copy"),
        ("warm", {"ready_s": 1.1, "mapped_bytes": 900}, PAGE_FAULTS),
        ("warm", {"ready_s": 0.2, "mapped_bytes": 900}, PAGE_FAULTS),
        ("cold", {"ready_s": 2.0, "cpu_s": 0.5}, WAITING),
        (
            "cold",
            {"ready_s": 2.0, "cpu_s": 0.5, "requested_bytes": 100, "storage_read_bytes": 200},
            AMPLIFICATION,
        ),
        (
            "cold",
            {"ready_s": 2.0, "cpu_s": 0.5, "requested_bytes": 100, "storage_read_bytes": 190},
            WAITING,
        ),
        ("cold", {"ready_s": 1.1, "requested_bytes": 100, "storage_read_bytes": 800}, "storage"),
        ("cold", {"ready_s": 2.0, "cpu_s": 1.9}, OWN_WORK),
        ("cold", {"ready_s": 2.0}, OWN_WORK),
        ("warm", {"ready_s": 2.0, "cpu_s": 0.1}, OWN_WORK),
    ],
)
def test_what_binds_is_told_by_the_share_the_pages(
    state: str, figures: dict[str, Any], word: str
) -> None:
    samples = _arm("ceiling-read", 1.0, cache_state=state) + _arm("a", cache_state=state, **figures)
    assert bottleneck_of(_found(samples, "a")) == word
    assert word in MEANING


def test_a_ceiling_binds_itself_no_more_than_a_cell() -> None:
    samples = _arm("ceiling-read", 1.0) + _arm("a", 2.0)
    assert bottleneck_of(_found(samples, "ceiling-read")) is None
    assert bottleneck_of(_found(_arm("a", 2.0), "a")) is None


def test_a_mapped_file_of_many_tensors_is_bound_by_their_number() -> None:
    samples: list[Sample] = []
    for checkpoint, size, tensors in (
        ("small", 1e6, 1000),
        ("middle", 1e7, 10),
        ("large", 1e8, 100),
        ("larger", 1e9, 3000),
    ):
        whole: dict[str, Any] = {
            "scenario": "full-load",
            "checkpoint": checkpoint,
            "bytes": int(size),
            "tensors": tensors,
        }
        samples += _arm("a", 1e-4 * tensors + size * 1e-11, mapped_bytes=int(size), **whole) + _arm(
            "ceiling-read", size * 1e-10, **whole
        )
    fits = fit_loaders(samples)
    found = {
        name: _found([one for one in samples if one.checkpoint == name], "a")
        for name in ("small", "large")
    }
    assert (
        bottleneck_of(found["small"], fits),
        bottleneck_of(found["small"]),
        bottleneck_of(found["large"], fits),
    ) == (
        PER_TENSOR,
        PAGE_FAULTS,
        PAGE_FAULTS,
    )


@pytest.mark.parametrize(
    ("per_tensor", "fixed", "word"),
    [(1e-3, 0.0, PER_TENSOR), (0.0, 1.0, FIXED), (1e-9, 1e-6, OWN_WORK)],
)
def test_costs_that_bytes_do_not_explain_are_told(
    per_tensor: float, fixed: float, word: str
) -> None:
    samples: list[Sample] = []
    for checkpoint, size, tensors in (
        ("small", 1e6, 1000),
        ("middle", 1e7, 10),
        ("large", 1e8, 100),
        ("larger", 1e9, 3000),
    ):
        whole: dict[str, Any] = {
            "scenario": "full-load",
            "checkpoint": checkpoint,
            "bytes": int(size),
            "tensors": tensors,
        }
        samples += _arm("a", fixed + per_tensor * tensors + size * 4e-10, **whole) + _arm(
            "ceiling-read", size * 1e-10, **whole
        )
    fits = fit_loaders(samples)
    assert (
        bottleneck_of(
            _found([sample for sample in samples if sample.checkpoint == "small"], "a"), fits
        )
        == word
    )


@pytest.mark.parametrize("reason", WRONG)
def test_a_loader_that_was_wrong_once_has_no_figure_anywhere(reason: str) -> None:
    wrong = make_sample(loader="a", block=9, valid=False, reason=reason, detail="layer.0 missing")
    samples = [*_arm("a", 0.5), wrong, *_arm("b", 1.0), *_arm("ceiling-read", 1.0)]
    *_, last = summarise(samples)
    assert (last.loader, last.status, last.wrong, last.valid, last.total) == (
        "a",
        "wrong",
        "layer.0 missing",
        6,
        7,
    )
    assert (
        last.ready,
        last.returned,
        last.ratio_ready,
        last.share_of_ceiling,
        last.rate,
        last.cpu_s,
    ) == (None,) * 6
    assert precise(samples) == precise([sample for sample in samples if sample.loader != "a"])


def test_nothing_is_compared_with_a_reference() -> None:
    wrong = {
        "block": 9,
        "valid": False,
        "reason": "wrong-content",
        "detail": "layer.0 of other bytes",
    }
    samples = [
        make_sample(loader=loader, **wrong) for loader in ("safetensors-load-file", "ceiling-read")
    ]
    samples += (
        _arm("safetensors-load-file", 1.0) + _arm("ceiling-read", 0.5) + _arm("torch-load", 2.0)
    )
    found = _found(samples, "torch-load")
    assert (found.ratio_ready, found.share_of_ceiling, found.ceiling) == (None, None, None)


def test_no_line_is_fitted_to_a_loader() -> None:
    samples: list[Sample] = []
    for checkpoint, size, tensors in (
        ("small", 10**6, 1000),
        ("middle", 10**7, 10),
        ("large", 10**8, 100),
    ):
        whole: dict[str, Any] = {
            "scenario": "full-load",
            "checkpoint": checkpoint,
            "bytes": size,
            "tensors": tensors,
        }
        samples += _arm("a", size * 1e-9 + tensors * 1e-6, **whole) + _arm(
            "b", size * 1e-9 + tensors * 1e-6, **whole
        )
    wrong = make_sample(
        scenario="full-load", checkpoint="small", loader="b", valid=False, reason="wrong-content"
    )
    assert {fit.loader for fit in fit_loaders([*samples, wrong])} == {"a"}
