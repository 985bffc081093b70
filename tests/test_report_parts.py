"""The report of parts, of ranks, and of what was not measured: storage is told beside time, and no
prediction passes for a measurement.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.run_cells import cells_of
from harness.records.cell import Cell
from harness.records.sample import Sample
from harness.report.format import DASH, significant
from harness.report.run_page import write_run_report
from harness.report.sections.summary import plain_answer
from harness.report.terminal import WIDTH, cell_table, run_summary
from tests.test_report import MS, RUN, cell_samples, make_run, row, spoilt

WHOLE, ASKED = 90_000_000, 10_000_000
PART_ARMS = {
    "safetensors-get-slice": (30.0, 40_000_000),
    "torch-load": (60.0, 90_000_000),
    "ceiling-read": (20.0, 10_000_000),
}
"""Loaders of a made-up part: ms to ready, bytes that storage gives."""
SHARE_ARMS = {"safetensors-get-slice": 100.0, "torch-load": 400.0}


def part_samples(
    part: str = "eighth-rows",
    cache_state: str = "cold",
    arms: Mapping[str, Any] = PART_ARMS,
    **more: Any,
) -> list[Sample]:
    samples = []
    for loader, (ready, read) in arms.items():
        figures: dict[str, Any] = {
            "scenario": "partial-load",
            "checkpoint": "all-minilm-l6-v2",
            "bytes": WHOLE,
            "part": part,
            "cache_state": cache_state,
            "requested_bytes": ASKED,
            "storage_read_bytes": read if cache_state == "cold" else 0,
            "resident_before": 0.0 if cache_state == "cold" else 1.0,
            "resident_after": read / WHOLE,
            "mapped_bytes": 0,
        }
        samples += cell_samples(arms={loader: (ready, ready)}, **(figures | more))
    return samples


def share_samples(ranks: int, cache_state: str = "cold", **more: Any) -> list[Sample]:
    """Return samples over ranks: slices take the same time at any number, unpickling everything
    grows with it.
    """

    samples = []
    for loader, ready in SHARE_ARMS.items():
        ms = ready * (ranks if loader == "torch-load" else 1)
        per_rank = [{"ready_s": ms * MS, "started_s": 0.001 * rank} for rank in range(ranks)]
        figures: dict[str, Any] = {
            "scenario": "sharded-load",
            "checkpoint": "bloom-560m",
            "bytes": 1_118_000_000,
            "ranks": ranks,
            "cache_state": cache_state,
            "requested_bytes": 1_118_000_000,
            "storage_read_bytes": 1_118_000_000 if cache_state == "cold" else 0,
            "pss_bytes": 1_118_000_000 // ranks,
            "per_rank": per_rank,
        }
        samples += cell_samples(arms={loader: (ms, ms)}, **(figures | more))
    return samples


def full_samples() -> list[Sample]:
    """Return full loads of three checkpoints in which `torch-load` has the lower fixed cost and the
    higher one for each byte.
    """

    samples = []
    for (checkpoint, size, tensors), state in itertools.product(
        (
            ("lora-1000", 4_096_000, 1000),
            ("gpt2", 497_759_232, 148),
            ("llama-3.2-1b", 2_471_645_184, 146),
        ),
        ("cold", "warm"),
    ):
        arms = {
            "safetensors-load-file": 50 + 0.001 * tensors + 0.1e-6 * size,
            "torch-load": 1 + 0.001 * tensors + 0.5e-6 * size,
            "ceiling-read": 0.2e-6 * size,
        }
        figures: dict[str, Any] = {
            "cache_state": state,
            "bytes": size,
            "tensors": tensors,
            "anonymous_bytes": 0,
        }
        samples += cell_samples(
            arms={loader: (ms, ms) for loader, ms in arms.items()}, checkpoint=checkpoint, **figures
        )
    return samples


def page(tmp_path: Path, samples: Sequence[Sample], **manifest: Any) -> tuple[str, Path]:
    run = make_run(tmp_path, samples, **manifest)
    return write_run_report(run).read_text(encoding="utf-8"), run.path


def exactly(value: float) -> str:
    """Return how a figure is told whose interval has no width."""
    return "{0} [{0}{1}{0}]".format(significant(value), DASH)


def under(text: str, title: str) -> str:
    """Return what stands under a heading, up to the next one of its height or higher."""
    [start] = re.finditer(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def test_a_cold_part_has_its_amplification_in_the_tables(tmp_path: Path) -> None:
    text, path = page(
        tmp_path, part_samples() + part_samples(cache_state="warm") + part_samples("one-tensor")
    )
    section = under(text, "Loading a part")
    overview = section.partition("Read amplification, cold:")[2].partition("Time to ready, cold:")[
        0
    ]
    assert row(overview, "safetensors-get-slice") == ["safetensors-get-slice", "4.00", "4.00"]
    assert row(overview, "torch-load")[1] == "9.00"
    assert row(overview, "ceiling-read")[1] == "1.00"
    cold = section.partition("**eighth-rows** ")[2].partition("As CSV")[0]
    heads = row(cold, "loader")
    assert heads[4:7] == ["amplification", "storage read, MB", "resident after, %"]
    assert row(cold, "safetensors-get-slice")[4:7] == [exactly(4.00), "40.0", "44.4"]
    assert "10.0 MB of 90.0 MB" in cold
    plain = (path / "tables/partial-load-all-minilm-l6-v2-eighth-rows-cold-cpu.csv").read_text()
    found = {line["loader"]: line for line in csv.DictReader(io.StringIO(plain))}
    assert float(found["torch-load"]["amplification"]) == 9.0
    assert int(float(found["torch-load"]["requested_bytes"])) == ASKED
    assert "figures/parts-all-minilm-l6-v2-on-cpu.svg" in text
    assert (path / "figures/parts-all-minilm-l6-v2-on-cpu.svg").is_file()


def test_a_warm_part_has_no_amplification_to_speak_of(tmp_path: Path) -> None:
    section = under(page(tmp_path, part_samples(cache_state="warm"))[0], "Loading a part")
    assert "Read amplification, cold:" not in section
    assert "amplification |" not in section


def test_invalid_samples_give_no_amplification(tmp_path: Path) -> None:
    wrong = spoilt(part_samples(), "not-cold", "torch-load")
    section = under(page(tmp_path, list(wrong))[0], "Loading a part")
    assert (
        row(
            section.partition("Read amplification, cold:")[2].partition("Time to")[0], "torch-load"
        )[1]
        == "missing"
    )
    assert row(section.partition("**eighth-rows** ")[2], "torch-load")[-2:] == ["0 / 6", "missing"]


def test_a_sweep_of_readahead_stands_by_loader(tmp_path: Path) -> None:
    arms = {0: 10_100_000, 8192: 66_000_000}
    samples = [
        sample
        for kb, read in arms.items()
        for sample in part_samples(
            arms=PART_ARMS | {"safetensors-get-slice": (50.0, read)}, read_ahead_kb=kb
        )
    ]
    text, path = page(tmp_path, samples, storage={"read_ahead_kb": 128})
    table = text.partition("Read amplification by the device's readahead, cold:")[2].partition(
        "!["
    )[0]
    found = {
        tuple(line.split(" | ")[1:3]): line.split(" | ")[3]
        for line in table.splitlines()
        if line.startswith("| eighth-rows")
    }
    assert found["safetensors-get-slice", "0"] == exactly(1.01)
    assert found["safetensors-get-slice", "8192"] == exactly(6.60)
    assert found["ceiling-read", "0"] == found["ceiling-read", "8192"] == exactly(1.00)
    assert (path / "figures/read-ahead-all-minilm-l6-v2-on-cpu.svg").is_file()
    assert "8192 KiB of readahead" in plain_answer(cells_of({}, samples))


def test_the_answer_names_the_best_and_the_worst_part() -> None:
    worse = PART_ARMS | {"safetensors-get-slice": (30.0, 75_000_000)}
    small = part_samples(
        "one-layer",
        arms=PART_ARMS | {"safetensors-get-slice": (1.0, 90_000_000)},
        checkpoint="lora-1000",
        bytes=4_096_000,
    )
    answer = plain_answer(
        cells_of({}, part_samples() + part_samples("one-tensor", arms=worse) + small)
    )
    assert (
        f"**{exactly(4.00)}** times the bytes asked for (`eighth-rows`; torch-load then slice takes"
        " 2.00" in answer
    )
    assert f"**{exactly(7.50)}** times the bytes asked for (`one-tensor`" in answer
    assert "lora-1000" not in answer
    assert "This run has no valid sample of a whole checkpoint" in answer


def test_ranks_stand_by_their_number(
    tmp_path: Path,
) -> None:
    samples = [
        sample
        for ranks, state in itertools.product((1, 2, 8), ("cold", "warm"))
        for sample in share_samples(ranks, state)
    ]
    text, path = page(tmp_path, samples, machine={"cpu_count": 2})
    section = under(text, "One share per rank")
    cold = section.partition("Time of the slowest rank to ready, cold:")[2]
    assert row(cold.partition("Time of")[0], "torch-load")[-1] == "3.28 s"
    assert (
        f"with 1.12 GB over 8 ranks on cpu: **{exactly(32)}** times cold and **{exactly(32)}**"
        " times warm" in section
    )
    memory = section.partition("Memory of the largest rank, warm, MB:")[2].partition("![")[0]
    assert row(memory, "safetensors-get-slice")[1:] == ["1120", "559", "140"]
    assert (path / "figures/ranks-bloom-560m-on-cpu.svg").is_file()
    assert "10 minutes by PyTorch weights, 45 s by safetensors, 13.3 times" in section


@pytest.mark.parametrize("state", ["cold", "warm"])
def test_ranks_of_one_cache_state_alone_are_drawn(tmp_path: Path, state: str) -> None:
    _, path = page(tmp_path, share_samples(1, state) + share_samples(4, state))
    drawn = (path / "figures/ranks-bloom-560m-on-cpu.svg").read_text()
    assert f"slowest rank, {state}" in drawn
    assert f"slowest rank, {'warm' if state == 'cold' else 'cold'}" not in drawn


def test_a_run_of_one_number_of_ranks_has_tables_and_no_figure(tmp_path: Path) -> None:
    text, path = page(tmp_path, share_samples(4))
    assert "over 4 ranks on cpu: **" in text
    assert not list(path.glob("figures/ranks-*"))


def test_ranks_without_the_pair_are_compared_with_nothing(tmp_path: Path) -> None:
    text, _ = page(
        tmp_path, [sample for sample in share_samples(4) if sample.loader == "torch-load"]
    )
    assert "This run has no pair of the two to compare with it" in text


def test_a_cell_in_the_terminal_tells_what_storage_gave() -> None:
    cold, warm = cell_table(part_samples()), cell_table(part_samples(cache_state="warm"))
    assert "storage bytes over the bytes asked for" in cold
    assert re.search(r"safetensors-get-slice .* 4\.00 ", cold)
    assert "GB/s" in warm
    assert "storage bytes" not in warm
    assert max(map(len, [*cold.splitlines(), *warm.splitlines()])) <= WIDTH


def test_the_summary_groups_cells_by_scenario() -> None:
    samples = full_samples() + part_samples() + share_samples(4)
    lines = run_summary({}, samples).splitlines()
    assert [
        line.partition(":")[0] for line in lines if "fastest loader to ready in each cell" in line
    ] == [
        "full-load",
        "partial-load",
        "sharded-load",
    ]
    assert any(line.startswith("all-minilm-l6-v2/eighth-rows/cold ") for line in lines)
    assert any(line.startswith("bloom-560m/4-ranks/cold ") for line in lines)


def test_readahead_that_was_put_back_is_said_first() -> None:
    restored = "the readahead of sda was put back to 128 KiB: a run was killed before it could"
    assert run_summary({"read_ahead_restored": restored}, part_samples()).startswith(restored)


def test_cells_that_were_cut_still_have_their_place(tmp_path: Path) -> None:
    key = Cell("partial-load", "gpt2", "cold", "cpu", part="one-layer")
    record = {
        "name": key.name,
        **key.as_json(),
        "status": "cut",
        "reason": "the time was spent",
        "arms": ["torch-load"],
        "left_out": {},
    }
    text, _ = page(
        tmp_path, part_samples(), cells=[record], checkpoints={"gpt2": {"bytes": 497_759_232}}
    )
    assert "| cut | partial-load/gpt2/one-layer/cold/cpu | the time was spent |" in text
    assert RUN in text
