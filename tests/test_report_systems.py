"""The report on pipelines, whole processes and conversion: every figure beside what it is held
against.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.analysis.documented_figures import PIPELINE_RATIO
from harness.analysis.payback import payback_frame
from harness.analysis.run_cells import MeasuredCell, cells_of
from harness.records.sample import Sample
from harness.report.format import DASH
from harness.report.section_writer import SectionWriter
from harness.report.sections import conversion, pipeline_load, process_start
from harness.report.sections.pipeline_load import compared
from harness.report.sections.process_start import waited
from harness.report.terminal import WIDTH, cell_table, run_summary
from harness.workers.process_worker import PHASES
from tests.helpers import make_sample, recorded_run

ON_THE_CPU = tuple(phase for phase in PHASES if phase != "context")

PIPELINE = {
    "scenario": "pipeline-load",
    "checkpoint": "stable-diffusion-2.1",
    "bytes": 2_580_000_000,
}
TIMES = {"diffusers-safetensors": (0.8, 1.0, 1.5), "diffusers-bin": (0.4, 1.2, 1.8)}
"""Loaders with their times to returned, ready and module ready, in s: pickle's call returns sooner
and everything else comes later.
"""


def _pipeline(blocks: int = 6, cache_state: str = "warm", **overrides: Any) -> list[Sample]:
    return [
        make_sample(
            **{
                **PIPELINE,
                "loader": loader,
                "cache_state": cache_state,
                "block": block,
                "returned_s": returned,
                "ready_s": ready,
                "module_ready_s": run,
                **overrides,
            }
        )
        for block in range(blocks)
        for loader, (returned, ready, run) in TIMES.items()
    ]


def _starts(blocks: int = 6) -> list[Sample]:
    shares = {
        "safetensors-load-file": (0.1, 1.5, 0.2, 0.1, 0.1),
        "torch-load": (0.1, 1.5, 0.0, 0.2, 0.3),
    }
    return [
        make_sample(
            scenario="process-start",
            checkpoint="gpt2",
            loader=loader,
            block=block,
            ready_s=sum(times),
            returned_s=sum(times),
            phases=dict(zip(ON_THE_CPU, times, strict=True)),
        )
        for block in range(blocks)
        for loader, times in shares.items()
    ]


def _loads(
    loader: str, ready: Sequence[float], scenario: str = "full-load", cache_state: str = "warm"
) -> list[Sample]:
    return [
        make_sample(
            scenario=scenario,
            checkpoint="gpt2",
            loader=loader,
            block=block,
            ready_s=seconds,
            cache_state=cache_state,
        )
        for block, seconds in enumerate(ready)
    ]


def _conversion(cache_state: str = "warm") -> list[Sample]:
    times = {"file-copy": 1.0, "convert": 1.2, "convert-and-verify": 1.5}
    return [
        sample
        for arm, seconds in times.items()
        for sample in _loads(arm, [seconds] * 6, "conversion", cache_state)
    ]


def _cells(samples: list[Sample]) -> list[MeasuredCell]:
    return cells_of({}, samples)


def _page(blocks: Sequence[str]) -> str:
    return "\n\n".join(blocks).replace(DASH, "-")


def test_the_page_s_figures_stand_beside_all_three_clocks_cold(
    tmp_path: Path,
) -> None:
    page = _page(
        pipeline_load.section(
            SectionWriter(tmp_path, "", 1),
            recorded_run(tmp_path, [*_pipeline(), *_pipeline(cache_state="cold")]),
        )
    )
    assert (
        "| the page, Stable Diffusion 2.1 | not said | not said | 2.66 s | 2.03 s |"
        f" {PIPELINE_RATIO:.2f} |" in page
    )
    for state in ("cold", "warm"):
        what = f"| diffusers-bin over diffusers-safetensors | {state} |"
        assert f"{what} returned | 400 ms | 800 ms | 0.500 [0.500-0.500] |" in page
        assert f"{what} ready | 1.20 s | 1.00 s | 1.20 [1.20-1.20] |" in page
        assert f"{what} module ready | 1.80 s | 1.50 s | 1.20 [1.20-1.20] |" in page
    assert (tmp_path / "figures/pipeline-stable-diffusion-2.1.svg").read_text().startswith("<?xml")
    frame = pd.read_csv(tmp_path / "tables/pipeline-load-stable-diffusion-2.1-warm-cpu.csv")
    assert dict(zip(frame["loader"], frame["module_ready_s"], strict=True)) == {
        "diffusers-safetensors": 1.5,
        "diffusers-bin": 1.8,
    }
    assert list(frame["ratio_module_ready"]) == pytest.approx([1.0, 1.2])


def test_a_pipeline_in_one_format_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    samples = [sample for sample in _pipeline() if sample.loader == "diffusers-bin"]
    cells = _cells(samples)
    page = _page(
        pipeline_load.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path, samples))
    )
    assert "the page, Stable Diffusion" not in page
    assert "no reference" in page
    assert compared(cells) is None


def test_the_answer_tells_the_largest_pipeline() -> None:
    small = _pipeline(checkpoint="small-stable-diffusion", bytes=115_000_000)
    said = (compared(_cells([*small, *_pipeline()])) or "").replace(DASH, "-")
    assert "stable-diffusion-2.1 (2.58 GB" in said
    assert (
        "**0.500 [0.500-0.500]** by *returned*, **1.20 [1.20-1.20]** by *ready*, **1.20"
        " [1.20-1.20]** by *module ready*" in said
    )
    assert f"{PIPELINE_RATIO:.2f} times" in said


def test_a_terminal_shows_the_third_clock() -> None:
    table = cell_table(_pipeline())
    assert "ratio module ready" in table
    assert "% of ceiling" not in table
    assert all(len(line) <= WIDTH for line in table.splitlines())
    summary = run_summary({}, [*_pipeline(), *_conversion()])
    assert "diffusers-bin over diffusers-safetensors" in summary
    assert "convert over file-copy" in summary
    assert all(len(line) <= WIDTH for line in summary.splitlines())


def test_a_process_s_phases_stand_with_their_shares_of_the_whole(tmp_path: Path) -> None:
    samples = _starts()
    cells = _cells(samples)
    page = _page(
        process_start.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path, samples))
    )
    assert (
        "| torch-load | 2.10 [2.10-2.10] | 1.05 [1.05-1.05] | 100 (4.76 %) | 1500 (71.4 %) | 0 (0"
        " %) | 200 (9.52 %) | 300 (14.3 %) |" in page
    )
    frame = pd.read_csv(tmp_path / "tables/process-start-gpt2-warm-cpu.csv")
    assert list(frame["load_s"]) == [0.1, 0.3]
    assert list(frame["load_share"]) == pytest.approx([0.05, 0.3 / 2.1])
    assert (tmp_path / "figures/process-start-gpt2.svg").exists()
    assert "of which the load is 14.3 %" in (waited(cells) or "")


def test_a_conversion_is_paid_back_by_what_its_loads_save() -> None:
    """(1.2 s of conversion) over (0.31 s - 0.01 s a load) is 4 loads.

    With verification 1.5 s and 5.
    """

    loads = [*_loads("torch-load", [0.31] * 6), *_loads("safetensors-load-file", [0.01] * 6)]
    (row,) = payback_frame(_cells([*loads, *_conversion()])).to_dict("records")
    assert (row["loads_to_pay_conversion"], row["loads_to_pay_both"]) == (4, 5)
    assert (row["convert_s"], row["saving_s"]) == (1.2, pytest.approx(0.3))


@pytest.mark.parametrize("pickle", [[0.05] * 6, [0.05, 0.2, 0.05, 0.2, 0.09, 0.12]])
def test_a_conversion_does_not_pay_where_pickle_is_as_fast(
    tmp_path: Path, pickle: list[float]
) -> None:
    loads = [*_loads("torch-load", pickle), *_loads("safetensors-load-file", [0.1] * 6)]
    samples = [*loads, *_conversion()]
    cells = _cells(samples)
    (row,) = payback_frame(cells).to_dict("records")
    assert pd.isna(row["loads_to_pay_conversion"])
    assert "| not known to | not known to |" in _page(
        conversion.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path, samples))
    )


def test_a_conversion_without_a_full_load_of_its_checkpoint(
    tmp_path: Path,
) -> None:
    loads = [*_loads("torch-load", [0.3] * 6), *_loads("safetensors-load-file", [0.1] * 6)]
    samples = [*loads, *_conversion("cold")]
    cells = _cells(samples)
    assert payback_frame(cells).empty
    page = _page(
        conversion.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path, samples))
    )
    assert "paid back" not in page
    assert "| convert | 1.20 [1.20-1.20] | 1.20 [1.20-1.20] |" in page
