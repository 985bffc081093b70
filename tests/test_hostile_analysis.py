"""Verdicts on trials, from made-up ones: what is a surprise and what is none, which file shows it, what a scanner saw; and the page's part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.analysis.hostile import (
    BROKE,
    FALSE_ALARM,
    FOUND,
    LARGE,
    LOADED_BAD,
    MISSED,
    PASSED,
    REFUSED_GOOD,
    SILENT,
    SLOW,
    UNCLEAR,
    File,
    LoaderUnderTest,
    accounts,
    clear,
    files_of,
    growth,
    loaders_of,
    seen_by_scanner,
    surprise,
    surprises,
)
from harness.records.trials import BROKEN, CODE, CRASHED, HUNG, LIE, LOADED, NONE, RAN, REFUSED, STARVED, Trial
from harness.report.section_writer import SectionWriter
from harness.report.sections import hostile_files, scan
from harness.report.sections.hostile_files import trials_lines
from harness.report.terminal import WIDTH
from harness.scenarios import HOSTILE_FILES, HOSTILE_SCAN
from tests.helpers import recorded_run

BASE = 100 << 20
TESTED = LoaderUnderTest("safetensors-load-file", "safetensors", BASE)


def file(harm: str, format_name: str = "safetensors", name: str = "a", size: int = 10) -> File:
    return File(name, "family", format_name, harm, "is wrong", size, False)


def made(outcome: str = REFUSED, **overrides: Any) -> Trial:
    said: dict[str, Any] = {
        "scenario": HOSTILE_FILES,
        "file": "a",
        "family": "family",
        "loader": "safetensors-load-file",
        "outcome": outcome,
        "error": "SafetensorError: header too large",
        "seconds": 0.001,
        "peak_rss_bytes": BASE,
    }
    return Trial(**(said | overrides))


def test_a_quick_clear_refusal_of_a_bad_file_is_no_surprise() -> None:
    assert surprise(made(), file(LIE), TESTED) is None
    assert surprise(made(LOADED), file(NONE), TESTED) is None


@pytest.mark.parametrize("outcome", [RAN, CRASHED, STARVED, HUNG])
def test_an_end_that_no_loader_chose_is_a_surprise_whatever_the_file(outcome: str) -> None:
    assert surprise(made(outcome), file(LIE), TESTED) == outcome
    assert surprise(made(outcome), file(NONE), TESTED) == outcome


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ({"outcome": LOADED}, LOADED_BAD),
        ({"seconds": 1.5}, SLOW),
        ({"peak_rss_bytes": BASE + (300 << 20)}, LARGE),
        ({"error": "KeyError: 'a'"}, UNCLEAR),
        ({"error": "ValueError"}, UNCLEAR),
        ({"error": None}, UNCLEAR),
        ({"seconds": 0.9, "peak_rss_bytes": BASE + (200 << 20)}, None),
    ],
)
def test_what_is_more_than_a_refusal_or_less_is_a_surprise(overrides: dict[str, Any], kind: str | None) -> None:
    assert surprise(made(**overrides), file(BROKEN), TESTED) == kind


def test_a_harmless_file_is_owed_to_the_loaders_of_its_container_alone() -> None:
    assert surprise(made(), file(NONE), TESTED) == REFUSED_GOOD
    assert surprise(made(), file(NONE, "torch-zip"), TESTED) is None


def test_memory_of_an_unknown_base_is_no_growth() -> None:
    assert growth(made(peak_rss_bytes=1 << 40), LoaderUnderTest("a", "b", None)) is None
    assert growth(made(peak_rss_bytes=None), TESTED) is None
    assert growth(made(peak_rss_bytes=1), TESTED) == 0


@pytest.mark.parametrize(
    ("error", "told"), [("ValueError: no", True), ("IndexError: list index out of range", False), ("error: unpack", False)]
)
def test_an_error_is_clear_when_it_has_words_and_is_not_of_code_gone_wrong(error: str, told: bool) -> None:
    assert clear(error) is told


def test_each_kind_is_shown_by_its_smallest_file_and_the_gravest_comes_first() -> None:
    files = {name: file(CODE, name=name, size=size) for name, size in (("large", 900), ("small", 90), ("other", 5))}
    met = [
        made(RAN, file="large"),
        made(RAN, file="small"),
        made(LOADED, file="other"),
        made(file="other", scenario=HOSTILE_SCAN, outcome=HUNG),
    ]
    found = surprises(met, files, {TESTED.name: TESTED})
    assert [(one.kind, one.count, one.smallest.name) for one in found] == [(RAN, 2, "small"), (LOADED_BAD, 1, "other")]


def test_an_account_counts_the_outcomes_and_names_the_longest_and_the_largest() -> None:
    met = [made(), made(seconds=2.0, file="long"), made(RAN, peak_rss_bytes=BASE + 7, file="big"), made(HUNG, scenario=HOSTILE_SCAN)]
    (one,) = accounts(met, {TESTED.name: TESTED})
    assert one.counts == {REFUSED: 2, RAN: 1}
    assert one.slowest
    assert one.largest
    assert (one.slowest.file, one.largest.file, one.growth) == ("long", "big", 7)


@pytest.mark.parametrize(
    ("outcome", "error", "harm", "word"),
    [
        (REFUSED, "FoundError: os.system", CODE, FOUND),
        (LOADED, None, CODE, MISSED),
        (REFUSED, "CannotTellError: it looked at nothing", CODE, SILENT),
        (REFUSED, "ValueError: broken", NONE, SILENT),
        (REFUSED, "FoundError: os.system", NONE, FALSE_ALARM),
        (LOADED, None, NONE, PASSED),
        (LOADED, None, LIE, PASSED),
        (REFUSED, "FoundError: x", LIE, FOUND),
        (HUNG, "in the call", CODE, BROKE),
        (STARVED, "MemoryError", NONE, BROKE),
    ],
)
def test_what_a_scanner_says_is_held_against_what_the_file_is(outcome: str, error: str | None, harm: str, word: str) -> None:
    assert seen_by_scanner(made(outcome, error=error, scenario=HOSTILE_SCAN), file(harm)) == word


MANIFEST: dict[str, Any] = {
    "corpus": {
        "files": {
            name: {"family": "f", "format": "safetensors", "harm": harm, "says": "is so", "bytes": 10, "plain": False}
            for name, harm in (
                ("payload.pkl", CODE),
                ("whole.safetensors", NONE),
                ("cap-padded.safetensors", NONE),
                ("cap-text.safetensors", NONE),
                ("cap-text-over.safetensors", BROKEN),
            )
        }
    },
    "loaders_under_test": {
        "safetensors-load-file": {"format": "safetensors", "base_rss_bytes": BASE},
        "pickle-load": {"format": "pickle", "base_rss_bytes": BASE},
        "picklescan": {"format": "torch-zip", "base_rss_bytes": BASE},
    },
}


def _run_of_all() -> list[Trial]:
    """Return every trial of a small run: one loader believes payloads, one scanner misses them."""
    met = []
    for name in MANIFEST["corpus"]["files"]:
        harmless = name != "payload.pkl" and "over" not in name
        met.append(
            made(
                LOADED if harmless else REFUSED, file=name, error="1 tensors, 4 bytes" if harmless else "SafetensorError: header too large"
            )
        )
        met.append(made(RAN if name == "payload.pkl" else REFUSED, file=name, loader="pickle-load", error="UnpicklingError: invalid"))
        met.append(made(LOADED, file=name, loader="picklescan", scenario=HOSTILE_SCAN, error=None))
    return met


def test_a_page_tells_who_ran_code_the_header_s_limit_and_every_surprise(tmp_path: Path) -> None:
    text = "\n".join(hostile_files.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path, manifest=MANIFEST, trials=_run_of_all())))
    assert "Of the 1 files with a payload, **`pickle-load` ran code of 1**" in text
    assert "safetensors library together of 0" in text
    assert "| ran code" in text
    assert "The header at its limit" in text
    assert (tmp_path / "figures" / "hostile-files.svg").exists()
    assert (tmp_path / "tables" / "surprises.csv").read_text().startswith("kind,loader,files,smallest,bytes")
    assert "ran code,pickle-load,1,payload.pkl" in (tmp_path / "tables" / "surprises.csv").read_text()


def test_a_page_tells_what_scanners_missed_file_by_file(tmp_path: Path) -> None:
    text = "\n".join(scan.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path, manifest=MANIFEST, trials=_run_of_all())))
    assert "| picklescan | 0 | 1 | 0 | 0 | 3 | 0 | 0 | 0 | 1 | 0 |" in " ".join(text.split())
    assert "payload.pkl,f,runs code,missed" in (tmp_path / "tables" / "scanners.csv").read_text()


def test_a_run_without_trials_has_no_such_part(tmp_path: Path) -> None:
    assert hostile_files.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path)) == []
    assert scan.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path)) == []
    assert trials_lines({}, []) == []


def test_a_terminal_tells_each_loader_s_outcomes_within_its_width() -> None:
    lines = trials_lines(MANIFEST, _run_of_all())
    assert all(len(line) <= WIDTH for line in lines)
    assert any(line.startswith("pickle-load: refused 4, ran code 1") for line in lines)
    assert any("found 0, missed 1" in line for line in lines)


def test_a_manifest_gives_back_files_and_tested() -> None:
    assert files_of(MANIFEST)["payload.pkl"].harm == CODE
    assert loaders_of(MANIFEST)["pickle-load"] == LoaderUnderTest("pickle-load", "pickle", BASE)
