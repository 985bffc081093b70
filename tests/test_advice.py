"""Advice on a person's own checkpoint: what its samples carry is said, and nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.analysis.advice import CONVERTERS, OWN, advice, loaders_for
from harness.analysis.advice_record import Advice, Verdict
from harness.analysis.lines_to_type import LINES, NAMES, PLAIN, Library, Line
from harness.analysis.recommendation import choices
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import cells_of
from harness.checkpoints.sources import person_source
from harness.checkpoints.store import Store
from harness.cli import main
from harness.commands.advise import BLOCKS, CONVERSIONS, limits_of, paths_of, plan_of
from harness.loaders import all_loaders
from harness.machine import shape_mount
from harness.measure.blocks import stop_reason
from harness.records.run_directory import RunDirectory
from harness.records.sample import Sample
from harness.report.advice_text import (
    Paths,
    evidence_lines,
    first_lines,
    paragraphs,
    table_of_lines,
)
from harness.report.sections.recommendation import choice_table
from harness.run.options import parse
from harness.run.plan import block_cost
from tests.helpers import ROOT, make_sample

WARM = {
    "safetensors-load-file": 0.01,
    "torch-load-mmap": 0.03,
    "torch-load": 0.3,
}
COLD = {
    "safetensors-load-file": 0.4,
    "safetensors-prefetch-cache": 0.4,
    "safetensors-load-bytes": 0.4,
    "torch-load-mmap": 0.4,
    "safetensors-pread": 0.4,
    "torch-load": 0.4,
}
PATHS = Paths(
    '"mine.pt"', '"mine.safetensors"', "folder", "weighbridge convert mine.pt mine.safetensors"
)


def samples(
    times: Mapping[str, float],
    cache_state: str,
    blocks: int = 6,
    scenario: str = "full-load",
    jitter: float = 0.02,
    **overrides: Any,
) -> list[Sample]:
    """Return blocks in which each loader takes about its time, no two blocks alike."""
    figures: dict[str, Any] = {
        "bytes": 498_000_000,
        "anonymous_bytes": 0,
        "mapped_bytes": 498_000_000,
        "peak_rss_bytes": 670_000_000,
        "peak_growth_bytes": 500_000_000,
    }
    return [
        make_sample(
            scenario=scenario,
            checkpoint="mine",
            cache_state=cache_state,
            loader=loader,
            block=block,
            returned_s=seconds,
            ready_s=seconds * (1 + jitter * ((block + 3 * number) % 5 - 2)),
            **figures | overrides,
        )
        for block, (number, (loader, seconds)) in itertools.product(
            range(blocks), enumerate(times.items())
        )
    ]


def advised(
    warm: Mapping[str, float] = WARM,
    cold: Mapping[str, float] = COLD,
    given: str = "torch-zip",
    convert: float | None = 1.0,
    blocks: int = 6,
) -> Advice:
    """Return the advice that such samples give."""
    taken = samples(warm, "warm", blocks) + samples(cold, "cold", blocks)
    if convert:
        taken += samples({"convert": convert}, "warm", 3, scenario="conversion")
    return advice({"storage": {"read_ahead_kb": 8192}}, cells_of({}, taken), given)


def lines(record: Advice) -> tuple[str, str, str]:
    """Return the three lines of an advice."""
    return first_lines(record, PATHS)


def without(times: Mapping[str, float], family: str = "torch") -> dict[str, float]:
    """Return the times of the loaders of one format only."""
    return {name: time for name, time in times.items() if not name.startswith(family)}


def test_one_loader_serves_cold_and_warm_where_it_can() -> None:
    record = advised()
    assert record.cold.loader == record.warm.loader == "safetensors-load-file"
    assert (record.cold.verdict, record.warm.verdict) == (Verdict.ALIKE, Verdict.FASTER)
    cold, warm, typed = lines(record)
    assert "no measurable difference from torch.load (" in cold
    assert re.search(r"(29|30|31) times as fast as torch.load \(\S+ ms\)", warm)
    assert typed.startswith("Type: weighbridge convert mine.pt mine.safetensors, then ")
    assert 'safetensors.torch.load_file("mine.safetensors")' in typed


def test_a_loader_faster_cold_alone_is_advised_for_cold() -> None:
    record = advised(cold=COLD | {"safetensors-prefetch-cache": 0.2})
    assert record.cold.loader == "safetensors-prefetch-cache"
    assert record.warm.loader == "safetensors-load-file"
    cold, _, typed = lines(record)
    assert "50 % sooner" in cold or "2.0 times as fast" in cold
    assert (
        typed.startswith("Type (for cold") and "vLLM: --safetensors-load-strategy prefetch" in typed
    )
    assert 'warm: safetensors.torch.load_file("mine.safetensors")' in typed


def test_a_saving_of_less_than_half_is_told_in_per_cent() -> None:
    cold, _, _ = lines(advised(cold=COLD | {"torch-load": 0.5}))
    assert re.search(r"ready in \S+ ms, (19|20|21) % sooner than torch.load \(\S+ ms\)", cold)


def test_what_is_in_use_is_kept_where_nothing_is_faster() -> None:
    record = advised(warm=dict.fromkeys(WARM, 0.1))
    assert record.cold.verdict is record.warm.verdict is Verdict.KEEP
    cold, _, typed = lines(record)
    assert cold.startswith("Cold: keep torch.load") and "convert" not in typed
    assert 'torch.load("mine.pt", weights_only=True)' in typed


def test_a_safetensors_file_is_not_converted() -> None:
    record = advised(without(WARM), without(COLD), "safetensors", None)
    assert record.conversion is None and not record.convert_first
    assert "nothing to convert" in "\n".join(paragraphs(record))
    assert 'load_file("mine.pt")' in lines(record)[2], "the person's own file"


def test_five_blocks_are_too_few_to_decide() -> None:
    record = advised(blocks=5)
    assert record.cold.verdict is record.warm.verdict is Verdict.UNDECIDED
    assert "5 blocks are too few to tell" in lines(record)[0]


def test_every_library_gets_a_line_of_the_advised_format() -> None:
    record = advised(cold=COLD | {"safetensors-pread": 0.2})
    of_library = {line.library: line for line in record.lines}
    assert of_library[Library.SAFETENSORS].text.endswith('backend="pread")')
    assert of_library[Library.SAFETENSORS].advised
    for library in (Library.TRANSFORMERS, Library.DIFFUSERS, Library.VLLM, Library.SGLANG):
        assert not of_library[library].advised
        assert of_library[library].loader.startswith("safetensors")
    assert Library.TORCH not in of_library


def test_a_conversion_pays_off_after_so_many_loads_or_never() -> None:
    paid = advised().conversion
    assert paid and paid.cost_s and paid.cost_s.low is None, "three blocks give no interval"
    assert paid.warm_loads == 4 and paid.cold_loads is None
    text = "\n".join(paragraphs(advised()))
    assert re.search(
        r"Each warm load then saves 2[89]\d ms, so it pays off after 4 warm loads", text
    )
    assert "A cold load shows no measurable saving." in text
    slower = advised(warm=WARM | {"torch-load": 0.005})
    assert "A warm load saves no time." in "\n".join(paragraphs(slower))
    assert "Its cost was not measured" in "\n".join(paragraphs(advised(convert=None)))


def test_what_the_file_allows_as_it_is_stands_beside_conversion() -> None:
    text = "\n".join(paragraphs(advised()))
    assert re.search(
        r"Without converting, torch.load\(mmap=True\) is ready in \S+ ms, \S+ times", text
    )


def test_the_limit_to_ask_for_is_above_the_peak() -> None:
    memory = advised().memory
    assert memory and memory.ask_for_bytes == 800_000_000
    assert memory.process_bytes == 170_000_000 and memory.mapped_bytes == 498_000_000
    assert memory.ask_for_bytes >= 1.1 * memory.peak_bytes


def test_the_bottleneck_is_named_where_a_ceiling_was_measured() -> None:
    cold = {"safetensors-load-file": 0.4, "torch-load": 0.9, "ceiling-read": 0.38}
    record = advised(cold=cold)
    assert [entry.what for entry in record.bottlenecks] == ["storage", "page faults"]
    assert re.search(r"9\d % of the 1.3\d GB/s", "\n".join(paragraphs(record)))


def test_shaped_storage_is_named_in_the_cold_line() -> None:
    taken = samples(COLD, "cold", storage="network-disk") + samples(WARM, "warm")
    manifest = {"shapes": {"network-disk": {"words": "1 ms a request"}}}
    record = advice(manifest, cells_of(manifest, taken), "torch-zip")
    cold, warm, _ = lines(record)
    assert cold.startswith("Cold, on network-disk (1 ms a request):")
    assert warm.startswith("Warm: ")


def test_where_cold_was_refused_the_reason_stands_in_its_place() -> None:
    entry = {
        "scenario": "full-load",
        "checkpoint": "mine",
        "cache_state": "cold",
        "device": "cpu",
        "status": "refused",
        "reason": "tmpfs cannot be made cold",
    }
    manifest = {"cells": [entry]}
    record = advice(manifest, cells_of(manifest, samples(WARM, "warm")), "torch-zip")
    cold, _, typed = lines(record)
    assert cold == "Cold: not measured: refused: tmpfs cannot be made cold."
    assert "load_file" in typed


def test_a_busy_machine_is_named_where_it_spoilt_every_sample() -> None:
    taken = samples(COLD, "cold", valid=False, reason="busy")
    record = advice({}, cells_of({}, taken), "torch-zip")
    cold, _, typed = lines(record)
    assert "busy" in cold and "try again" in cold and "nothing" in typed
    assert "0 of 36 samples are valid" in "\n".join(evidence_lines(record))


def test_every_loader_that_is_measured_stands_in_the_evidence() -> None:
    text = "\n".join(evidence_lines(advised()))
    assert all(NAMES[loader] in text for loader in COLD)
    assert "39 of 39" not in text and "57 of 57 samples are valid" in text


def test_json_holds_the_same_facts() -> None:
    record = json.loads(json.dumps(asdict(advised())))
    assert record["warm"]["loader"] == "safetensors-load-file"
    assert record["warm"]["times_as_fast"]["median"] == pytest.approx(30, rel=0.1)
    assert {line["library"] for line in record["lines"]} == {
        "safetensors",
        "transformers",
        "Diffusers",
        "vLLM",
        "SGLang",
    }


@pytest.mark.parametrize(("megabytes", "enough"), [(1, True), (5000, False)])
def test_a_large_checkpoint_takes_the_blocks_of_an_interval(
    megabytes: int, *, enough: bool, tmp_path: Path
) -> None:
    file = tmp_path / "mine.pt"
    with file.open("wb") as sparse:
        sparse.truncate(megabytes * 1_000_000)
    options = parse({"model": [str(file)]})
    plan = plan_of(options, "torch-zip")
    limits = limits_of(plan, options)
    for cell, limit in limits.items():
        if cell.scenario == "conversion":
            assert limit.blocks == CONVERSIONS
            continue
        block_s = block_cost(cell, plan[cell], megabytes * 1_000_000)
        assert stop_reason(BLOCKS[0] - 1, BLOCKS[0] - 1, 5 * block_s, limit, False) is None
        stopped = stop_reason(BLOCKS[0], BLOCKS[0], 6 * block_s, limit, False)
        assert stopped == (None if enough else "budget")


@pytest.mark.parametrize(
    ("given", "converter"),
    [("torch-zip", "convert"), ("torch-legacy", "convert-legacy"), ("safetensors", None)],
)
def test_a_probe_holds_what_a_file_can_be_loaded_by(
    tmp_path: Path, given: str, converter: str | None
) -> None:
    file = tmp_path / "mine.pt"
    file.write_bytes(b"x")
    plan = plan_of(parse({"model": [str(file)]}), given)
    assert [arms for cell, arms in plan.items() if cell.scenario == "conversion"] == (
        [(converter,)] if converter else []
    )
    formats = {given, "safetensors"}
    for cell, arms in plan.items():
        loaders = [name for name in arms if not name.startswith("ceiling-")]
        if cell.scenario == "full-load":
            assert OWN[given] in loaders and "safetensors-load-file" in loaders
            assert {all_loaders()[name][1].format for name in loaders} == formats


def test_a_probe_asks_storage_for_its_cold_cells_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"x")
    plan = plan_of(parse({"model": [str(file)], "storage": "network-disk"}), "safetensors")
    assert {(cell.cache_state, cell.storage) for cell in plan} == {
        ("cold", "network-disk"),
        ("warm", "as-is"),
    }


def test_lines_name_the_files_that_the_person_has(tmp_path: Path) -> None:
    file = tmp_path / "pytorch model.bin"
    torch.save({"w": torch.ones(4)}, file)
    paths = paths_of(str(file), "ema")
    assert json.loads(paths.file) == str(file)
    assert paths.convert.endswith("--key ema") and "'" in paths.convert
    assert json.loads(paths.converted).endswith(".safetensors")
    assert paths_of("org/name@main").convert == "weighbridge convert org/name@main name-safetensors"


def test_a_folder_without_weights_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", str(tmp_path)]) == 2
    assert "the folder holds no weights" in capsys.readouterr().err


def test_what_is_not_there_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "nowhere.safetensors"]) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("storage", "words"),
    [("moon", "no such storage"), ("cloud-volume,network-disk", "one at a time")],
)
def test_storage_is_one_that_there_is(
    storage: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.pt"
    torch.save({"w": torch.ones(4)}, file)
    assert main(["advise", str(file), "--storage", storage]) == 2
    assert words in capsys.readouterr().err


def test_storage_that_cannot_be_had_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.pt"
    torch.save({"w": torch.ones(4)}, file)
    monkeypatch.setattr(shape_mount, "refused", lambda: "there is no FUSE")
    places = ("--store", str(tmp_path / "store"), "--results", str(tmp_path / "results"))
    assert main(["advise", str(file), "--storage", "network-disk", *places]) == 2
    printed = capsys.readouterr()
    assert "storage network-disk refused: there is no FUSE" in printed.err and not printed.out


def _callable(call: str) -> Any:
    """Return what `module:name.of.it` names; skip the test where the library is not installed."""
    module, _, names = call.partition(":")
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    taken = importlib.import_module(module)
    for name in names.split("."):
        taken = getattr(taken, name)
    return taken


def missing_arguments(line: Line) -> list[str]:
    """Return the arguments that a line names and the installed library's call does not take."""
    assert line.call
    call = _callable(line.call)
    source = inspect.getsource(call)
    return [
        name
        for name in line.arguments
        if name not in inspect.signature(call).parameters and f'kwargs.pop("{name}"' not in source
    ]


