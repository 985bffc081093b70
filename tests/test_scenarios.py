"""Partial and sharded loads as a person starts them, and what is said of a part or a number of
ranks that cannot be had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import test_full_load as full
from benchmarks import test_partial_load as partial
from benchmarks import test_sharded_load as sharded
from harness.checkpoints.parts import PARTS
from harness.loaders import all_loaders
from harness.machine import proof
from harness.measure.blocks import whole_blocks
from harness.records.cell import Cell
from harness.run.options import Options, parse
from harness.run.plan import block_cost, in_order
from tests.helpers import make_sample
from tests.test_benchmarks import Place, lines

pytestmark = pytest.mark.slow

PARTIAL, SHARDED = "benchmarks/test_partial_load.py", "benchmarks/test_sharded_load.py"
PART_ARMS = {
    "ceiling-read",
    "safetensors-get-slice",
    "safetensors-load-file",
    "safetensors-pread",
    "torch-load",
    "torch-load-mmap",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


def options(**given: str) -> Options:
    return parse(given)


@pytest.mark.long
def test_a_part_is_measured_by_every_arm(tmp_path: Path, store: Path) -> None:
    place = Place(tmp_path, store, PARTIAL)
    if not proof.capability(tmp_path).cold:
        pytest.skip("nothing can be made cold here")
    ended = place.run(
        "-m",
        "cpu",
        "--checkpoints",
        "all-minilm-l6-v2",
        "--parts",
        "eighth-rows,one-layer",
        "--cache-states",
        "cold",
        "--rounds",
        "6",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    taken = lines(place.only_run)
    assert {(line["scenario"], line["part"], line["ranks"]) for line in taken} == {
        ("partial-load", "eighth-rows", None),
        ("partial-load", "one-layer", None),
    }
    cold = [line for line in taken if line["cache_state"] == "cold" and line["valid"]]
    assert len(cold) >= 60, "of 72"
    assert {line["loader"] for line in cold} == PART_ARMS
    given: dict[tuple[Any, ...], list[float]] = {}
    for line in cold:
        read, asked = line["storage_read_bytes"], line["requested_bytes"]
        assert isinstance(read, int)
        assert isinstance(asked, int)
        given.setdefault((line["part"], line["loader"]), []).append(read / asked)
    for (part, loader), found in given.items():
        ceiling = min(given[part, "ceiling-read"])
        assert 1.0 <= ceiling < 1.1
        assert min(found) >= 0.999 * ceiling, (
            f"{loader} of {part}: the ceiling bounds it from below"
        )
    page = (place.only_run / "report.md").read_text()
    assert "## Loading a part" in page
    assert all(f"| {loader} |" in page for loader in PART_ARMS)
    assert (place.only_run / "figures/parts-all-minilm-l6-v2-on-cpu.svg").is_file()
    assert "eighth-rows/cold" in ended.stdout


@pytest.mark.long
def test_shares_are_brought_up_by_every_arm(tmp_path: Path, store: Path) -> None:
    place = Place(tmp_path, store, SHARDED)
    ended = place.run(
        "-m",
        "cpu",
        "--checkpoints",
        "bloom-slim",
        "--ranks",
        "1,2",
        "--cache-states",
        "warm",
        "--rounds",
        "6",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    taken = lines(place.only_run)
    assert {line["ranks"] for line in taken} == {1, 2}
    assert {line["loader"] for line in taken} == set(sharded.ARMS)
    assert len(taken) == 2 * 6 * len(sharded.ARMS)
    for line in taken:
        if line["valid"]:
            assert isinstance(line["per_rank"], list)
            assert len(line["per_rank"]) == line["ranks"]
            assert line["ready_s"] == max(rank["ready_s"] for rank in line["per_rank"])
    page = (place.only_run / "report.md").read_text()
    assert "over 2 ranks on cpu: **" in page
    assert (place.only_run / "figures/ranks-bloom-slim-on-cpu.svg").is_file()


@pytest.mark.parametrize(
    ("scenario", "arguments", "said"),
    [
        (
            PARTIAL,
            ("--parts", "half"),
            (
                "unknown part 'half'",
                "one-tensor, one-layer, every-8th-tensor, eighth-rows, eighth-columns",
            ),
        ),
        (PARTIAL, ("--checkpoints", "lora-1000", "--parts", ","), ("no part is named",)),
        (PARTIAL, ("--read-ahead-kb", "-1"), ("--read-ahead-kb -1", "must be 0 or more")),
        (PARTIAL, ("--read-ahead-kb", "some"), ("--read-ahead-kb some", "not a number")),
        (
            SHARDED,
            ("--checkpoints", "bloom-slim", "--ranks", "3"),
            ("over 3 ranks", "16 attention heads go evenly over 1, 2, 4, 8, 16"),
        ),
        (
            SHARDED,
            ("--checkpoints", "gpt2", "--ranks", "2"),
            ("gpt2 cannot be split over ranks", "no rule is known"),
        ),
        (SHARDED, ("--ranks", "0"), ("--ranks 0", "must be 1 or more")),
    ],
)
def test_a_part_that_cannot_be_had_gets_one_line(
    tmp_path: Path, scenario: str, arguments: tuple[str, ...], said: tuple[str, ...]
) -> None:
    place = Place(tmp_path, tmp_path / "store", scenario)
    ended = place.run(*arguments)
    found = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
    assert ended.returncode == 2, ended.stdout
    assert len(found) == 1
    assert all(words in found[0] for words in said), found
    assert not place.results.exists()
    assert not place.store.exists()


def test_every_part_is_a_cell_cold_and_warm() -> None:
    plan = partial.plan(options(checkpoints="gpt2", parts="one-layer", read_ahead_kb="0,8192"))
    assert {(cell.cache_state, cell.read_ahead_kb) for cell in plan if cell.device == "cpu"} == {
        ("cold", 0),
        ("cold", 8192),
        ("warm", None),
    }
    everything = partial.plan(options(checkpoints="gpt2"))
    assert {cell.part for cell in everything} == set(PARTS)
    assert all(set(arms) == PART_ARMS for arms in everything.values())


def test_every_way_to_a_gpu_is_an_arm_at_every_size() -> None:
    ways = {
        name
        for name, (_, loader) in all_loaders().items()
        if "cuda" in loader.devices and "cold" in loader.cache_states and loader.threads is None
    }
    for profile in ("smoke", "default", "full"):
        for cell, arms in full.plan(options(profile=profile)).items():
            if (cell.device, cell.cache_state) == ("cuda", "cold"):
                assert set(arms) == ways
            asked = full.FEWER_ARMS.get((profile, cell.checkpoint))
            if cell.device == "cpu" and asked:
                assert {name for name in arms if not name.startswith("ceiling-")} <= set(asked)


def test_loaders_that_know_no_parts_leave_that_scenario_empty() -> None:
    assert partial.plan(options(loaders="pickle-load")) == {}
    assert sharded.plan(options(loaders="pickle-load")) == {}
    for arms in full.plan(options(loaders="pickle-load")).values():
        assert {name for name in arms if not name.startswith("ceiling-")} == {"pickle-load"}
        assert "ceiling-read" in arms


def test_a_layout_that_none_splits_is_left_aside() -> None:
    assert sharded.plan(options(checkpoints="gpt2")) == {}
    assert {cell.checkpoint for cell in sharded.plan(options(checkpoints="gpt2,bloom-slim"))} == {
        "bloom-slim"
    }


def test_each_profile_has_every_scenario() -> None:
    for profile in ("smoke", "default", "full"):
        given = options(profile=profile)
        for module in (full, partial, sharded):
            cells = module.plan(given)
            assert {(cell.cache_state, cell.device) for cell in cells} == {
                (s, d) for s in ("cold", "warm") for d in ("cpu", "cuda")
            }
            assert all(cells.values())


def test_cells_that_answer_most_come_first() -> None:
    given = options(profile="default")
    plan: Mapping[Cell, tuple[str, ...]] = (
        full.plan(given) | partial.plan(given) | sharded.plan(given)
    )
    order = [cell for cell in in_order(plan, given) if cell.device == "cpu"]
    assert set(order) == {cell for cell in plan if cell.device == "cpu"}
    pairs = [(first, second) for first, second in zip(order[::2], order[1::2], strict=True)]
    assert all(
        (first.cache_state, second.cache_state) == ("cold", "warm") for first, second in pairs
    )
    assert all(first.what.replace("cold", "warm") == second.what for first, second in pairs)
    assert next(cell for cell in order if cell.scenario == "full-load").checkpoint == "lora-1000"
    scenarios = [cell.scenario for cell in order if cell.checkpoint != "bloom-560m"]
    assert scenarios == sorted(scenarios, key=("full-load", "partial-load").index)
    assert [cell.scenario for cell in order[-4:]] == [
        "full-load",
        "full-load",
        "sharded-load",
        "sharded-load",
    ]
    assert min(block_cost(cell, plan[cell], 1) for cell in order) > 0


def test_more_ranks_and_more_bytes_cost_more() -> None:
    def cost(size: int, ranks: int) -> float:
        return block_cost(
            Cell("sharded-load", "bloom-560m", "warm", "cpu", ranks=ranks), sharded.ARMS, size
        )

    assert cost(1_000_000_000, 2) < cost(1_000_000_000, 8)
    assert cost(100_000_000, 8) < cost(1_000_000_000, 8)


def test_a_block_is_whole_when_every_arm() -> None:
    def taken(block: int, loader: str, valid: bool = True) -> Any:
        return make_sample(block=block, loader=loader, valid=valid)

    assert whole_blocks([]) == 0
    assert whole_blocks([taken(0, "a"), taken(0, "b")]) == 1
    assert (
        whole_blocks([taken(0, "a"), taken(0, "b"), taken(1, "a"), taken(1, "b", valid=False)]) == 1
    )
    assert (
        whole_blocks(
            [taken(block, "a") for block in range(3)]
            + [taken(block, "never", valid=False) for block in range(3)]
        )
        == 3
    )
