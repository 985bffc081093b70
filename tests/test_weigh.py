"""`weighbridge weigh`: a person's command, its counters, its bottleneck and its verdict."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.regression import Verdict
from harness.analysis.weighing import (
    TimeGoesTo,
    calibrated_share,
    command_bottleneck,
    command_thresholds,
    command_verdict,
)
from harness.cli import main
from harness.errors import WeighbridgeError
from harness.machine import proof
from harness.measure.weighing_validity import judge_weighing
from harness.records.weighing import WeighedArm, Weighing
from harness.report.weighing import answer, comparison, warnings
from harness.run.weigh_options import add_arguments
from harness.workers.weighed_client import CommandOptions, run_command
from tests.helpers import ROOT

SIZE = 8 << 20
READ = "import sys; open(sys.argv[1], 'rb').read()"
ORPHAN = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    open(sys.argv[1], "rb").read()
    time.sleep(60)
time.sleep(1)
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    if not proof.capability(tmp_path).cold:
        pytest.skip("the tests' folder lies where nothing can be made cold")
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(SIZE))
    return path


def weighing(arm: WeighedArm = "command", block: int = 0, **figures: Any) -> Weighing:
    """Return a valid warm weighing of 1 s, `figures` put in place of its own."""
    known: dict[str, Any] = {
        "run": "run",
        "arm": arm,
        "cache_state": "warm",
        "block": block,
        "position": (block + (arm == "command")) % 2,
        "fresh": False,
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "prepare_s": 0.1,
        "weighed_s": 1.1,
        "valid": True,
        "reason": None,
        "detail": None,
        "resident_before": 1.0,
        "resident_after": 1.0,
        "time_s": 1.0,
        "cpu_s": 0.2,
        "user_s": 0.1,
        "system_s": 0.1,
        "storage_read_bytes": 0,
        "major_faults": 0,
        "peak_bytes": 100 << 20,
        "io_waiting_s": 0.0,
    }
    return Weighing(**(known | figures))


def pairs(count: int = 8, *, fresh: bool = False, **figures: float) -> list[Weighing]:
    """Return blocks of both commands; `figures` are the weighed command's."""
    return [
        weighing(arm, block, fresh=fresh, **(figures if arm == "command" else {}))
        for block in range(count)
        for arm in ("against", "command")
    ]


# One run


@pytest.mark.slow
@pytest.mark.parametrize("program", [READ, ORPHAN], ids=["child", "orphan"])
def test_no_byte_of_any_descendant_is_lost(weights: Path, program: str) -> None:
    run_command([sys.executable, "-c", program, str(weights)], CommandOptions())
    proof.evict([weights])
    used = run_command([sys.executable, "-c", program, str(weights)], CommandOptions())
    assert used.storage_read_bytes == SIZE
    assert used.peak_bytes > SIZE
    assert used.left_running == (program == ORPHAN)


@pytest.mark.slow
def test_until_ends_the_clock_and_then_the_command(weights: Path) -> None:
    proof.evict([weights])
    line = f"cat {weights} > /dev/null; echo server is ready; sleep 61.5 & wait"
    used = run_command(["sh", "-c", line], CommandOptions(until=r"is ready$"))
    assert used.matched
    assert used.time_s < 10
    assert used.storage_read_bytes == SIZE
    assert "61.5" not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout


def test_since_leaves_the_start_up_out() -> None:
    options = CommandOptions(since="^loaded", until="^ready")
    used = run_command(["sh", "-c", "sleep 0.5; echo loaded; sleep 0.1; echo ready"], options)
    assert 0.1 <= used.time_s < 0.45


def test_a_line_is_found_in_much_output() -> None:
    options = CommandOptions(until="^ready")
    used = run_command(
        ["sh", "-c", "yes | head -c 300000; echo ready; yes | head -c 300000"], options
    )
    assert used.matched


@pytest.mark.parametrize(
    ("line", "options", "problem"),
    [
        ("echo first; echo last >&2; exit 7", CommandOptions(), "status 7.*first\n  last"),
        ("echo up; sleep 60", CommandOptions(timeout_s=0.3), "within 0.3 s.*up"),
        ("echo up", CommandOptions(until="ready"), "that matches --until 'ready'.*up"),
        ("echo up", CommandOptions(since="ready"), "that matches --since 'ready'.*up"),
        ("kill -9 $$", CommandOptions(), "killed by signal 9"),
    ],
    ids=["failed", "too long", "no end", "no begin", "killed"],
)
def test_a_failed_run_shows_the_end_of_its_output(
    line: str, options: CommandOptions, problem: str
) -> None:
    start = time.monotonic()
    with pytest.raises(WeighbridgeError) as error:
        run_command(["sh", "-c", line], options)
    assert re.search(problem, str(error.value), re.DOTALL)
    assert time.monotonic() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_weighing_ends_its_command(number: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 5000)
    program = f"import os, time; print(os.getpid(), file=open({str(file)!r} + '.pid', 'w')); "
    command = [sys.executable, "-c", program + "time.sleep(60)"]
    weigh = [sys.executable, "-m", "harness", "weigh", str(file), "--cache-states", "warm", "--"]
    pid = file.with_name("file.pid")
    with subprocess.Popen(
        [*weigh, *command],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored in the background
    ) as process:
        _wait_for(lambda: pid.is_file() and pid.read_text().endswith("\n"))
        process.send_signal(number)
    _wait_for(lambda: not Path("/proc", pid.read_text().strip()).exists())


