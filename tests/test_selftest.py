"""The regression check: what may be asked, how stored runs are judged, which exit code comes out,
and that every fault is caught.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from harness.checkpoints.layouts import LAYOUTS
from harness.checkpoints.sources import layout_source
from harness.checkpoints.store import Store
from harness.cli import main
from harness.commands import gate
from harness.commands.selftest import FAULTS
from harness.errors import WeighbridgeError
from harness.machine.proof import capability
from harness.measure.slowed_loaders import PERCENTS, slowed_key
from harness.records.manifest import fingerprint
from harness.records.run_directory import RunDirectory
from harness.records.thresholds import ThresholdsFile
from harness.records.verdicts import INVALID, NO_BASELINE, NOTHING, REGRESSION, VERDICTS_FILE
from harness.regression.environments import distribution, requirements_of
from harness.regression.options import add_shared, history, injected, paired_request
from harness.regression.thresholds import thresholds_of
from harness.run.new_manifest import new_manifest
from harness.selftest.fixture import CannotInjectError, Fixture, fixture
from tests.helpers import make_sample

pytestmark = pytest.mark.slow


def asked(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    add_shared(parser)
    return paired_request(parser.parse_args(list(arguments)))


def stored(path: Path, factor: float = 1.0, blocks: int = 20, **manifest: Any) -> RunDirectory:
    run = RunDirectory(path)
    run.path.mkdir(parents=True)
    content = new_manifest(
        path.name, {"seed": 0, "profile": "smoke"}, ["pytest"], path, capability(path)
    )
    run.write_manifest(content | manifest)
    for block in range(blocks):
        time = (1.0 + 0.001 * (block % 3)) * factor
        run.append(
            make_sample(run=path.name, block=block, ready_s=time, returned_s=time / 2, cpu_s=0.1)
        )
    return run


def compared(a: RunDirectory, b: RunDirectory) -> int:
    return main(["compare", str(a.path), str(b.path)])


@pytest.fixture(autouse=True)
def _no_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHBRIDGE_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_stored_runs_of_one_machine_get_the_gate_s_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = stored(tmp_path / "a")
    assert compared(a, stored(tmp_path / "same", 1.01)) == NOTHING
    assert compared(a, stored(tmp_path / "slow", 1.3)) == REGRESSION
    assert "slower" in capsys.readouterr().out
    assert compared(a, stored(tmp_path / "short", blocks=4)) == INVALID
    assert compared(a, stored(tmp_path / "empty", blocks=0)) == INVALID


def test_a_regression_is_still_red_on_the_second_run(
    tmp_path: Path,
) -> None:
    pinned, first, second = (
        stored(tmp_path / "pinned"),
        stored(tmp_path / "first", 1.3),
        stored(tmp_path / "second", 1.3),
    )
    assert (compared(pinned, first), compared(pinned, second), compared(first, second)) == (
        REGRESSION,
        REGRESSION,
        NOTHING,
    )


def test_another_machines_run_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = stored(tmp_path / "a")
    other = stored(tmp_path / "other")
    other.write_manifest(
        other.manifest() | {"machine": other.manifest()["machine"] | {"cpu": "Another One"}}
    )
    assert compared(a, other) == NO_BASELINE
    assert "other cannot be compared with a: cpu is Another One" in capsys.readouterr().err
    other.write_manifest(a.manifest() | {"schema": 99})
    assert compared(a, other) == NO_BASELINE
    assert "schema 99" in capsys.readouterr().err
    assert main(["compare", str(a.path), str(tmp_path / "nowhere")]) == 2


def test_the_summary_goes_to_the_file_that_ci_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    compared(stored(tmp_path / "a"), stored(tmp_path / "b", 1.3))
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("before\n**A confirmed regression** (exit code 1)")
    assert "safe defaults" in text


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0], 0), ([0, 3], 3), ([3, 1], 1), ([0, 4], 4), ([], NO_BASELINE)],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_the_gate_gives_the_gravest_code(tmp_path: Path, codes: list[int], code: int) -> None:
    for number, one in enumerate(codes):
        (tmp_path / f"run-{number}").mkdir()
        (tmp_path / f"run-{number}" / VERDICTS_FILE).write_text(json.dumps({"exit_code": one}))
    assert gate.run(argparse.Namespace(results=tmp_path)) == code


def test_the_gate_believes_no_broken_file(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / VERDICTS_FILE).write_text("{}")
    assert main(["gate", "--results", str(tmp_path)]) == 2


def test_thresholds_of_another_machine_are_left_aside_aloud(
    tmp_path: Path,
) -> None:
    machine = fingerprint(stored(tmp_path / "a").manifest())
    path = tmp_path / "store" / "thresholds.json"
    ThresholdsFile({"cpu": "another"}, "elsewhere", {}).write(path)
    assert "for another machine" in thresholds_of(None, tmp_path / "store", machine)[1]
    with pytest.raises(WeighbridgeError, match="calibrated on another machine"):
        thresholds_of(path, tmp_path / "store", machine)


def test_this_machine_s_thresholds_hold(tmp_path: Path) -> None:
    run = stored(tmp_path / "a")
    cells = {
        "everything/lora-1000/warm/cpu": {
            "safetensors-load-file": {"ready_s": 0.5, "returned_s": 0.5}
        }
    }
    ThresholdsFile(fingerprint(run.manifest()), "here", cells).write(
        tmp_path / "store" / "thresholds.json"
    )
    assert compared(run, stored(tmp_path / "b", 1.3)) == NOTHING
    assert compared(run, stored(tmp_path / "c", 1.6)) == REGRESSION


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("safetensors==0.7.0", ("safetensors==0.7.0",)),
        ("safetensors==0.7.0 torch==2.12.0", ("safetensors==0.7.0", "torch==2.12.0")),
        ("safetensors==0.7.0, torch==2.12.0", ("safetensors==0.7.0", "torch==2.12.0")),
        ("torch>=2,<3", ("torch>=2,<3",)),
    ],
)
def test_requirements_are_read_as_pip_writes_them(text: str, found: tuple[str, ...]) -> None:
    assert requirements_of(text) == found
    assert distribution("Safe_Tensors==1") == "safe-tensors"


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: requirements_of(" "), "no requirement is named"),
        (lambda: requirements_of("==1"), "is not a requirement"),
        (lambda: history("safetensors==0.7.0"), "fewer than two releases"),
        (lambda: injected(["torch-load=7"]), "slow-downs are of 2, 5, 10"),
        (lambda: injected(["nobody=10"]), "unknown loader"),
        (lambda: asked("--loaders", "file-copy"), "unknown loader of everything"),
        (lambda: asked("--profile", "huge"), "unknown profile"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(act: Any, words: str) -> None:
    with pytest.raises(WeighbridgeError, match=words) as found:
        act()
    assert "\n" not in str(found.value)


def test_a_history_is_a_requirement_for_each_release() -> None:
    assert history("safetensors==0.3.1,0.4.5, 0.4.5") == (
        "safetensors==0.3.1",
        "safetensors==0.4.5",
    )


def test_a_paired_run_weighs_full_loads_cold() -> None:
    found = asked("--profile", "smoke")
    assert {cell.scenario for cell in found.plan} == {"full-load"}
    assert {cell.cache_state for cell in found.plan} == {"cold", "warm"}
    assert not found.peers
    assert asked("--loaders", "fastsafetensors").peers


def test_every_loader_can_be_slowed_by_every_known_share() -> None:
    from harness.loaders import by_key

    for percent in PERCENTS:
        assert by_key(slowed_key("torch-load", percent))[1].format


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trial", numbered=True)
    store = Store(folder / "store")
    if not capability(store.folder).cold:
        pytest.skip("no file can be made cold here")
    checkpoint = store.checkpoint(layout_source(LAYOUTS["lora-1000"](), 0), ["safetensors"])
    manifest = new_manifest(
        "trial", {"seed": 0}, ["pytest"], store.folder, capability(store.folder)
    )
    with fixture(store, checkpoint, manifest, folder / "fixture") as found:
        yield found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_lie_is_caught_in_words(fault: Any, held: Fixture) -> None:
    try:
        assert len(fault(held)) > len("caught")
    except CannotInjectError as error:
        pytest.skip(str(error))


def test_every_injected_fault_says_what_it_is() -> None:
    assert len(FAULTS) >= 17
    assert all(fault.__doc__ for fault in FAULTS)