@pytest.mark.parametrize(
    "line",
    [line for line in LINES if line.call],
    ids=lambda line: f"{line.library}-{line.loader}",
)
def test_the_installed_library_takes_what_a_line_names(line: Line) -> None:
    assert missing_arguments(line) == []
    assert all(f"{name}=" in line.text for name in line.arguments)


def test_an_argument_that_no_library_takes_is_found() -> None:
    line = Line("torch-load", Library.TORCH, "", "", "torch:load", ("mmap", "no_such_argument"))
    assert missing_arguments(line) == ["no_such_argument"]


def test_every_flag_names_the_revision_it_was_read_in() -> None:
    for line in LINES:
        if line.call is None:
            assert re.match(rf"{line.library} [0-9a-f]{{7}}, \S+", line.source)
            assert all(flag.startswith("--") for flag in line.arguments)


def test_every_advised_loader_has_a_name_and_a_line() -> None:
    measured = {
        loader
        for given in OWN
        for state in ("cold", "warm")
        for loader in loaders_for(given, 1000, "cold" if state == "cold" else "warm", "cpu")
    }
    assert measured == set(NAMES) == {line.loader for line in LINES}
    assert measured <= set(all_loaders())
    without_plain = measured - {line.loader for line in LINES if line.library in PLAIN}
    assert without_plain == {"safetensors-prefetch-cache"}
    assert set(CONVERTERS) < set(OWN)


