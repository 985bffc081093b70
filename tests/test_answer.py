"""The answer at the end of a run: short, plain, and never surer than its intervals."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from harness.analysis.run_answer import situations
from harness.analysis.run_cells import cells_of
from harness.records.sample import BUSY, Sample
from harness.report.answer import LINES, answer
from harness.report.format import busy_line
from harness.report.progress import RunProgress
from tests.test_promises import make_check
from tests.test_report import CHECKPOINTS, cell_samples, record, spoilt, whole_run

CLOSE = {"safetensors-load-file": (4.0, 20.0), "torch-load": (20.0, 20.1)}
"""Loaders whose order changes within the blocks of `wavering`."""


def wavering(blocks: int = 8) -> list[Sample]:
    """Return a cell in which neither loader is always the first."""
    swapped = {"safetensors-load-file": (4.0, 22.0), "torch-load": (20.0, 19.0)}
    both = cell_samples(blocks, CLOSE), cell_samples(blocks, swapped)
    return [pair[pair[0].block % 2] for pair in zip(*both, strict=True)]


def one_line(samples: list[Sample], **manifest: Any) -> str:
    return answer(manifest, samples)[0]


def test_an_answer_names_loader_gain_and_interval() -> None:
    line = one_line(cell_samples())
    assert line.startswith("Full load, gpt2 (498 MB), warm: use safetensors-load-file;")
    assert re.search(r"compared with torch-load: 1[12]\.\d times as fast \(1\d", line)


def test_an_interval_that_spans_one_is_inconclusive() -> None:
    lines = answer({}, wavering())
    assert "inconclusive (" in lines[0]
    assert "1 of 1 comparisons are inconclusive" in lines[1]
    [situation] = situations(cells_of({}, wavering()))
    assert not situation.advices[0].conclusive


def test_too_few_pairs_are_never_an_advice_that_is_sure() -> None:
    assert "pairs: 3; 6 make an interval" in one_line(cell_samples(blocks=3))


def test_a_single_loader_is_not_compared() -> None:
    alone = cell_samples(arms={"torch-load": (1.0, 2.0)})
    assert "only torch-load was measured" in one_line(alone)


def test_the_largest_checkpoint_stands_for_its_situation() -> None:
    [situation] = situations(cells_of({}, whole_run()))
    assert {advice.cell.checkpoint for advice in situation.advices} == {"llama-3.2-1b"}
    assert [advice.cell.cache_state for advice in situation.advices] == ["cold", "warm"]
    assert len(situation.others) == situation.agreeing == 2 * (len(CHECKPOINTS) - 1)


def test_cold_and_warm_share_a_line_where_they_agree() -> None:
    lines = [line for line in answer({}, whole_run()) if line.startswith("Full load")]
    assert len(lines) == 1
    assert "cold " in lines[0] and "warm " in lines[0]


def test_an_answer_has_ten_lines_however_much_was_measured() -> None:
    samples = [
        sample
        for storage in (f"latency:{number}ms" for number in range(20))
        for sample in cell_samples(scenario="storage", cache_state="cold", storage=storage)
    ]
    lines = answer({}, samples, [make_check()])
    assert len(lines) == LINES
    assert any("more lines like these" in line for line in lines)
    assert lines[-1].startswith("Documented behaviour: 1 of 1")


def test_what_was_cut_says_what_to_do() -> None:
    manifest = {"cells": [record(status="cut", blocks=2), record(cache_state="cold")]}
    lines = answer(manifest, cell_samples(cache_state="cold"))
    assert any(
        line.startswith("Cut for time: 1 of 2 cells") and "--profile" in line for line in lines
    )


def test_a_busy_machine_is_named_and_a_quiet_one_is_not() -> None:
    busy = [
        *cell_samples(),
        *spoilt(cell_samples(blocks=1, others_cpu_share=0.5, steal_share=0.0), BUSY),
    ]
    assert any(line.startswith("Busy: ") for line in answer({}, busy))
    quiet = cell_samples(others_cpu_share=0.01, steal_share=0.0)
    assert not any(line.startswith("Busy: ") for line in answer({}, quiet))


def test_a_try_that_a_memory_limit_ended_is_no_invalid_sample() -> None:
    tries = spoilt(
        cell_samples(blocks=2, scenario="memory-limit", part="limit", memory_limit_bytes=1 << 20),
        "killed",
    )
    loads = cell_samples()
    lines = answer({}, [*loads, *tries])
    assert any(f"all {len(loads)} samples valid" in line for line in lines)


def test_one_busy_sample_of_many_makes_no_busy_machine() -> None:
    [busy, *_] = spoilt(cell_samples(blocks=1, others_cpu_share=0.5, steal_share=0.0), BUSY)
    samples = [*cell_samples(blocks=30, others_cpu_share=0.0, steal_share=0.0), busy]
    lines = answer({}, samples)
    assert not any(line.startswith("Busy: ") for line in lines)
    assert any("1 of" in line and "busy 1" in line for line in lines)
    assert "quiet in all but 1 of" in (busy_line({}, samples) or "")


def test_a_run_of_nothing_says_nothing() -> None:
    assert answer({}, []) == []


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_a_terminal_sees_a_live_line_and_a_pipe_does_not(terminal: Terminal) -> None:
    for stream, live in ((terminal, True), (io.StringIO(), False)):
        progress = RunProgress(stream, 2)
        progress.say("block 1 of 6")
        progress.pause()
        assert ("block 1 of 6" in stream.getvalue()) is live


def test_no_color_takes_every_colour_away(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> str:
        stream = Terminal()
        RunProgress(stream, 2).cell_done("a/b", cell_samples(), None)
        return stream.getvalue()

    assert "\x1b[" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(f"\x1b[{code}" in shown() for code in ("3", "9", "1;3", "1;9"))


def test_a_cell_is_told_once() -> None:
    stream = io.StringIO()
    progress = RunProgress(stream, 1)
    for _ in range(3):
        progress.cell_done("full-load/gpt2/warm/cpu", cell_samples(), None)
    assert stream.getvalue().count("cell 1 of 1: full-load/gpt2/warm/cpu: 6 blocks") == 1
