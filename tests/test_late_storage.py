"""A loader that the server of shaped storage keeps waiting has no figure anywhere."""

from __future__ import annotations

import pytest

from benchmarks.replay import Arm, replay
from harness.analysis.arms import summarise
from harness.analysis.regression import Verdict, change
from harness.analysis.run_cells import cells_of
from harness.measure.blocks import Limits, run_blocks
from harness.records.cell import Cell
from harness.records.late_storage import kept_late
from harness.records.sample import LATE, Sample
from harness.report.tables import arm_table
from harness.run.run import CellResult
from tests.helpers import make_sample


def _loads(loader: str, count: int, late: int) -> list[Sample]:
    """Return loads of which the last `late` were late."""
    return [
        make_sample(
            loader=loader,
            block=block,
            valid=block < count - late,
            reason=LATE if block >= count - late else None,
            ready_s=0.1,
        )
        for block in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "late", "refused"), [(12, 2, False), (12, 3, True), (6, 1, False), (6, 2, True)]
)
def test_a_loader_is_refused_by_its_share_of_late_loads(
    count: int, late: int, refused: bool
) -> None:
    samples = [*_loads("a", count, late), *_loads("b", count, 0)]
    assert set(kept_late(samples)) == ({"a"} if refused else set())


def test_a_late_ceiling_refuses_the_whole_cell() -> None:
    samples = [*_loads("ceiling-read", 6, 3), *_loads("a", 6, 0)]
    assert set(kept_late(samples)) == {"ceiling-read", "a"}
    assert all(arm.ready is None and arm.status == "late" for arm in summarise(samples))


def test_a_refused_loader_stands_in_the_table_once() -> None:
    samples = [*_loads("a", 12, 5), *_loads("safetensors-load-file", 12, 0)]
    (cell,) = cells_of({"cells": []}, samples)
    rows = arm_table(cell, ["ready"], lambda arm: ["0.1"]).to_dict("records")
    assert [row["status"] for row in rows if row["loader"] == "a"] == ["late"]
    assert [row["ready"] for row in rows if row["loader"] == "a"] == ["late"]


def test_a_loader_that_is_kept_late_is_measured_no_further() -> None:
    def take(arm: str, block: int, position: int) -> Sample:
        late = arm == "a"
        return make_sample(loader=arm, block=block, valid=not late, reason=LATE if late else None)

    limits = Limits(blocks=6, budget_s=1e9, hard_s=1e9)
    items = run_blocks(["a", "b"], (), limits, lambda _: ["a", "b"], take, lambda _: False)
    loaders = [item.loader for item in items if isinstance(item, Sample)]
    assert (loaders.count("a"), loaders.count("b")) == (2, 6)


def test_a_refused_loader_has_no_samples_that_count() -> None:
    samples = [*_loads("a", 12, 5), *_loads("safetensors-load-file", 12, 0)]
    (cell,) = cells_of({"cells": []}, samples)
    counted = {arm.loader: len(cell.valid(arm)) for arm in cell.arms}
    assert counted == {"a": 0, "safetensors-load-file": 12}


def test_a_refused_loader_is_skipped_with_its_reason() -> None:
    samples = (*_loads("a", 12, 5), *_loads("b", 12, 0))
    cell = Cell.of(samples[0])
    with pytest.raises(pytest.skip.Exception, match="late in 5 of 12 loads"):
        replay(Arm("a", CellResult(cell, samples, None, {})), None)


def test_late_storage_is_no_regression() -> None:
    quick, late = _loads("a", 24, 0), _loads("a", 24, 9)
    outcome = change(quick, late)
    assert outcome.verdict == Verdict.INSUFFICIENT
    assert "late in 9 of 24 loads of candidate" in outcome.reason
