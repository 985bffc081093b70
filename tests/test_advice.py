"""Advice on a person's own checkpoint: what its samples carry is said, and nothing else."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.analysis.recommendation import choices
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import cells_of
from harness.checkpoints.sources import person_source
from harness.checkpoints.store import Store
from harness.cli import main
from harness.commands.advise import BLOCKS, blocks_for, plan_of
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from harness.report.advice_text import LOADERS, advice
from harness.report.sections.recommendation import choice_table
from harness.run.options import parse
from tests.helpers import make_sample

WARM = {
    "safetensors-load-file": 0.01,
    "torch-load-mmap": 0.03,
    "safetensors-pread": 0.29,
    "torch-load": 0.3,
}
COLD = {
    "safetensors-load-file": 0.4,
    "torch-load-mmap": 0.4,
    "safetensors-pread": 0.4,
    "torch-load": 0.4,
}


def samples(
    times: Mapping[str, float],
    cache_state: str,
    blocks: int = 6,
    scenario: str = "full-load",
    jitter: float = 0.02,
) -> list[Sample]:
    """Return blocks in which each loader takes about its time, no two blocks alike."""
    return [
        make_sample(
            scenario=scenario,
            checkpoint="mine",
            cache_state=cache_state,
            loader=loader,
            block=block,
            returned_s=seconds,
            ready_s=seconds * (1 + jitter * ((block + 3 * number) % 5 - 2)),
            bytes=498_000_000,
            anonymous_bytes=0,
            mapped_bytes=498_000_000,
        )
        for block, (number, (loader, seconds)) in itertools.product(
            range(blocks), enumerate(times.items())
        )
    ]


def said(
    warm: Mapping[str, float] = WARM,
    cold: Mapping[str, float] | None = None,
    given: str = "torch-zip",
    convert: float | None = 1.0,
    blocks: int = 6,
) -> str:
    """Return the advice that such samples give."""
    taken = samples(warm, "warm", blocks) + samples(COLD if cold is None else cold, "cold", blocks)
    taken += samples({"convert": convert}, "warm", scenario="conversion") if convert else []
    return "\n".join(advice({"storage": {"read_ahead_kb": 8192}}, cells_of({}, taken), given))


def test_one_loader_is_named_where_it_is_the_one_to_take_cold() -> None:
    text = said()
    assert text.startswith("**Use `safetensors-load-file`, cold and warm.**")
    assert "not significantly different from" in text


def test_two_are_named_where_the_first_load_wants_another() -> None:
    text = said(cold=COLD | {"torch-load-mmap": 0.2})
    assert text.startswith("**Use `torch-load-mmap` cold and `safetensors-load-file` warm.**")


def test_five_blocks_are_called_a_quick_look() -> None:
    assert "a quick look with too few blocks to tell it from the others" in said(
        blocks=5, convert=None
    )


def test_a_conversion_is_paid_back_after_so_many_loads_or_never() -> None:
    text = said()
    saving = 0.3 - 0.01
    assert re.search(r"Each warm load saves 29\d ms, so it pays off after 4 warm loads", text), (
        text,
        saving,
    )
    assert "A cold load saves no time that this run can tell" in text
    assert "A warm load saves no time." in said(warm=WARM | {"torch-load": 0.005})
    assert "What it costs was not measured" in said(convert=None)


def test_what_is_safetensors_already_needs_no_conversion() -> None:
    text = said(given="safetensors", convert=None)
    assert "it is safetensors already, so nothing needs to be" in text
    assert "holds no code to run" in text and "paid back" not in text


@pytest.mark.parametrize(
    ("mapped", "words"),
    [(0.8, "mapping hurts"), (0.2, "mapping helps"), (0.4, "no difference that was told")],
)
def test_whether_mapping_hurts_is_told_of_cold_loads(mapped: float, words: str) -> None:
    text = said(cold=COLD | {"torch-load-mmap": mapped, "safetensors-load-file": mapped})
    line = next(line for line in text.splitlines() if line.startswith("Mapping on this storage"))
    assert line.count(words) == 2
    assert "8,192 KiB ahead" in line


def test_where_cold_was_refused_the_reason_stands_in_its_place() -> None:
    entry = {
        "scenario": "full-load",
        "checkpoint": "mine",
        "cache_state": "cold",
        "device": "cpu",
        "status": "refused",
        "reason": "tmpfs cannot be made cold",
    }
    text = "\n".join(
        advice({"cells": [entry]}, cells_of({"cells": [entry]}, samples(WARM, "warm")), "torch-zip")
    )
    assert "Not measured: full-load/mine/cold/cpu: refused: tmpfs cannot be made cold." in text
    assert "whether it hurts on this storage shows cold alone" in text


def test_without_a_valid_sample_nothing_is_advised() -> None:
    assert advice({}, [], "torch-zip") == ["Nothing can be advised: no load gave a valid sample."]


def test_a_small_checkpoint_is_given_more_blocks() -> None:
    assert [blocks_for(seconds) for seconds in (0.1, 4.0, 60.0)] == [BLOCKS[1], 9, BLOCKS[0]]


@pytest.mark.parametrize(
    ("given", "converter"),
    [("torch-zip", "convert"), ("torch-legacy", "convert-legacy"), ("safetensors", None)],
)
def test_a_pickle_is_converted_in_the_probe_by_its_own_converter(
    tmp_path: Path, given: str, converter: str | None
) -> None:
    file = tmp_path / "mine.pt"
    file.write_bytes(b"x")
    plan = plan_of(parse({"model": [str(file)]}), given)
    assert [arms for cell, arms in plan.items() if cell.scenario == "conversion"] == (
        [(converter,)] if converter else []
    )
    assert all(
        set(LOADERS) <= set(arms) for cell, arms in plan.items() if cell.scenario == "full-load"
    )


def test_a_folder_without_weights_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(tmp_path)]) == 2
    assert "the folder holds no weights" in capsys.readouterr().err


def test_what_is_not_there_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "nowhere.safetensors"]) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_from_outside_is_advised_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.pt"
    torch.save({f"layer.{number}": torch.randn(64, 64) for number in range(20)}, file)
    before = file.read_bytes()
    assert (
        main(
            [
                "advise",
                str(file),
                "--rounds",
                "1",
                "--store",
                str(tmp_path / "store"),
                "--results",
                str(tmp_path / "results"),
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert text.splitlines()[1].startswith("Use `") and "Converting to safetensors" in text
    (page,) = (tmp_path / "results").glob("*/report.md")
    assert page.name in text and "Loading everything" in page.read_text(encoding="utf-8")
    assert file.read_bytes() == before


def test_what_writes_beside_a_file_is_given_a_link_in_the_store(
    tmp_path: Path,
) -> None:
    own = tmp_path / "own/weights.bin"
    own.parent.mkdir()
    torch.save({"w": torch.ones(64, 64)}, own)
    store = Store(tmp_path / "store")
    checkpoint = store.checkpoint(person_source(own, "own"), ["torch-zip", "safetensors"])
    store.linked(checkpoint)
    linked = store.linked(checkpoint)
    (link,) = linked.artifacts["torch-zip"].files
    assert link.is_relative_to(store.folder) and link.samefile(own)
    assert linked.artifacts["safetensors"] == checkpoint.artifacts["safetensors"], (
        "what the store made is its own already"
    )


def evidence(
    taken: Sequence[Sample], name: str = "20250101T000000Z-test", paired_run: bool = False
) -> RecordedRun:
    """Return a run of these samples."""
    manifest: dict[str, Any] = {
        "options": {"paired_run": {"kind": "history"} if paired_run else None}
    }
    return RecordedRun(
        RunDirectory(Path(name)), manifest, tuple(taken), tuple(cells_of({}, taken)), (), ()
    )


def test_of_loaders_equally_fast_the_safe_one_is_recommended() -> None:
    (found,) = choices([evidence(samples(COLD | {"torch-load-mmap": 0.3999}, "cold"))])
    assert found.take.loader == "safetensors-load-file" and len(found.alike) == 4


def test_a_loader_known_to_be_faster_is_recommended() -> None:
    (found,) = choices([evidence(samples(COLD | {"torch-load-mmap": 0.2}, "cold"))])
    assert found.take.loader == "torch-load-mmap"
    assert "**torch-load-mmap**" in choice_table([found]).to_string()


def test_of_several_runs_the_one_with_more_blocks_is_chosen_from() -> None:
    few, many = (
        evidence(samples(WARM, "warm", 6), "20250102T000000Z-few"),
        evidence(samples(WARM, "warm", 8), "20250101T000000Z-many"),
    )
    assert [one.run for one in choices([few, many])] == ["20250101T000000Z-many"]
    assert choices([evidence(samples(WARM, "warm"), paired_run=True)]) == []
    assert choices([evidence(samples(WARM, "warm", 5))]) == [], "too few blocks to tell"
