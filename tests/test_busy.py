"""A machine that is busy with something else: noticed, told apart from the harness's own work, and
said.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import WeighbridgeError
from harness.machine import busy
from harness.machine.busy import Meter
from harness.measure.validity import judge
from harness.records.cell import Cell
from harness.records.limits import BUSY_AT_MOST, BUSY_VARIABLE
from harness.records.sample import BUSY
from harness.report.format import busy_line
from harness.report.run_page import write_run_report
from harness.report.terminal import run_summary
from harness.run.options import parse
from harness.run.run import Run
from harness.selftest.sample_faults import burning
from tests.helpers import make_sample

pytestmark = pytest.mark.slow

COLD, WARM = (Cell("full-load", "lora-1000", state, "cpu") for state in ("cold", "warm"))
ARMS = ("safetensors-load-file", "torch-load")
BURN_S = 0.5
BURN = f"import time\nwhile time.process_time() < {BURN_S}: pass"
HALF = 0.3
"""What a process that burns half of the cores takes at least, scheduling and all."""


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.machine.lock.lock_path", lambda: tmp_path / "lock")
    monkeypatch.delenv(BUSY_VARIABLE, raising=False)


def test_what_others_burn_is_seen() -> None:
    """The machine that tests run on may be busy already, so that only differences of processor time
    count.
    """

    before = busy._read()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    between = busy._read()
    with burning():
        subprocess.run([sys.executable, "-c", BURN], check=True)
        after = busy._read()
    assert before and between and after
    assert between.own - before.own >= 0.8 * BURN_S, "an ended child's time is the harness's own"
    assert after.own - between.own <= 2 * BURN_S + 0.5, "and another's is not"
    assert (after.used - after.own) - (between.used - between.own) >= BURN_S / 5


def test_quiet_is_waited_for_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with burning():
        assert not Meter().wait_for_quiet(BUSY_AT_MOST, patience_s=0.3)
    assert Meter().wait_for_quiet(at_most=1.0)
    monkeypatch.setattr(busy, "_read", lambda: None)
    assert Meter().wait_for_quiet(at_most=0.0), "what cannot be told is not waited for"


def test_a_system_that_does_not_tell_leaves_everything_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(busy, "_read", lambda: None)
    meter = Meter()
    meter.begin()
    assert meter.end() == busy.Busyness(None, None, None, None, None)
    assert meter.end().share is None


def test_a_busy_sample_is_invalid() -> None:
    answer = {"content_ok": True, "storage_read_bytes": 0}
    assert judge("warm", 1.0, 100, answer, busy=0.1, busy_at_most=0.1).valid
    judged = judge("warm", 1.0, 100, answer, busy=0.48, busy_at_most=0.1)
    assert (judged.valid, judged.reason, judged.detail) == (
        False,
        BUSY,
        "others had 48% of the cores' time, more than 10%",
    )
    assert judge("warm", 1.0, 100, answer, busy=None, busy_at_most=0.0).valid
    assert judge("warm", 0.0, 100, answer, busy=0.5, busy_at_most=0.1).reason == "not-warm"
    assert (
        judge("warm", 1.0, 100, answer | {"content_ok": False}, busy=0.5, busy_at_most=0.1).reason
        == "wrong-content"
    )


def test_a_run_beside_a_burning_process_says_so(tmp_path: Path) -> None:
    options = parse(
        {"store": str(tmp_path / "store"), "results": str(tmp_path / "results"), "rounds": "1"}
    )
    with (
        Run(
            options, {COLD: ARMS, WARM: ARMS}, ["pytest"], lambda _: None, lambda _: None
        ) as running,
        burning(),
    ):
        samples = [*running.measure(COLD).samples, *running.measure(WARM).samples]
    assert [sample.reason for sample in samples] == [BUSY] * 4
    assert max(sample.others_cpu_share or 0.0 for sample in samples) >= HALF
    summary = " ".join(run_summary(running.manifest, samples).split())
    assert "the machine was busy: other processes used" in summary
    assert (
        "this made 4 of 4 samples invalid (more than 10%). Stop other programs, or wait, and"
        " measure again" in summary
    )
    page = write_run_report(running.directory).read_text(encoding="utf-8")
    assert page.index("**The machine was busy:") < page.index("## "), "before everything else"


def test_how_busy_the_machine_was_is_said_of_a_quiet_run_too() -> None:
    quiet = [
        make_sample(others_cpu_share=0.01, steal_share=0.0),
        make_sample(others_cpu_share=0.03, steal_share=0.01),
    ]
    assert (
        busy_line({}, quiet)
        == "the machine was quiet: other processes used 2% of the cores' time in the median sample,"
        " 4% at most"
    )
    assert busy_line({}, [make_sample()]) is None
    allowed = busy_line(
        {"options": {"busy_at_most": 1.0}}, [make_sample(others_cpu_share=0.46, steal_share=0.0)]
    )
    assert allowed is not None and allowed.startswith(
        "the machine was busy, which was allowed: other processes used 46%"
    )


def test_how_busy_it_may_be_is_the_persons_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse({}).busy_at_most == BUSY_AT_MOST
    assert parse({"busy_at_most": "0.5"}).recorded()["busy_at_most"] == 0.5
    monkeypatch.setenv(BUSY_VARIABLE, "0.25")
    assert parse({}).busy_at_most == 0.25
    with pytest.raises(WeighbridgeError, match="--busy-at-most 2: a share"):
        parse({"busy_at_most": "2"})
