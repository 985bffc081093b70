"""Conversion as a scenario: what is made is checked and removed, and a converter that spoils it has
no figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import test_conversion as scenario
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Checkpoint, Store
from harness.loaders import CONVERTER, all_loaders
from harness.measure.take_sample import Arm, Place, take_sample
from harness.measure.validity import judge
from harness.records.cell import Cell
from harness.records.loader_keys import key_of
from harness.records.sample import Sample
from harness.run.options import parse
from harness.scenarios import CacheState
from harness.workers.client import Server
from tests import bad_converters

pytestmark = pytest.mark.slow

MIB = 1 << 20
LAYOUT = Layout(
    "weights", tuple(TensorSpec(f"layer.{number}", "float32", (1024, 1024)) for number in range(16))
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def checkpoint(store: Store) -> Checkpoint:
    return store.checkpoint(layout_source(LAYOUT, 0), ["torch-zip", "torch-legacy"])


@pytest.fixture(scope="module")
def arms(store: Store) -> Iterator[dict[str, Arm]]:
    warm_up = store.warm_up(["torch-zip", "torch-legacy"])
    known = all_loaders(CONVERTER) | {
        one.name: ("tests.bad_converters", one) for one in bad_converters.CONVERTERS
    }
    keys = {name: key_of(module, name, CONVERTER) for name, (module, _) in known.items()}
    files = {
        keys[name]: [str(file) for file in warm_up[one.format]] for name, (_, one) in known.items()
    }
    with Server(files, ["torch"]) as server:
        yield {
            name: Arm(keys[name], one, "reference", server, warm_up[one.format])
            for name, (_, one) in known.items()
        }


def _sample(checkpoint: Checkpoint, arm: Arm, state: CacheState = "warm") -> Sample:
    return take_sample(
        Cell(scenario.SCENARIO, checkpoint.name, state, "cpu"),
        checkpoint,
        arm,
        Place("a-run", 0, 0),
        timeout_s=60.0,
    )


def _beside(checkpoint: Checkpoint, arm: Arm) -> set[str]:
    return {
        path.name
        for path in Path(checkpoint.artifacts[arm.loader.format].files[0]).parent.iterdir()
    }


@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("name", all_loaders(CONVERTER))
def test_what_a_converter_made_is_checked_and_removed(
    checkpoint: Checkpoint, arms: dict[str, Arm], name: str, state: CacheState
) -> None:
    before = _beside(checkpoint, arms[name])
    taken = _sample(checkpoint, arms[name], state)
    assert taken.valid, taken.detail
    assert taken.ready_s == pytest.approx(taken.returned_s, abs=0.005), (
        "nothing is brought up: what was made is a file"
    )
    assert _beside(checkpoint, arms[name]) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [("flips-a-bit", "wrong-content"), ("leaves-nothing", "wrong-content"), ("dies", "killed")],
)
def test_a_converter_that_spoils_what_it_makes_has_no_figure(
    checkpoint: Checkpoint, arms: dict[str, Arm], name: str, reason: str
) -> None:
    taken = _sample(checkpoint, arms[name])
    assert (taken.valid, taken.reason) == (False, reason)


def test_what_a_killed_conversion_left_goes_with_the_next_one(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    before = _beside(checkpoint, arms["convert"])
    _sample(checkpoint, arms["dies"])
    left = _beside(checkpoint, arms["convert"]) - before
    assert left
    assert _sample(checkpoint, arms["convert"]).valid
    assert not _beside(checkpoint, arms["convert"]) & left


def test_a_conversion_rises_by_less_than_the_largest_tensor(
    checkpoint: Checkpoint, arms: dict[str, Arm]
) -> None:
    """And the counter sees what is held: a copy of all of it would be seen."""
    taken = _sample(checkpoint, arms["convert"])
    assert taken.peak_growth_bytes is not None
    assert 0 <= taken.peak_growth_bytes < 40 * MIB < LAYOUT.bytes


def test_a_warm_sample_that_writes_may_be_given_the_file_system() -> None:
    answer = {"content_ok": True, "wrong": None, "storage_read_bytes": 10_000}
    assert judge("warm", 1.0, 1_000_000, answer, writes=True).valid
    assert judge("warm", 1.0, 1_000_000, answer).reason == "storage-read"
    assert (
        judge("warm", 1.0, 1_000_000, answer | {"storage_read_bytes": 10_001}, writes=True).reason
        == "storage-read"
    )


def test_a_converter_is_measured_beside_a_copy() -> None:
    for profile in ("default", "full"):
        plan = scenario.plan(parse({"profile": profile}))
        assert all(
            {"file-copy", "convert", "convert-and-verify"} <= set(arms) for arms in plan.values()
        )
        assert {cell.cache_state for cell in plan} == {"cold", "warm"}
    assert "llama-3.2-1b" in {cell.checkpoint for cell in scenario.plan(parse({"profile": "full"}))}
