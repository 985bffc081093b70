"""The claims ledger: every claim has a verdict that follows from its samples by its rule, and each
verdict can come out each way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.analysis import claims as entries
from harness.analysis.claim_findings import ClaimTest, Finding, Limits, Recorded, RuleOutcome
from harness.analysis.claim_rules import AnyTest
from harness.analysis.claims import (
    Claim,
    ClaimVerdict,
    changed,
    claims,
    judge,
    judge_claims,
    measures,
    missing,
)
from harness.analysis.load_rules import ContentTest, FieldTest, PaybackTest, RatioTest
from harness.analysis.trial_rules import ChecksTest, ScannerTest, TrialsTest
from harness.cli import main
from harness.records.checks import Check
from harness.records.sample import Sample
from harness.records.trials import Harm, Outcome, Trial
from harness.report.sections import claims as ledger
from harness.report.verdict_text import sentence, verdict_line
from tests.helpers import ROOT, make_sample

WARM, COLD = "full-load/gpt2/warm/cpu", "full-load/gpt2/cold/cpu"
WHERE = {"scenario": "full-load", "checkpoint": "gpt2", "cache_state": "warm", "device": "cpu"}
OWN: dict[str, Any] = {"says": "something", "measure": "full-load"}
"""What every test has."""


def loads(
    ratio: float, blocks: int = 8, cell: str = WARM, jitter: float = 0.01, **overrides: Any
) -> list[Sample]:
    """Return blocks of two loaders of which torch.load takes about `ratio` times as long, by either
    clock.
    """

    scenario, checkpoint, cache_state, device = cell.split("/")
    where = {
        "scenario": scenario,
        "checkpoint": checkpoint,
        "cache_state": cache_state,
        "device": device,
    }
    return [
        make_sample(**where, loader=loader, block=block, returned_s=base, ready_s=base, **overrides)
        for block in range(blocks)
        for loader, base in (
            ("safetensors-load-file", 1.0),
            ("torch-load", ratio * (1 + jitter * (block % 3 - 1))),
        )
    ]


def run_of(
    samples: Sequence[Sample] = (), name: str = "20250101T000000Z-test", **recorded: Any
) -> Recorded:
    """Return a run that recorded these samples."""
    return Recorded.of(name, recorded.pop("manifest", {}), samples, **recorded)


def ratio_test(condition: str | None = None, cell: str = WARM, **limits: Any) -> RatioTest:
    """Return a test of the ratio of the two loaders."""
    return RatioTest(
        says=f"ratio {condition}",
        measure="full-load",
        condition=condition,
        cell=cell,
        over="torch-load",
        under="safetensors-load-file",
        field="ready_s",
        **(limits or {"at_least": 2.0}),
    )


def claim_of(*tests: AnyTest, figure: float | None = None) -> Claim:
    """Return a claim with these tests."""
    return Claim(id="C0", says="something is said.", where="somewhere", figure=figure, tests=tests)


def judged(test: ClaimTest, run: Recorded, figure: float | None = None) -> Finding:
    """Return what a run says of a test."""
    return test.judge(run, figure)


def test_of_as_many_pairs_the_run_with_most_loaders_counts() -> None:
    pair = loads(3.0)
    broad = [*pair, replace(pair[0], loader="torch-load-mmap")]
    claim = claim_of(ratio_test())
    runs = [run_of(broad, "20250101T000000Z-broad"), run_of(loads(9.0), "20250102T000000Z-newer")]
    (result,) = judge(claim, runs).tests
    assert result.finding.run == "20250101T000000Z-broad"


def test_every_claim_under_test_has_an_entry() -> None:
    numbers = [
        *(f"C{number}" for number in range(1, 12)),
        *(f"J{number}" for number in range(1, 7)),
        *(f"F{number}" for number in range(1, 9)),
    ]
    assert [claim.id for claim in claims()] == numbers


def test_no_claim_is_missing_where_nothing_was_measured() -> None:
    judged = judge_claims([])
    assert [one.verdict for one in judged] == [ClaimVerdict.NOT_TESTED] * len(claims())
    assert all(len(sentence(one)) > 1 for one in judged), "each with a reason"
    assert missing(judged) == list(measures().values())


@pytest.mark.parametrize(
    ("ratio", "limits", "outcome"),
    [
        (3.0, {"at_least": 2.0}, RuleOutcome.HOLDS),
        (1.5, {"at_least": 2.0}, RuleOutcome.FAILS),
        (2.0, {"at_least": 2.0}, RuleOutcome.INCONCLUSIVE),
        (1.0, {"at_least": 0.8, "at_most": 1.25}, RuleOutcome.HOLDS),
        (1.25, {"at_least": 0.8, "at_most": 1.25}, RuleOutcome.INCONCLUSIVE),
        (0.5, {"at_least": 0.8, "at_most": 1.25}, RuleOutcome.FAILS),
        (2.0, {"at_least": 0.8, "at_most": 1.25}, RuleOutcome.FAILS),
    ],
)
def test_a_ratio_holds_only_if_its_whole_interval_does(
    ratio: float, limits: dict[str, Any], outcome: str
) -> None:
    test = ratio_test(**limits)
    finding = judged(test, run_of(loads(ratio)))
    assert finding.outcome == outcome
    assert finding.figure is not None
    assert finding.figure.median == pytest.approx(ratio)
    assert (finding.count, finding.of_what, finding.run) == (8, "pairs", "20250101T000000Z-test")


def test_five_pairs_tell_nothing_and_say_so() -> None:
    finding = judged(ratio_test(at_least=2.0), run_of(loads(3.0, blocks=5)))
    assert (finding.outcome, finding.reason) == (
        RuleOutcome.NOT_MEASURED,
        "5 pairs in 20250101T000000Z-test, and at least 6 are needed",
    )


def test_invalid_samples_are_no_pairs() -> None:
    samples = [
        replace(one, valid=False, reason="not-warm") if one.block < 3 else one for one in loads(3.0)
    ]
    assert judged(ratio_test(), run_of(samples)).outcome == RuleOutcome.NOT_MEASURED
    samples = loads(3.0)
    samples[1] = replace(samples[1], valid=False, reason="wrong-content", detail="a.weight differs")
    assert "wrong tensors" in (judged(ratio_test(), run_of(samples)).reason or "")


def test_the_gain_asked_for_is_half_of_the_claims_own() -> None:
    limits = ratio_test(gain=True).limits(49.5)
    assert limits.at_least == pytest.approx(25.25)
    assert "49.5" in limits.words
    with pytest.raises(ValueError, match="figure"):
        claim_of(ratio_test(gain=True))


def test_limits_that_any_figure_meets_are_refused() -> None:
    with pytest.raises(ValueError, match="no limit"):
        Limits(None, None, "")
    with pytest.raises(ValueError, match="no limit"):
        RatioTest(**OWN, cell=WARM, over="a", under="b", field="ready_s")


def test_a_field_is_judged_alone() -> None:
    samples = [
        replace(
            one,
            storage_read_bytes=1500 + one.block,
            requested_bytes=1000,
            phases={"first_call": 0.1},
        )
        for one in loads(1.0)
    ]
    read: dict[str, Any] = {
        "cell": WARM,
        "loader": "torch-load",
        "field": "storage_read_bytes",
        "per": "requested_bytes",
    }
    first_call: dict[str, Any] = {
        "cell": WARM,
        "loader": "torch-load",
        "field": "phases.first_call",
    }
    for keys, outcome in (
        (read | {"at_most": 1.25}, RuleOutcome.FAILS),
        (read | {"at_most": 2.0}, RuleOutcome.HOLDS),
        (first_call | {"at_least": 0.05}, RuleOutcome.HOLDS),
    ):
        assert judged(FieldTest(**OWN, **keys), run_of(samples)).outcome == outcome


def test_a_memory_limit_is_read_as_a_multiple() -> None:
    test = next(test for claim in claims() if claim.id == "F7" for test in claim.tests)
    assert test.phrase.format(times="2.0 times") == "2.0 times the checkpoint"


def check(name: str, outcome: str, claim: str = "C9") -> Check:
    """Return a check with an outcome."""
    return Check(
        1,
        "r",
        claim,
        name,
        "diffusers 1",
        "a call",
        "a model",
        "what happened",
        None,
        outcome,
        0.1,
        "2025-01-01T00:00:00+00:00",
    )


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [
        (["kept", "kept"], RuleOutcome.HOLDS),
        (["kept", "broken"], RuleOutcome.FAILS),
        (["kept", "not tested here"], RuleOutcome.HOLDS),
        (["not tested here"], RuleOutcome.NOT_MEASURED),
        ([], RuleOutcome.NOT_MEASURED),
    ],
)
def test_checks_hold_where_every_one_that_was_told_was_kept(
    outcomes: list[str], outcome: str
) -> None:
    checks = [check(f"single-{number}", told) for number, told in enumerate(outcomes)]
    others = [
        check("other", "broken"),
        check("single-x", "broken", claim="C8"),
        check("single-left", "broken"),
    ]
    test = ChecksTest(**OWN, claim="C9", like="single-*", unlike="single-left")
    assert judged(test, run_of(checks=[*checks, *others])).outcome == outcome


def corpus(**harms: str) -> dict[str, Any]:
    """Return a manifest with hostile files of these harms and two loaders and a scanner that met
    them.
    """

    files = {
        name: {
            "family": "f",
            "format": "safetensors",
            "harm": harm,
            "says": "is bad",
            "bytes": 10,
            "plain": False,
        }
        for name, harm in harms.items()
    }
    return {
        "corpus": {"files": files},
        "loaders_under_test": {
            name: {"format": "safetensors", "base_rss_bytes": 1000}
            for name in ("safe-a", "safe-b", "scanner")
        },
    }


def trial(
    loader: str,
    outcome: Outcome,
    seconds: float = 0.1,
    peak: int = 2000,
    scenario: str = "hostile-files",
    error: str = "ValueError: no",
) -> Trial:
    """Return a trial of a loader with the file that runs code."""
    return Trial(scenario, "bad", "f", loader, outcome, error, seconds, peak)


@pytest.mark.parametrize(
    ("outcomes", "ended", "outcome"),
    [
        (["refused", "refused"], "none", RuleOutcome.HOLDS),
        (["refused", "ran code"], "none", RuleOutcome.FAILS),
        (["refused", "ran code"], "some", RuleOutcome.HOLDS),
        (["refused", "refused"], "some", RuleOutcome.FAILS),
        (["ran code", "ran code"], "all", RuleOutcome.HOLDS),
        (["ran code", "refused"], "all", RuleOutcome.FAILS),
    ],
)
def test_trials_are_counted_by_how_they_ended(
    outcomes: list[str], ended: str, outcome: str
) -> None:
    trials = [
        trial(loader, Outcome(ended))
        for loader, ended in zip(("safe-a", "safe-b"), outcomes, strict=True)
    ]
    run = run_of(manifest=corpus(bad="runs code"), trials=[*trials, trial("other", Outcome.RAN)])
    keys: dict[str, Any] = {"loaders": "safe-*", "outcome": "ran code", "ended": ended}
    assert judged(TrialsTest(**OWN, **keys, harm=Harm.CODE), run).outcome == outcome
    assert judged(TrialsTest(**OWN, **keys, harm=Harm.LIE), run).outcome == RuleOutcome.NOT_MEASURED


@pytest.mark.parametrize(
    ("seconds", "peak", "outcome"),
    [
        (0.1, 2000, RuleOutcome.HOLDS),
        (2.0, 2000, RuleOutcome.FAILS),
        (0.1, 10_000, RuleOutcome.FAILS),
    ],
)
def test_a_refusal_that_takes_long_or_much_is_none(seconds: float, peak: int, outcome: str) -> None:
    run = run_of(
        manifest=corpus(bad="takes memory"),
        trials=[trial("safe-a", Outcome.REFUSED, seconds, peak)],
    )
    asked: tuple[dict[str, Any], ...] = (
        {"outcome": "refused", "ended": "all"},
        {"ended": "well"},
    )
    for ended in asked:
        keys: dict[str, Any] = {
            "loaders": "safe-*",
            "files": ("bad",),
            "within_s": 1.0,
            "within_bytes": 5000,
        }
        assert judged(TrialsTest(**OWN, **keys, **ended), run).outcome == outcome


@pytest.mark.parametrize(
    ("ended", "error", "outcome"),
    [
        ("refused", "FoundError: os.system", RuleOutcome.HOLDS),
        ("loaded", "", RuleOutcome.FAILS),
        ("refused", "ValueError: no", RuleOutcome.HOLDS),
    ],
)
def test_a_scanner_fails_by_passing_one_payload(ended: str, error: str, outcome: str) -> None:
    run = run_of(
        manifest=corpus(bad="runs code"),
        trials=[trial("scanner", Outcome(ended), scenario="hostile-scan", error=error)],
    )
    assert judged(ScannerTest(**OWN, loader="scanner"), run).outcome == outcome
    assert judged(ScannerTest(**OWN, loader="nobody"), run).outcome == RuleOutcome.NOT_MEASURED


def test_a_conversion_is_held_against_its_source() -> None:
    made = [
        make_sample(scenario="conversion", checkpoint="gpt2", loader="convert", block=block)
        for block in range(6)
    ]
    test = ContentTest(**OWN, cell="conversion/gpt2/warm/cpu", loader="convert")
    assert judged(test, run_of(made)).outcome == RuleOutcome.HOLDS
    assert (
        judged(test, run_of([*made[1:], replace(made[0], content_ok=False)])).outcome
        == RuleOutcome.FAILS
    )
    assert judged(test, run_of(made[1:])).outcome == RuleOutcome.NOT_MEASURED


PAYBACK = PaybackTest(
    **OWN,
    cell="conversion/gpt2/warm/cpu",
    loader="convert",
    load_cell=WARM,
    over="torch-load",
    under="safetensors-load-file",
    field="ready_s",
    at_most=100,
)


def test_what_a_load_saves_is_taken_within_blocks() -> None:
    """Every block is slower than the one before, and one loader misses the first: by order the
    pairs would save less than nothing.
    """

    made = [
        make_sample(
            scenario="conversion", checkpoint="gpt2", loader="convert", block=block, ready_s=4.0
        )
        for block in range(6)
    ]
    slowing = [
        replace(one, ready_s=10 * one.block + one.ready_s)
        for one in loads(3.0, jitter=0.0)
        if one.ready_s
    ]
    samples = [
        *made,
        *(one for one in slowing if not (one.block == 7 and one.loader == "torch-load")),
        make_sample(**WHERE, loader="torch-load", block=9, ready_s=1.0),
    ]
    found = judged(PAYBACK, run_of([*reversed(samples)]))
    assert found.figure is not None
    assert found.figure.median == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [
        (3.0, RuleOutcome.HOLDS),
        (1.01, RuleOutcome.FAILS),
        (0.5, RuleOutcome.FAILS),
        (1.0, RuleOutcome.INCONCLUSIVE),
    ],
)
def test_a_conversion_is_paid_back_by_what_loads_save_or_never(ratio: float, outcome: str) -> None:
    made = [
        make_sample(
            scenario="conversion", checkpoint="gpt2", loader="convert", block=block, ready_s=4.0
        )
        for block in range(6)
    ]
    found = judged(PAYBACK, run_of([*made, *loads(ratio, jitter=0.001)]))
    assert found.outcome == outcome
    if ratio == 3.0:
        assert found.figure is not None
        assert found.figure.median == pytest.approx(2.0, rel=0.01)


CONDITIONED = claim_of(
    ratio_test("it is warm", at_least=2.0), ratio_test("it is cold", cell=COLD, at_least=2.0)
)


@pytest.mark.parametrize(
    ("warm", "cold", "verdict", "named"),
    [
        (
            3.0,
            3.0,
            ClaimVerdict.HOLDS,
            "It is warm: yes, 3 times as fast; it is cold: yes",
        ),
        (3.0, 1.0, ClaimVerdict.PARTLY, "it is cold: no measurable difference"),
        (3.0, 0.8, ClaimVerdict.PARTLY, "it is cold: no, 25 % slower"),
        (1.0, 3.0, ClaimVerdict.PARTLY, "it is cold: yes, 3 times as fast"),
        (1.3, 1.6, ClaimVerdict.DOES_NOT, "It is warm: no, only 30 % faster"),
        (3.0, 2.0, ClaimVerdict.PARTLY, "it is cold: unclear, 2 times as fast"),
        (1.0, 2.0, ClaimVerdict.DOES_NOT, "it is cold: unclear"),
        (2.0, 2.0, ClaimVerdict.NOT_TESTED, "It is warm: unclear"),
        (3.0, None, ClaimVerdict.PARTLY, "it is cold: not measured"),
        (None, None, ClaimVerdict.NOT_TESTED, "No run here measured it."),
    ],
)
def test_a_verdict_answers_for_each_side(
    warm: float | None, cold: float | None, verdict: str, named: str
) -> None:
    samples = [*(loads(warm) if warm else []), *(loads(cold, cell=COLD) if cold else [])]
    judged = judge(CONDITIONED, [run_of(samples)])
    assert judged.verdict == verdict
    assert named in sentence(judged)


@pytest.mark.parametrize(
    ("warm", "cold", "phrase"),
    [
        (3.0, 4.0, "Both: yes, 3 to 4 times as fast."),
        (3.0, 1.5, "Both: in part, 1.5 to 3 times as fast."),
        (3.0, None, "Both: yes, 3 times as fast."),
        (1.2, 1.3, "Both: no, only 20 to 30 % faster."),
    ],
)
def test_tests_of_one_side_share_a_phrase(warm: float, cold: float | None, phrase: str) -> None:
    claim = claim_of(
        *(
            msgspec.structs.replace(test, side="both")
            for test in (ratio_test("warm"), ratio_test("cold", cell=COLD))
        )
    )
    samples = [*loads(warm), *(loads(cold, cell=COLD) if cold else [])]
    assert sentence(judge(claim, [run_of(samples)])) == phrase


def test_a_figure_is_told_as_its_test_reads_it() -> None:
    for reads, phrase in (
        ("{slowness}", "Here: no, 2 times as fast."),
        ("{times} as long", "Here: no, 0.50 times as long."),
        ("{share} of it", "Here: no, 50 % of it."),
        (None, "Here: no, 2 times as slow."),
    ):
        test = msgspec.structs.replace(ratio_test(), side="here", reads=reads)
        assert sentence(judge(claim_of(test), [run_of(loads(0.5, jitter=0.001))])) == phrase
    with pytest.raises(ValueError, match="reads names what"):
        ratio_test(at_least=1.0, reads="{what} is there")


@pytest.mark.parametrize(
    ("always", "verdict"),
    [
        (3.0, ClaimVerdict.PARTLY),
        (1.0, ClaimVerdict.DOES_NOT),
        (2.0, ClaimVerdict.NOT_TESTED),
        (None, ClaimVerdict.NOT_TESTED),
    ],
)
def test_what_must_hold_always_decides_before_any_condition(
    always: float | None, verdict: str
) -> None:
    claim = claim_of(
        ratio_test(None, at_least=2.0),
        ratio_test("it is cold", cell=COLD, at_least=2.0),
        ratio_test("it is cold and large", cell=COLD, at_least=9.0),
    )
    samples = [*(loads(always) if always else []), *loads(3.0, cell=COLD)]
    assert judge(claim, [run_of(samples)]).verdict == verdict


def test_what_stands_aside_decides_nothing() -> None:
    aside = msgspec.structs.replace(ratio_test(None, cell=COLD, at_least=2.0), aside=True)
    judged = judge(
        claim_of(ratio_test(None, at_least=2.0), aside),
        [run_of([*loads(3.0), *loads(1.0, cell=COLD)])],
    )
    assert judged.verdict == ClaimVerdict.HOLDS
    assert [one.finding.outcome for one in judged.tests] == [RuleOutcome.HOLDS, RuleOutcome.FAILS]


def test_of_several_runs_the_one_with_most_pairs_counts() -> None:
    few, many = (
        run_of(loads(3.0, blocks=6), "20250103T000000Z-few"),
        run_of(loads(1.0, blocks=9), "20250101T000000Z-many"),
    )
    for runs in itertools.permutations((few, many)):
        (tested,) = judge(claim_of(ratio_test(None, at_least=2.0)), runs).tests
        assert (tested.finding.outcome, tested.finding.run) == (
            RuleOutcome.FAILS,
            "20250101T000000Z-many",
        )


def test_what_could_not_be_told_on_few_pairs_is_measured_again() -> None:
    claim = claim_of(ratio_test(None, at_least=2.0))
    assert [
        measure.name for measure in missing([judge(claim, [run_of(loads(2.0, blocks=8))])])
    ] == ["full-load"]
    assert missing([judge(claim, [run_of(loads(2.0, blocks=16))])]) == []
    assert missing([judge(claim, [run_of(loads(3.0, blocks=8))])]) == []


def test_a_refused_cell_gives_the_reason_that_its_run_recorded() -> None:
    entry = {
        "scenario": "full-load",
        "checkpoint": "gpt2",
        "cache_state": "warm",
        "device": "cpu",
        "status": "refused",
        "reason": "tmpfs cannot be made cold",
    }
    judged = judge(claim_of(ratio_test(None, at_least=2.0)), [run_of(manifest={"cells": [entry]})])
    assert verdict_line(judged) == "not tested. Tmpfs cannot be made cold."


def test_a_verdict_that_changed_is_named() -> None:
    before, same, other = (
        judge(CONDITIONED, [run_of([*loads(warm), *loads(cold, cell=COLD)])])
        for warm, cold in ((3.0, 1.0), (4.0, 0.9), (1.0, 3.0))
    )
    assert changed([before], [same]) == []
    assert changed([before], [other]) == [(before, other)]
    lines = " ".join(ledger.ledger_lines([other], changed([before], [other])))
    assert (
        "changed from the committed reference: C0: was holds partly. It is warm: yes" in lines
        and "Is holds partly. It is warm: no" in lines
    )


def test_the_tables_hold_every_claim_and_every_test() -> None:
    judged = judge_claims([run_of(loads(30.0))])
    assert list(ledger.claims_table(judged)["id"]) == [claim.id for claim in claims()]
    assert len(ledger.tests_table(judged)) == sum(len(claim.tests) for claim in claims())
    assert f"Of {len(claims())} claims" in ledger.counted(judged)


def test_the_command_judges_the_runs_that_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run = "results/reference/20261129T064155Z-everything-machine3"
    assert main(["claims", run, "--only", "C9,C11,J5"]) == 0
    said = capsys.readouterr().out
    assert "C9" in said and "holds partly. `from_single_file`: yes" in " ".join(said.split())
    assert "changed from the committed reference: J5" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "C99"], "unknown claim 'C99'; there are: C1,"),
        (["nowhere"], "nowhere: no run directory; one holds a manifest.json"),
        (
            ["--measure", "nowhere"],
            "--measure finds the runs of this machine itself; do not name a RUN with it",
        ),
    ],
)
def test_what_cannot_be_judged_is_told_in_a_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["claims", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_is_measured_and_then_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every run here is of another machine, so all is missing.

    What measures is asked for each, and what it leaves is read.
    """

    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command)
        return type("Done", (), {"returncode": 0})()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.commands.claims.subprocess.run", run)
    monkeypatch.setattr("harness.commands.claims.gpus", list)
    assert main(["claims", "--measure", "--only", "C4,C9,J5", "--results", "here"]) == 0
    said = capsys.readouterr().out
    assert [command[2:5] for command in asked] == [["pytest", "benchmarks", "-m"]] * 2
    assert [command[command.index("-k") + 1] for command in asked] == ["promises", "pipeline_load"]
    assert "gpu: not measured, because there is no GPU" in said