def _wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


# What counts


@pytest.mark.parametrize(
    ("state", "before", "after", "read", "reason"),
    [
        ("cold", 0.0, 1.0, SIZE, None),
        ("cold", 0.0, 0.25, SIZE // 4, None),
        ("cold", 0.0, 0.0, 0, None),
        ("cold", 0.0, 0.0, 3 * SIZE, None),
        ("cold", 0.5, 1.0, SIZE // 2, "not-cold"),
        ("cold", 0.0, 1.0, SIZE // 2, "read-by-others"),
        ("cold", None, None, None, "unprepared"),
        ("warm", 1.0, 1.0, 0, None),
        ("warm", 0.9, 1.0, 0, "not-warm"),
        ("warm", 1.0, 0.9, 0, "not-kept"),
        ("warm", 1.0, 1.0, SIZE, "storage-read"),
    ],
)
def test_a_run_is_invalid_only_for_its_state(
    state: Any, before: float | None, after: float | None, read: int | None, reason: str | None
) -> None:
    judgement = judge_weighing(state, before, after, SIZE, read, counted=True)
    assert (judgement.valid, judgement.reason) == (reason is None, reason)


def test_pages_prove_nothing_where_no_bytes_are_counted() -> None:
    assert judge_weighing("cold", 0.0, 1.0, SIZE, 0, counted=False).valid


def test_a_busy_machine_makes_a_run_invalid() -> None:
    judgement = judge_weighing("warm", 1.0, 1.0, SIZE, 0, True, busy=0.4, busy_at_most=0.1)
    assert judgement.reason == "busy"


# What it says


@pytest.mark.parametrize(
    ("figures", "kind", "words"),
    [
        ({"io_waiting_s": 0.7}, TimeGoesTo.STORAGE, "waits for storage: 70 % of its time"),
        ({"cpu_s": 0.9, "user_s": 0.85, "system_s": 0.05}, TimeGoesTo.ONE_CORE, "computes: 90 %"),
        ({"cpu_s": 3.8}, TimeGoesTo.ALL_CORES, "on all cores"),
        ({}, TimeGoesTo.ELSE, "waits for something else than storage or a processor: 80 %"),
        ({"io_waiting_s": None}, TimeGoesTo.IDLE, "no PSI"),
    ],
)
def test_the_sentence_names_the_bottleneck(
    figures: dict[str, Any], kind: TimeGoesTo, words: str
) -> None:
    samples = [weighing(block=block, **figures) for block in range(6)]
    bottleneck = command_bottleneck(samples, cores=4)
    assert bottleneck and bottleneck.kind == kind
    assert words in answer({"warm": samples}, cores=4)


def test_an_invalid_run_enters_no_figure() -> None:
    samples = [weighing(block=block) for block in range(6)]
    samples.append(weighing(block=6, time_s=99.0, valid=False, reason="busy", detail="others"))
    assert answer({"warm": samples}, cores=2).startswith("warm: 1.00 s [1.00-1.00].")
    assert "1 busy" in warnings({"warm": samples}, SIZE)[0]


def test_a_command_that_reads_no_file_is_pointed_out() -> None:
    cold = [weighing(block=block, cache_state="cold", gained_bytes=0) for block in range(6)]
    assert any("does it read them" in line for line in warnings({"cold": cold}, SIZE))


# Against another


def test_a_tenth_longer_is_slower_once_confirmed() -> None:
    first, limits = pairs(time_s=1.1), command_thresholds(None)
    confirmed = command_verdict(first + pairs(time_s=1.1, fresh=True), limits)
    refuted = command_verdict(first + pairs(fresh=True), limits)
    assert (confirmed.change.verdict, confirmed.change.metric) == (Verdict.SLOWER, "time_s")
    assert refuted.change.verdict == Verdict.AMBIGUOUS
    assert comparison(first, confirmed, 0.05).startswith("warm: slower. The command takes 1.10")


def test_the_same_command_twice_is_the_same() -> None:
    assert command_verdict(pairs(), command_thresholds(None)).change.verdict == Verdict.SAME


def test_fail_over_sets_how_much_longer_is_slower() -> None:
    verdict = command_verdict(pairs(time_s=1.1), command_thresholds(0.2))
    assert verdict.change.verdict == Verdict.SAME


@pytest.mark.parametrize(
    ("figures", "metric"),
    [
        ({"storage_read_bytes": 64 << 20}, "storage_read_bytes"),
        ({"major_faults": 900}, "major_faults"),
        ({"peak_bytes": 150 << 20}, "peak_bytes"),
        ({"cpu_s": 0.5}, "cpu_s"),
    ],
)
def test_facts_gate_where_time_does_not(figures: dict[str, Any], metric: str) -> None:
    limits = command_thresholds(None, facts_only=True)
    slow = pairs(time_s=3.0)
    assert command_verdict(slow, limits).change.verdict == Verdict.SAME
    worse = command_verdict(pairs(**figures) + pairs(fresh=True, **figures), limits)
    assert (worse.change.verdict, worse.change.metric) == (Verdict.SLOWER, metric)


def test_too_few_pairs_are_no_pass() -> None:
    verdict = command_verdict(pairs(5), command_thresholds(None))
    assert verdict.change.verdict == Verdict.INSUFFICIENT


def test_a_calibration_only_widens_the_limit() -> None:
    cells = {"full-load/gpt2/cold/cpu": {"a": {"ready_s": 0.3}, "b": {"ready_s": 0.01}}}
    assert calibrated_share(cells, "cold") == pytest.approx(0.155)
    assert calibrated_share(cells, "warm") == 0.05


# The command


@pytest.mark.slow
def test_cold_reads_every_byte_and_warm_none(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weigh", str(weights), "--rounds", "6", "--json", "--", "cat", str(weights)]) == 0
    document = json.loads(capsys.readouterr().out)
    estimates = document["estimates"]
    assert estimates["cold"]["storage_read_bytes"]["median"] == SIZE
    assert estimates["warm"]["storage_read_bytes"]["median"] == 0
    assert estimates["cold"]["time_s"]["count"] == 6
    assert len(document["weighings"]) == 12
    assert document["answer"].startswith("cold: ")


@pytest.mark.slow
def test_reading_more_is_a_regression_on_any_runner(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--cache-states", "cold", "--rounds", "6", "--facts-only", "--against", "true"]
    assert main(["weigh", str(weights), *options, "--", "cat", str(weights)]) == 1
    assert "storage_read_bytes grew" in capsys.readouterr().out


@pytest.mark.slow
def test_a_state_that_cannot_be_had_is_refused_by_name(
    memory_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = memory_folder / "weights"
    path.write_bytes(b"x" * 5000)
    assert main(["weigh", str(path), "--rounds", "1", "--", "cat", str(path)]) == 2
    output = capsys.readouterr()
    assert "cold refused: weights: tmpfs is memory" in output.err
    assert output.out.startswith("warm: ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--", "true"], "no FILE"),
        (["FILE", "--"], "no command"),
        (["FILE"], "no command"),
        (["no-such-file", "--", "true"], "no-such-file: there is no such file"),
        (["FILE", "--", "no-such-program"], "no-such-program: no such executable"),
        (["FILE", "--against", "true", "--fail-over", "ten", "--", "true"], "--fail-over ten"),
        (["FILE", "--fail-over", "10%", "--", "true"], "add --against"),
        (["FILE", "--against", "no-such", "--", "true"], "no-such: no such executable"),
        (["FILE", "--against", "'", "--", "true"], "No closing quotation"),
        (["FILE", "--cache-states", "tepid", "--", "true"], "unknown cache state 'tepid'"),
        (["FILE", "--rounds", "0", "--", "true"], "--rounds 0"),
        (["FILE", "--until", "(", "--", "true"], "--until (: no pattern"),
        (["FILE", "--", "false"], "false: ended with status 1"),
    ],
)
def test_what_cannot_be_weighed_is_an_error_of_usage(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 5000)
    words = [str(file) if word == "FILE" else word for word in arguments]
    assert main(["weigh", *words]) == 2
    assert problem in capsys.readouterr().err


def test_weigh_needs_no_torch() -> None:
    program = "import sys, harness.commands.weigh; print('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_the_action_passes_only_options_that_there_are() -> None:
    parser = ArgumentParser()
    add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    text = (ROOT / "action.yml").read_text()
    used = set(re.findall(r"--[a-z][a-z-]+", text.partition("weigh_arguments=")[2]))
    assert used and used <= known
