"""The rules for a run: each breach is found by name, a good run keeps all, and an old one is not
blamed for what nobody recorded then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.analysis.run_rules import (
    CONTRIBUTED,
    RULES,
    Evidence,
    RuleOutcome,
    rules_before,
    rules_named,
)
from harness.cli import main
from harness.commands.check import judged
from harness.errors import WeighbridgeError
from harness.records import limits
from harness.records.run_directory import RunDirectory
from harness.records.sample import BUSY, Sample
from harness.report.rules_text import result_lines, rules_block
from tests.helpers import ROOT
from tests.test_report import cell_samples, make_run, record, spoilt

REFERENCE_RUNS = RunDirectory.all_in(ROOT / "results/reference")
COLD: dict[str, Any] = {
    "cache_state": "cold",
    "resident_before": 0.0,
    "storage_read_bytes": 1 << 40,
    "cold_depth": "below",
    "storage_witness": "bytes read",
    "others_cpu_share": 0.01,
    "steal_share": 0.0,
}
MANIFEST: dict[str, Any] = {
    "version": "0.1.0",
    "finished_at": "2026-01-01T00:10:00+00:00",
    "page_cache": {"cold": True, "method": "cachestat", "witness": "bytes read", "depth": "below"},
    "packages": {"python": "3.12", "torch": "2.13", "safetensors": "0.8"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "environments": {"reference": {"versions": {"torch": "2.13"}, "code": "abc"}},
    "cells": [record(cache_state="cold")],
}


def good() -> Evidence:
    samples = cell_samples(**COLD)
    return Evidence(MANIFEST, samples, texts={"manifest.json": "{}"}, packed_bytes=1000)


def with_samples(**fields: Any) -> Callable[[Evidence], Evidence]:
    """Return what gives every sample of a loader these fields."""

    def changed(evidence: Evidence) -> Evidence:
        samples = [
            msgspec.convert(sample.as_json() | fields, Sample)
            if sample.loader == "torch-load"
            else sample
            for sample in evidence.samples
        ]
        return replace(evidence, samples=samples)

    return changed


def with_manifest(**fields: Any) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, manifest={**evidence.manifest, **fields})


def test_a_good_run_keeps_every_rule() -> None:
    results = [rule.result(good()) for rule in RULES]
    assert {result.outcome for result in results} == {RuleOutcome.KEPT}, results


@pytest.mark.parametrize(
    ("rule", "breach"),
    [
        ("finished", with_manifest(finished_at=None)),
        ("finished", lambda evidence: replace(evidence, samples=[])),
        ("uncut", with_manifest(cells=[record(status="cut")])),
        ("proof", with_samples(resident_before=0.5)),
        ("proof", with_samples(resident_before=None)),
        ("proof", with_samples(storage_read_bytes=1000)),
        ("proof", with_samples(storage_read_bytes=None)),
        ("proof", with_samples(cold_depth=None)),
        ("proof", with_samples(cache_state="warm", resident_before=0.5)),
        ("blocks", lambda evidence: replace(evidence, samples=cell_samples(blocks=5, **COLD))),
        ("versions", with_manifest(git={"commit": "0123456789abcdef", "dirty": True})),
        ("versions", with_manifest(packages={"python": "3.12", "torch": None})),
        ("versions", with_manifest(environments={})),
        (
            "versions",
            with_manifest(
                environments={
                    name: {"versions": {"torch": "2"}, "code": name} for name in ("reference", "b")
                }
            ),
        ),
        ("quiet-machine", with_samples(valid=False, reason=BUSY, others_cpu_share=0.4)),
        ("quiet-machine", with_samples(steal_share=0.3)),
        ("privacy", lambda evidence: replace(evidence, texts={"a.md": "in /home/anna/models/x"})),
        ("sizes", lambda evidence: replace(evidence, packed_bytes=limits.RUN_BYTES_AT_MOST + 1)),
    ],
)
def test_a_breach_is_an_issue_of_its_rule(
    rule: str, breach: Callable[[Evidence], Evidence]
) -> None:
    [broken] = rules_named([rule])
    issues = broken.check(breach(good()))
    assert issues
    for issue in issues:
        assert issue.rule == rule
        assert issue.message and issue.expected and issue.found and issue.to_do


def test_invalid_samples_prove_nothing_and_break_nothing() -> None:
    samples = [*cell_samples(**COLD), *spoilt(cell_samples(**COLD | {"resident_before": 0.9}), "x")]
    [proof] = rules_named(["proof"])
    assert not proof.check(replace(good(), samples=samples))


def test_what_an_old_run_did_not_record_is_not_an_issue() -> None:
    old = with_samples(cold_depth=None, storage_witness=None, others_cpu_share=None)(good())
    old = replace(
        old,
        samples=[sample for sample in old.samples if sample.loader == "torch-load"],
        manifest={**MANIFEST, "page_cache": {"cold": True}, "git": None},
    )
    for name in ("proof", "quiet-machine", "versions"):
        [rule] = rules_named([name])
        assert rule.result(old).outcome == RuleOutcome.NOT_RECORDED


@pytest.mark.parametrize("run", REFERENCE_RUNS, ids=lambda run: run.name)
def test_a_committed_run_keeps_what_a_contribution_must(run: RunDirectory) -> None:
    for result in judged(run, rules_named([*CONTRIBUTED, "versions"])):
        assert not result.issues, result.issues


def test_rules_before_a_run_find_what_will_break() -> None:
    here = Evidence(MANIFEST, busy_share=0.01)
    assert {rule.name for rule in rules_before()} == {"proof", "versions", "quiet-machine"}
    assert not [issue for rule in rules_before() for issue in rule.check(here, before=True)]
    page_cache = {"cold": False, "reason": "tmpfs keeps every page"}
    git = {"commit": "0123456789abcdef", "dirty": True}
    bad = Evidence({**MANIFEST, "page_cache": page_cache, "git": git}, busy_share=0.5)
    for rule in rules_before():
        [issue] = rule.check(bad, before=True)
        assert issue.rule == rule.name


def test_each_rule_is_one_line_with_expected_and_found() -> None:
    lines = result_lines([rule.result(good()) for rule in RULES])
    assert len(lines) == len(RULES)
    for line, rule in zip(lines, RULES, strict=True):
        assert line.startswith(f"{rule.name}: ok: expected ")
        assert "; found " in line and "\n" not in line


def test_an_unknown_rule_gets_the_names_there_are() -> None:
    with pytest.raises(WeighbridgeError, match="unknown rule 'speed'; there are: finished, uncut"):
        rules_named(["speed"])


def test_contributing_lists_the_rules_of_the_code() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.partition("<!-- rules:begin -->\n")[2].partition("\n<!-- rules:end -->")[0]
    assert block == rules_block(RULES)


# The command


def checked(*arguments: str) -> int:
    return main(["check", *arguments])


def test_check_exits_by_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, cell_samples(**COLD), **MANIFEST)
    assert checked(str(run.path)) == 0
    assert "8 of 8 rules kept, 0 broken" in capsys.readouterr().out
    (run.path / "report.md").write_text("made in /home/anna/work/x")
    assert checked(str(run.path)) == 1
    assert "privacy: issue: " in capsys.readouterr().out
    assert checked(str(run.path), "--only", "sizes") == 0
    assert checked(run.name, "--results", str(tmp_path)) == 1
    assert checked("--all", "--results", str(tmp_path)) == 1
    assert checked(str(tmp_path / "none")) == 2
    assert checked("--all", "--results", str(tmp_path / "none")) == 2


def test_check_gives_a_program_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, cell_samples(blocks=3, **COLD), **MANIFEST)
    assert checked(str(run.path), "--json") == 1
    [told] = json.loads(capsys.readouterr().out)
    rules = {entry["rule"]: entry for entry in told["rules"]}
    assert list(rules) == [rule.name for rule in RULES]
    assert rules["blocks"]["outcome"] == "issue"
    [issue] = rules["blocks"]["issues"]
    assert set(issue) == {"rule", "message", "expected", "found", "to_do"}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm")
def test_check_before_a_run_examines_the_storage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shared = Path("/dev/shm") / f"weighbridge-{tmp_path.name}"
    try:
        assert checked("--store", str(shared), "--only", "proof") == 1
    finally:
        shared.rmdir()
    assert "proof: issue: " in capsys.readouterr().out
