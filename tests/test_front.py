"""The index page's content: figures in plain words, topics, claims as cards."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.analysis.claim_findings import Finding, RuleOutcome
from harness.analysis.recorded_run import gather
from harness.analysis.statistics import Estimate
from harness.report.front.cards import cards, deck
from harness.report.front.checks_topics import regression
from harness.report.front.chooser import cases, data
from harness.report.front.names import Family, family
from harness.report.front.topic import loader_bars
from harness.report.front.topics import gpu, memory, topics
from harness.report.verdict_text import _figure, multiple, number, prose_time, speed_text
from tests.test_report import cell_samples, make_run

MACHINE: dict[str, Any] = {
    "machine": {"cpu": "A Processor", "cores": 2, "kernel": "6.1", "gpus": []},
    "storage": {"device": "vda", "file_system": "ext4"},
}


def around(median: float, share: float = 0.02) -> Estimate:
    """Return a figure whose interval is this share wide to either side."""
    return Estimate(median, median * (1 - share), median * (1 + share), 9)


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ([35.6], "36 times as fast"),
        ([1.18], "18 % faster"),
        ([0.793], "26 % slower"),
        ([0.225], "4.4 times as slow"),
        ([1.01], "no measurable difference"),
        ([2.0, 3.3], "2 to 3.3 times as fast"),
        ([0.66, 0.815], "23 to 52 % slower"),
        ([0.9, 1.2], "0.90 to 1.2 times as fast"),
    ],
)
def test_a_ratio_is_told_as_a_speed(ratios: list[float], words: str) -> None:
    assert speed_text([around(ratio) for ratio in ratios]) == words


def test_a_share_of_nought_is_told() -> None:
    finding = Finding(RuleOutcome.HOLDS, Estimate(0.0, 0.0, 0.0, 9))
    result: Any = SimpleNamespace(finding=finding, test=SimpleNamespace(phrase="{share}"))
    side: Any = SimpleNamespace(tests=[result])
    assert _figure(side) == "under 0.1 %"


def test_a_ratio_is_told_from_the_other_side() -> None:
    assert speed_text([around(8.75)], invert=True) == "8.8 times as slow"
    assert speed_text([around(0.59)], invert=True) == "1.7 times as fast"


def test_prose_has_two_significant_figures() -> None:
    assert [number(value) for value in (0.0, 0.0123, 1.0, 9.96, 83.6, 1234.5)] == [
        *("0", "0.012", "1", "10", "84", "1,234"),
    ]
    assert (multiple(1.0), prose_time(0.0075), prose_time(1.0)) == ("1.0", "7.5 ms", "1.0 s")


def test_a_loader_has_the_colour_of_its_files_format() -> None:
    names = ("safetensors-pread", "torch-load", "diffusers-bin", "ceiling-copy", "gguf-reader")
    assert [family(name) for name in names] == [
        Family.SAFETENSORS,
        Family.PICKLE,
        Family.PICKLE,
        Family.CEILING,
        Family.OTHER,
    ]


def test_without_a_gpu_run_the_page_says_how_to_bring_one(tmp_path: Path) -> None:
    topic = gpu(gather([make_run(tmp_path, cell_samples(), **MACHINE)]))
    assert "Not measured yet" in topic.sentences[0]
    assert "bench-gpu" in topic.sentences[1] and "pack" in topic.sentences[2]
    assert topic.run is None and topic.panels == ()


def test_a_gpu_run_is_compared_like_any_other(tmp_path: Path) -> None:
    on_gpu = [
        sample
        for state in ("cold", "warm")
        for sample in cell_samples(device="cuda", cache_state=state)
    ]
    topic = gpu(gather([make_run(tmp_path, on_gpu, **MACHINE)]))
    assert len(topic.panels) == 2 and topic.table is not None
    assert "times as fast** as torch.load (6 pairs)" in topic.sentences[0]


def test_a_topic_without_a_run_is_left_out(tmp_path: Path) -> None:
    evidence = gather([make_run(tmp_path, cell_samples(), **MACHINE)])
    assert [topic.title for topic in topics(evidence)] == ["GPU"]
    assert memory(evidence) is None, "these samples tell no peak"


def test_every_claim_has_a_card_with_its_verdict(tmp_path: Path) -> None:
    of = deck(gather([make_run(tmp_path, cell_samples(), **MACHINE)]))
    text = cards(of, lambda line: line, lambda run: run)
    assert text.count("<article") == len(of.judged) == sum(of.tally.values())
    assert len(of.tally) > 1
    for verdict, count in of.tally.items():
        assert text.count(f">{verdict}</span>") == count


def test_the_choosers_data_names_no_loader_twice(tmp_path: Path) -> None:
    evidence = gather([make_run(tmp_path, cell_samples(checkpoint="gpt2"), **MACHINE)])
    text = data(cases(evidence), "gpt2")
    assert text.count('"torch-load"') == 1 and "<" not in text


def test_the_regression_topic_hides_no_arm_that_finds_nothing() -> None:
    def arm(cell: str, loader: str, smallest: float | None, ten: float) -> dict[str, Any]:
        found = {"10": ten}
        return {
            "cell": cell,
            "loader": loader,
            "smallest_found_percent": smallest,
            "found_by_percent": found,
        }

    calibration = {
        "simulated_runs": 400,
        "confirmed_alarm_on": 0.0,
        "arms": [
            arm("full-load/gpt2/warm/cpu", "torch-load", 25, 0.3),
            arm("full-load/lora-1000/warm/cpu", "torch-load", None, 0.0),
            arm("full-load/gpt2/cold/cpu", "torch-load", 7.5, 1.0),
        ],
    }
    run = SimpleNamespace(name="a", manifest={"calibration": calibration})
    topic = regression([run])  # type: ignore[list-item]
    assert topic is not None
    assert [bar.text for panel in topic.panels for bar in panel.bars] == [
        "more than 100 %",
        "7.5 %",
    ]
    assert "A warm load slowed by 10 % is found on 0 to 30 % of them" in " ".join(topic.sentences)
    assert "A cold load slowed by 10 % is found on all of them" in " ".join(topic.sentences)


def test_a_time_without_an_interval_has_no_bar() -> None:
    known = SimpleNamespace(loader="torch-load", ready=around(1.0))
    too_few = SimpleNamespace(loader="pickle-load", ready=Estimate(1.0, None, None, 5))
    none = SimpleNamespace(loader="gguf-reader", ready=None)
    arms: list[Any] = [too_few, none, known]
    assert [bar.name for bar in loader_bars(arms)] == ["torch.load"]
