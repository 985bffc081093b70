"""A run: what it takes on, what it leaves out by name, and how its time is shared."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import save_file

from harness.analysis.run_cells import cells_of
from harness.checkpoints import store
from harness.errors import WeighbridgeError
from harness.loaders import loaders
from harness.machine import page_cache, proof
from harness.records.cell import Cell
from harness.records.run_directory import TRACEBACKS
from harness.records.sample import Sample
from harness.report.run_page import write_run_report
from harness.run import open_run, resources
from harness.run import run as session
from harness.run.options import PROFILES, Options, model_name, parse
from harness.run.plan import Plan, loader_of
from harness.run.run import Run

pytestmark = pytest.mark.slow

COLD, WARM = (Cell("full-load", "lora-1000", state, "cpu") for state in ("cold", "warm"))
ARMS = ("safetensors-load-file", "ceiling-read")
BROKEN = "tests.misbehaving"


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.machine.lock.lock_path", lambda: tmp_path / "lock")


def options(tmp_path: Path, **given: str) -> Options:
    return parse({"store": str(tmp_path / "store"), "results": str(tmp_path / "results"), **given})


def run(tmp_path: Path, plan: Plan, **given: str) -> Run:
    return Run(options(tmp_path, **given), plan, ["pytest"], lambda _: None, lambda _: None)


def test_a_loader_whose_memory_does_not_fit_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {WARM: (*ARMS, "pickle-load")}
    monkeypatch.setattr(
        resources, "room", lambda: 12_000_000
    )  # 4.1 MB of tensors and 4.1 MB of file fit, three times the tensors do not
    with run(tmp_path, plan, rounds="6") as running:
        result = running.measure(WARM)
    assert {sample.loader for sample in result.samples} == set(ARMS)
    assert list(result.left_out) == ["pickle-load"]
    assert "GB of memory" in result.left_out["pickle-load"]


def test_a_cell_that_every_loader_is_left_out_of_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "room", lambda: 0)
    with run(tmp_path, {WARM: ARMS}, rounds="6") as running:
        result = running.measure(WARM)
    assert list(result.left_out) == list(ARMS)
    assert result.reason == "every loader is left out"
    assert running.manifest["cells"][0]["status"] == "refused"


def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = Cell("full-load", "llama-3.2-1b", "warm", "cpu")
    monkeypatch.setattr(store, "available_memory", lambda: 1_000_000_000)
    with run(tmp_path, {big: ARMS, WARM: ARMS}, rounds="6") as running:
        refused, measured = running.measure(big), running.measure(WARM)
    assert refused.samples == ()
    assert refused.reason == "llama-3.2-1b: making it needs 5.4 GB of memory, 1.0 GB can be had"
    assert len(measured.samples) == 12
    assert [cell["status"] for cell in running.manifest["cells"]] == ["refused", "done"]


def test_cells_share_the_time_of_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        session, "precise", lambda _: True
    )  # the first cell is done after 6 blocks, long before its share is spent
    with run(tmp_path, {COLD: ARMS, WARM: ARMS}, profile="smoke") as running:
        running.measure(COLD)
        running.measure(WARM)
    cells: Any = running.manifest["cells"]
    cold, warm = cells
    assert (cold["stopped"], cold["blocks"]) == ("precision", 6)
    assert cold["budget_s"] <= PROFILES["smoke"].total_s / 2, "half of the time there is"
    assert warm["budget_s"] > 1.3 * cold["budget_s"]


def test_a_cell_that_the_time_does_not_reach_is_cut_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = Cell("full-load", "gpt2", "warm", "cpu")
    with run(tmp_path, {WARM: ARMS, big: ARMS}) as running:
        running.measure(WARM)
        monkeypatch.setattr(Run, "_left", lambda _: 0.0)
        cut = running.measure(big)
    assert (cut.samples, cut.reason) == ((), "the time of the run was spent before it began")
    assert running.manifest["cells"][-1]["status"] == "cut"
    assert [path.name for path in (tmp_path / "store").glob("gpt2*")] == []


def test_a_cell_whose_blocks_do_not_fit_by_the_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = Cell("full-load", "gpt2", "warm", "cpu")
    with run(tmp_path, {WARM: ARMS, big: ARMS}) as running:
        running.measure(WARM)
        monkeypatch.setattr(Run, "_left", lambda _: 1.0)
        cut = running.measure(big)
    assert cut.reason is not None and re.fullmatch(
        r"its 6 blocks would take about \d+ s, and 1 s were left", cut.reason
    )
    assert [path.name for path in (tmp_path / "store").glob("gpt2*")] == []


def test_a_cell_that_turns_out_too_slow_is_cut(
    tmp_path: Path,
) -> None:
    with run(tmp_path, {WARM: ARMS}, budget="0.2") as running:
        result = running.measure(WARM)
    cells: Any = running.manifest["cells"]
    (cell,) = cells
    assert (result.samples, cell["status"], cell["blocks"]) == ((), "cut", 1)
    assert cell["reason"].startswith("its 6 blocks would take about")
    samples = running.directory.samples()
    assert len(samples) == 2, "they are kept"
    (shown,) = cells_of(running.manifest, samples)
    assert (shown.arms, shown.reason) == ((), f"cut: {cell['reason']}")
    assert (
        "**Not measured, because the time was spent:** full-load/lora-1000/warm/cpu."
        in write_run_report(running.directory).read_text()
    )


def test_a_store_that_cannot_be_written_to_serves_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run(tmp_path, {WARM: ARMS}, rounds="1") as running:
        assert all(sample.valid for sample in running.measure(WARM).samples)

    def read_only(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "store"))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", read_only)
    monkeypatch.setattr(store, "write_atomically", read_only)
    monkeypatch.setattr(store, "write_text", read_only)
    missing = Cell("full-load", "all-minilm-l6-v2", "warm", "cpu")
    with run(tmp_path, {WARM: ARMS, missing: ARMS}, rounds="1") as running:
        assert all(sample.valid for sample in running.measure(WARM).samples)
        refused = running.measure(missing)
    assert (
        refused.reason
        == "all-minilm-l6-v2: the store does not have all of it and cannot be written to"
        " (Read-only file"
        " system)"
    )
    with pytest.raises(
        WeighbridgeError,
        match="cannot be written to \\(Read-only file system\\); name a folder you may write to",
    ):
        proof.capability(tmp_path / "results")


def test_an_mxfp4_checkpoint_of_a_persons_own_is_measured(
    tmp_path: Path,
) -> None:
    """safetensors 0.8.0 reads the shape of an F4 tensor wrongly with `backend="pread"`.

    Its mapped way, torch and the ceilings do not.
    """

    blocks = torch.randint(1, 250, (64, 32), dtype=torch.uint8)
    save_file(
        {
            "blocks": blocks.view(torch.float4_e2m1fn_x2),
            "scales": blocks.clone().view(torch.float8_e8m0fnu),
        },
        tmp_path / "mxfp4.safetensors",
    )
    cell = Cell("full-load", "mxfp4", "warm", "cpu")
    arms = (
        "safetensors-load-file",
        "safetensors-pread",
        "torch-load",
        "pickle-load",
        "ceiling-read",
        "ceiling-copy",
    )
    with Run(
        parse(
            {
                "store": str(tmp_path / "store"),
                "results": str(tmp_path / "results"),
                "model": [str(tmp_path / "mxfp4.safetensors")],
                "rounds": "2",
            }
        ),
        {cell: arms},
        ["pytest"],
        lambda _: None,
        lambda _: None,
    ) as running:
        result = running.measure(cell)
    assert result.left_out["pickle-load"] == "pickle holds no float4_e2m1fn_x2, float8_e8m0fnu"
    measured = {sample.loader for sample in result.samples if sample.valid}
    assert {"safetensors-load-file", "torch-load", "ceiling-read", "ceiling-copy"} <= measured
    assert measured | set(result.left_out) == set(arms), "each is measured or left out by name"


def test_a_budget_is_for_each_cell_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "precise", lambda _: False)
    with run(tmp_path, {WARM: ARMS}, budget="1.0") as running:
        running.measure(WARM)
    cells: Any = running.manifest["cells"]
    (cell,) = cells
    assert (cell["stopped"], cell["budget_s"]) == ("budget", 1.0)
    assert cell["spent_s"] <= 1.0 + 0.5


def test_what_a_cell_kept_warm_is_let_go_with_it(tmp_path: Path) -> None:
    with run(tmp_path, {WARM: ARMS}, rounds="1") as running:
        assert all(sample.valid for sample in running.measure(WARM).samples)
        files = list((tmp_path / "store").glob("lora-1000*/model.safetensors"))
        assert files and page_cache.evict(files).most == 0.0


def test_a_cell_is_measured_once_and_told_once(tmp_path: Path) -> None:
    told: list[int] = []

    def tell(samples: object) -> None:
        assert isinstance(samples, tuple)
        told.append(len(samples))

    with Run(
        options(tmp_path, rounds="2"), {WARM: ARMS}, ["pytest"], lambda _: None, tell
    ) as running:
        assert running.measure(WARM) is running.measure(WARM)
    assert told == [4]


def test_a_run_that_is_resumed_under_another_torch_is_refused(tmp_path: Path) -> None:
    with run(tmp_path, {WARM: ARMS}, rounds="2") as running:
        running.measure(WARM)
    running.manifest["packages"]["torch"] = "1.0"
    running.directory.write_manifest(running.manifest)
    with pytest.raises(WeighbridgeError, match=r"it began with torch 1.0, here it is"):
        resume(tmp_path, running).__enter__()


def test_a_finished_run_that_is_resumed_takes_nothing_more(tmp_path: Path) -> None:
    with run(tmp_path, {WARM: ARMS}, rounds="2") as running:
        first = running.measure(WARM).samples
    with resume(tmp_path, running) as again:
        second: tuple[Sample, ...] = again.measure(WARM).samples
    assert second == first


@pytest.mark.parametrize("named", [False, True])
def test_a_persons_pickle_is_unpickled(tmp_path: Path, named: bool) -> None:
    own = tmp_path / "adapter.bin"
    torch.save({"weight": torch.rand(64, 64) + 0.5}, own)
    cell = Cell("full-load", "adapter", "warm", "cpu")
    arms = ("torch-load", "torch-load-unsafe", "pickle-load")
    given = {"rounds": "2"} | ({"loaders": ",".join(arms)} if named else {})
    asked = parse(
        {
            "store": str(tmp_path / "store"),
            "results": str(tmp_path / "results"),
            "model": [str(own)],
            **given,
        }
    )
    with Run(asked, {cell: arms}, ["pytest"], lambda _: None, lambda _: None) as running:
        result = running.measure(cell)
    assert list(result.left_out) == ([] if named else ["torch-load-unsafe"])
    assert {sample.loader for sample in result.samples} == set(arms) - set(result.left_out)
    assert all(sample.valid for sample in result.samples)


def resume(tmp_path: Path, before: Run) -> Run:
    given = {
        "store": str(tmp_path / "store"),
        "results": str(tmp_path / "results"),
        "resume": before.directory.name,
    }
    return Run(
        parse(given, before.manifest["options"]),
        {WARM: ARMS},
        ["pytest"],
        lambda _: None,
        lambda _: None,
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("My Adapter/model.safetensors", "my-adapter"),
        ("my-model/weights/pytorch_model.bin", "my-model"),
        ("Fine Tuned.v2.ckpt", "fine-tuned.v2"),
        ("gpt2/model.safetensors", "my-gpt2"),
    ],
)
def test_a_persons_checkpoint_is_called_what_they_call_it(
    tmp_path: Path, path: str, name: str
) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    assert model_name(tmp_path / path, ["gpt2"]) == name


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a forked process can use the GPU")
def test_a_gpu_that_no_fork_can_use_refuses_the_cell_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of as many samples as there are arms and blocks, each with the same error."""
    monkeypatch.setattr(open_run, "gpus", lambda: ["A GPU that torch cannot use"])
    on_gpu = Cell("full-load", "lora-1000", "warm", "cuda")
    with run(tmp_path, {on_gpu: ARMS, WARM: ARMS}, rounds="1") as running:
        refused, result = running.measure(on_gpu), running.measure(WARM)
    assert refused.samples == () and "a forked process cannot use the GPU (raised: " in (
        refused.reason or ""
    )
    assert len(result.samples) == len(ARMS) and all(sample.valid for sample in result.samples)


def test_a_loader_that_keeps_raising_is_left_out_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback is kept beside the run, and the others go on."""
    broken = (BROKEN, loaders(BROKEN)["raises"])
    monkeypatch.setattr(
        resources,
        "loader_of",
        lambda cell, name: broken if name == "raises" else loader_of(cell, name),
    )

    with run(tmp_path, {WARM: (*ARMS, "raises")}, rounds="6") as running:
        result = running.measure(WARM)
    assert [sample.loader for sample in result.samples].count("raises") == 2
    assert (
        result.left_out["raises"]
        == "failed 2 times in the same way: raised: RuntimeError: no such tensor in this file"
    )
    kept = (running.directory.path / TRACEBACKS).read_text()
    assert (
        kept.count("=== full-load/lora-1000/warm/cpu, raises") == 2
        and 'raise RuntimeError("no such tensor in this file")' in kept
    )
    assert str(Path(__file__).parent) not in kept, "it keeps no absolute path"