def test_the_page_on_advice_holds_the_table_of_the_code() -> None:
    page = (ROOT / "docs/advice.md").read_text(encoding="utf-8")
    assert table_of_lines() in page


@pytest.mark.slow
def test_a_checkpoint_from_outside_is_advised_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.pt"
    torch.save({f"layer.{number}": torch.randn(64, 64) for number in range(20)}, file)
    before = file.read_bytes()
    places = ("--store", str(tmp_path / "store"), "--results", str(tmp_path / "results"))
    assert main(["advise", str(file), "--rounds", "1", *places]) == 0
    text = capsys.readouterr().out
    cold, warm, typed, blank = text.splitlines()[:4]
    assert cold.startswith("Cold: ") and warm.startswith("Warm: ") and typed.startswith("Type")
    assert not blank and "Converting to safetensors" in text
    (page,) = (tmp_path / "results").glob("*/report.md")
    assert page.name in text and "Loading everything" in page.read_text(encoding="utf-8")
    assert "nox" not in text + page.read_text(encoding="utf-8")
    assert file.read_bytes() == before


@pytest.mark.slow
def test_json_is_one_document_also_of_shaped_storage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if reason := shape_mount.refused():
        pytest.skip(reason)
    file = tmp_path / "mine.safetensors"
    save_file({f"layer.{number}": torch.randn(64, 64) for number in range(20)}, file)
    places = ("--store", str(tmp_path / "store"), "--results", str(tmp_path / "results"))
    choice = ("--rounds", "1", "--storage", "network-disk", "--json")
    assert main(["advise", str(file), *choice, *places]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["first_lines"]) == 3 and Path(record["run"], "report.md").is_file()
    assert record["cold"]["storage"].startswith("network-disk (")
    assert record["conversion"] is None and record["format"] == "safetensors"


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
    (choice,) = choices([evidence(samples(COLD | {"torch-load-mmap": 0.3999}, "cold"))])
    assert choice.take.loader == "safetensors-load-file" and len(choice.alike) == len(COLD)


def test_a_loader_known_to_be_faster_is_recommended() -> None:
    (choice,) = choices([evidence(samples(COLD | {"torch-load-mmap": 0.2}, "cold"))])
    assert choice.take.loader == "torch-load-mmap"
    assert "**torch-load-mmap**" in choice_table([choice]).to_string()


def test_of_several_runs_the_one_with_more_blocks_is_chosen_from() -> None:
    few, many = (
        evidence(samples(WARM, "warm", 6), "20250102T000000Z-few"),
        evidence(samples(WARM, "warm", 8), "20250101T000000Z-many"),
    )
    assert [choice.run for choice in choices([few, many])] == ["20250101T000000Z-many"]
    assert choices([evidence(samples(WARM, "warm"), paired_run=True)]) == []
    assert choices([evidence(samples(WARM, "warm", 5))]) == [], "too few blocks to tell"