@pytest.mark.parametrize(
    ("right", "spoilt", "words"),
    [
        ("at_least = 0.95 },", "at_leest = 0.95 },", ("claim C4, test 1", "at_leest")),
        (", at_least = 0.95 },", " },", ("claim C4, test 1", "no limit")),
        ("at_least = 0.95 },", 'at_least = "0.95" },', ("claim C4, test 1", "Expected")),
        (
            'rule = "ratio", measure = "gpu"',
            'rule = "ration", measure = "gpu"',
            ("claim C4, test 1", "'ration'"),
        ),
        (
            'rule = "ratio", measure = "gpu"',
            'rule = "ratio", measure = "gp"',
            ("claim C4, test 1", "unknown measure 'gp'"),
        ),
        (
            'figure_text = "as fast or faster"',
            'figure_txt = "as fast or faster"',
            ("claim C4", "figure_txt"),
        ),
        ('needs = "cuda"', 'need = "cuda"', ("measure gpu", "need")),
    ],
)
def test_a_misspelt_entry_ends_every_reader_with_its_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    right: str,
    spoilt: str,
    words: tuple[str, ...],
) -> None:
    """A limit that nobody reads would be no limit, and the claim would hold whatever was
    measured.
    """

    text = entries._FILE.read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "claims.toml").write_text(text.replace(right, spoilt, 1))
    monkeypatch.setattr(entries, "_FILE", tmp_path / "claims.toml")
    cached = (entries.claims_file, entries.claims, entries.measures)
    for one in cached:
        one.cache_clear()
    try:
        assert main(["claims"]) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words) and error.count("\n") == 1
    finally:
        for one in cached:
            one.cache_clear()
