"""Verdicts on trials, from made-up ones: what is a surprise and what is none, which file shows it,
what a scanner saw; and the page's part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.analysis.hostile import (
    File,
    LoaderUnderTest,
    ScannerResult,
    SurpriseKind,
    accounts,
    clear,
    files_of,
    growth,
    loaders_of,
    seen_by_scanner,
    surprise,
    surprises,
)
from harness.records.trials import Harm, Outcome, Trial
from harness.report.section_writer import SectionWriter
from harness.report.sections import hostile_files, scan
from harness.report.sections.hostile_files import trials_lines
from harness.report.terminal import WIDTH
from harness.scenarios import HOSTILE_FILES, HOSTILE_SCAN
from tests.helpers import recorded_run

BASE = 100 << 20
TESTED = LoaderUnderTest("safetensors-load-file", "safetensors", BASE)


def file(harm: Harm, format_name: str = "safetensors", name: str = "a", size: int = 10) -> File:
    return File(name, "family", format_name, harm, "is wrong", size, False)


def made(outcome: str = Outcome.REFUSED, **overrides: Any) -> Trial:
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
    assert surprise(made(), file(Harm.LIE), TESTED) is None
    assert surprise(made(Outcome.LOADED), file(Harm.NONE), TESTED) is None


@pytest.mark.parametrize("outcome", [Outcome.RAN, Outcome.CRASHED, Outcome.STARVED, Outcome.HUNG])
def test_an_end_that_no_loader_chose_is_a_surprise(outcome: str) -> None:
    assert surprise(made(outcome), file(Harm.LIE), TESTED) == outcome
    assert surprise(made(outcome), file(Harm.NONE), TESTED) == outcome


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ({"outcome": Outcome.LOADED}, SurpriseKind.LOADED_BAD),
        ({"seconds": 1.5}, SurpriseKind.SLOW),
        ({"peak_rss_bytes": BASE + (300 << 20)}, SurpriseKind.LARGE),
        ({"error": "KeyError: 'a'"}, SurpriseKind.UNCLEAR),
        ({"error": "ValueError"}, SurpriseKind.UNCLEAR),
        ({"error": None}, SurpriseKind.UNCLEAR),
        ({"seconds": 0.9, "peak_rss_bytes": BASE + (200 << 20)}, None),
    ],
)
def test_what_is_more_than_a_refusal_or_less_is_a_surprise(
    overrides: dict[str, Any], kind: str | None
) -> None:
    assert surprise(made(**overrides), file(Harm.BROKEN), TESTED) == kind


def test_a_harmless_file_is_owed_to_the_loaders() -> None:
    assert surprise(made(), file(Harm.NONE), TESTED) == SurpriseKind.REFUSED_GOOD
    assert surprise(made(), file(Harm.NONE, "torch-zip"), TESTED) is None


def test_memory_of_an_unknown_base_is_no_growth() -> None:
    assert growth(made(peak_rss_bytes=1 << 40), LoaderUnderTest("a", "b", None)) is None
    assert growth(made(peak_rss_bytes=None), TESTED) is None
    assert growth(made(peak_rss_bytes=1), TESTED) == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("ValueError: no", True),
        ("IndexError: list index out of range", False),
        ("error: unpack", False),
    ],
)
def test_an_error_is_clear_when_it_has_words(error: str, told: bool) -> None:
    assert clear(error) is told


def test_each_kind_is_shown_by_its_smallest_file() -> None:
    files = {
        name: file(Harm.CODE, name=name, size=size)
        for name, size in (("large", 900), ("small", 90), ("other", 5))
    }
    met = [
        made(Outcome.RAN, file="large"),
        made(Outcome.RAN, file="small"),
        made(Outcome.LOADED, file="other"),
        made(file="other", scenario=HOSTILE_SCAN, outcome=Outcome.HUNG),
    ]
    found = surprises(met, files, {TESTED.name: TESTED})
    assert [(one.kind, one.count, one.smallest.name) for one in found] == [
        (Outcome.RAN, 2, "small"),
        (SurpriseKind.LOADED_BAD, 1, "other"),
    ]


def test_an_account_counts_the_outcomes_and_names_the_longest() -> None:
    met = [
        made(),
        made(seconds=2.0, file="long"),
        made(Outcome.RAN, peak_rss_bytes=BASE + 7, file="big"),
        made(Outcome.HUNG, scenario=HOSTILE_SCAN),
    ]
    (one,) = accounts(met, {TESTED.name: TESTED})
    assert one.counts == {Outcome.REFUSED: 2, Outcome.RAN: 1}
    assert one.slowest
    assert one.largest
    assert (one.slowest.file, one.largest.file, one.growth) == ("long", "big", 7)


@pytest.mark.parametrize(
    ("outcome", "error", "harm", "word"),
    [
        (Outcome.REFUSED, "FoundError: os.system", Harm.CODE, ScannerResult.FOUND),
        (Outcome.LOADED, None, Harm.CODE, ScannerResult.MISSED),
        (Outcome.REFUSED, "CannotTellError: it looked at nothing", Harm.CODE, ScannerResult.SILENT),
        (Outcome.REFUSED, "ValueError: broken", Harm.NONE, ScannerResult.SILENT),
        (Outcome.REFUSED, "FoundError: os.system", Harm.NONE, ScannerResult.FALSE_ALARM),
        (Outcome.LOADED, None, Harm.NONE, ScannerResult.PASSED),
        (Outcome.LOADED, None, Harm.LIE, ScannerResult.PASSED),
        (Outcome.REFUSED, "FoundError: x", Harm.LIE, ScannerResult.FOUND),
        (Outcome.HUNG, "in the call", Harm.CODE, ScannerResult.BROKE),
        (Outcome.STARVED, "MemoryError", Harm.NONE, ScannerResult.BROKE),
    ],
)
def test_what_a_scanner_says_is_held_against_what_the_file_is(
    outcome: Outcome, error: str | None, harm: Harm, word: ScannerResult
) -> None:
    assert seen_by_scanner(made(outcome, error=error, scenario=HOSTILE_SCAN), file(harm)) == word


MANIFEST: dict[str, Any] = {
    "corpus": {
        "files": {
            name: {
                "family": "f",
                "format": "safetensors",
                "harm": harm,
                "says": "is so",
                "bytes": 10,
                "plain": False,
            }
            for name, harm in (
                ("payload.pkl", Harm.CODE),
                ("whole.safetensors", Harm.NONE),
                ("cap-padded.safetensors", Harm.NONE),
                ("cap-text.safetensors", Harm.NONE),
                ("cap-text-over.safetensors", Harm.BROKEN),
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
                Outcome.LOADED if harmless else Outcome.REFUSED,
                file=name,
                error="1 tensors, 4 bytes" if harmless else "SafetensorError: header too large",
            )
        )
        met.append(
            made(
                Outcome.RAN if name == "payload.pkl" else Outcome.REFUSED,
                file=name,
                loader="pickle-load",
                error="UnpicklingError: invalid",
            )
        )
        met.append(
            made(Outcome.LOADED, file=name, loader="picklescan", scenario=HOSTILE_SCAN, error=None)
        )
    return met


def test_a_page_tells_who_ran_code_the_header_s_limit(tmp_path: Path) -> None:
    text = "\n".join(
        hostile_files.section(
            SectionWriter(tmp_path, "", 1),
            recorded_run(tmp_path, manifest=MANIFEST, trials=_run_of_all()),
        )
    )
    assert "Of the 1 files with a payload, **`pickle-load` ran code of 1**" in text
    assert "safetensors library together of 0" in text
    assert "| ran code" in text
    assert "The header at its limit" in text
    assert (tmp_path / "figures" / "hostile-files.svg").exists()
    assert (
        (tmp_path / "tables" / "surprises.csv")
        .read_text()
        .startswith("kind,loader,files,smallest,bytes")
    )
    assert (
        "ran code,pickle-load,1,payload.pkl" in (tmp_path / "tables" / "surprises.csv").read_text()
    )


def test_a_page_tells_what_scanners_missed_file_by_file(tmp_path: Path) -> None:
    text = "\n".join(
        scan.section(
            SectionWriter(tmp_path, "", 1),
            recorded_run(tmp_path, manifest=MANIFEST, trials=_run_of_all()),
        )
    )
    assert "| picklescan | 0 | 1 | 0 | 0 | 3 | 0 | 0 | 0 | 1 | 0 |" in " ".join(text.split())
    assert "payload.pkl,f,runs code,missed" in (tmp_path / "tables" / "scanners.csv").read_text()


def test_a_run_without_trials_has_no_such_part(tmp_path: Path) -> None:
    assert hostile_files.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path)) == []
    assert scan.section(SectionWriter(tmp_path, "", 1), recorded_run(tmp_path)) == []
    assert trials_lines({}, []) == []


def test_a_terminal_tells_all_outcomes_within_its_width() -> None:
    lines = trials_lines(MANIFEST, _run_of_all())
    assert all(len(line) <= WIDTH for line in lines)
    assert any(line.startswith("pickle-load: refused 4, ran code 1") for line in lines)
    assert any("0 of 1 found, 1 missed" in line for line in lines)


def test_a_manifest_gives_back_files_and_tested() -> None:
    assert files_of(MANIFEST)["payload.pkl"].harm == Harm.CODE
    assert loaders_of(MANIFEST)["pickle-load"] == LoaderUnderTest("pickle-load", "pickle", BASE)
