"""The claims: what is said, what measures it, and the verdict that the measurements give."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path

import msgspec

from harness.analysis.claim_findings import ClaimTest, Finding, Recorded, RuleOutcome
from harness.analysis.claim_rules import AnyTest
from harness.analysis.machines import Machine, machines_of
from harness.analysis.recorded_run import RecordedRun
from harness.errors import WeighbridgeError


class ClaimVerdict(StrEnum):
    """What a claim comes to."""

    HOLDS = "holds"
    PARTLY = "holds partly"
    DOES_NOT = "does not hold"
    NOT_TESTED = "not tested"


class Answer(StrEnum):
    """What the tests of one side of a claim come to."""

    YES = "yes"
    NO = "no"
    IN_PART = "in part"
    UNCLEAR = "unclear"
    NOT_MEASURED = "not measured"


ENOUGH = 16
"""With as many pairs an inconclusive test is not measured again."""
_FILE = Path(__file__).with_name("claims.toml")


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One statement under test."""

    id: str
    says: str
    where: str
    tests: tuple[AnyTest, ...]
    figure: float | None = None
    figure_text: str | None = None
    under: str | None = None
    """The conditions that it was said under, None where it named none."""
    left: str | None = None
    """What of it no test here can reach."""

    def __post_init__(self) -> None:
        """Refuse a test that needs the claim's figure where there is none."""
        for number, test in enumerate(self.tests, 1):
            try:
                test.criterion(self.figure)
            except ValueError as error:
                raise ValueError(f"test {number} ({test.says}): {error}") from None


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What takes the samples of some tests."""

    name: str
    arguments: tuple[str, ...]
    """Of pytest, after `benchmarks`."""
    minutes: int
    needs: str | None = None


class ClaimsFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `claims.toml` holds."""

    measure: tuple[Measure, ...]
    claim: tuple[Claim, ...]


@dataclass(frozen=True)
class JudgedTest:
    """A test with what was found, and how its rule puts it into words."""

    test: ClaimTest
    finding: Finding
    criterion: str


@dataclass(frozen=True)
class Side:
    """One side of a claim: what its tests look at, and what they come to together."""

    name: str
    tests: tuple[JudgedTest, ...]

    @property
    def answer(self) -> Answer:
        """`unclear` where an interval spans its limit and nothing else decides."""
        outcomes = {result.finding.outcome for result in self.tests}
        if outcomes == {RuleOutcome.NOT_MEASURED}:
            return Answer.NOT_MEASURED
        outcomes.discard(RuleOutcome.NOT_MEASURED)
        if outcomes == {RuleOutcome.HOLDS}:
            return Answer.YES
        if outcomes == {RuleOutcome.FAILS}:
            return Answer.NO
        return Answer.IN_PART if RuleOutcome.HOLDS in outcomes else Answer.UNCLEAR


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with its verdict and every test that the verdict follows from."""

    claim: Claim
    verdict: ClaimVerdict
    tests: tuple[JudgedTest, ...]

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides of the claim in the order of its tests; what stands aside is on none."""
        together: dict[str, list[JudgedTest]] = {}
        for result in self.tests:
            if not result.test.aside:
                together.setdefault(result.test.name, []).append(result)
        return tuple(Side(name, tuple(tests)) for name, tests in together.items())

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why tests that decide were not measured, each reason once."""
        reasons = (result.finding.reason for result in self.tests if not result.test.aside)
        return tuple(dict.fromkeys(reason for reason in reasons if reason))


@cache
def claims() -> tuple[Claim, ...]:
    """Return every claim, in the file's order."""
    return claims_file().claim


@cache
def measures() -> dict[str, Measure]:
    """Return what can be measured for the claims, by name."""
    return {measure.name: measure for measure in claims_file().measure}


@cache
def claims_file() -> ClaimsFile:
    """Return what `claims.toml` holds.

    Raises `WeighbridgeError`, naming the entry and the key, where it cannot be read.
    """
    try:
        content = tomllib.loads(_FILE.read_text(encoding="utf-8"))
        file = msgspec.convert(content, ClaimsFile)
    except msgspec.ValidationError as error:
        raise WeighbridgeError(f"{_FILE.name}: {_with_entry(str(error), content)}") from None
    except ValueError as error:
        raise WeighbridgeError(f"{_FILE.name}: not TOML ({error})") from None
    known = {measure.name for measure in file.measure}
    for claim in file.claim:
        for number, test in enumerate(claim.tests, 1):
            if test.measure not in known:
                there = ", ".join(sorted(known))
                raise WeighbridgeError(
                    f"{_FILE.name}: claim {claim.id}, test {number} ({test.says}): unknown measure"
                    f" {test.measure!r}; there are: {there}"
                )
    return file


def _with_entry(error: str, content: dict[str, list[dict[str, object]]]) -> str:
    """Return a decoding error with the entry's own name in place of its position in the file."""
    message, _, path = error.partition(" - at `$")
    names = []
    for kind, position in re.findall(r"(claim|measure|tests)\[(\d+)\]", path):
        if kind == "tests":
            names.append(f"test {int(position) + 1}")
        else:
            entry = content[kind][int(position)]
            names.append(f"{kind} {entry.get('id') or entry.get('name')}")
    return ": ".join(filter(None, (", ".join(names), message)))


def judge_claims(runs: Sequence[Recorded], of: Sequence[Claim] | None = None) -> list[JudgedClaim]:
    """Return a verdict on every claim, from the runs of one machine.

    A claim that no run tells of is `not tested`, never left out.
    """
    return [judge(claim, runs) for claim in (claims() if of is None else of)]


def judge(claim: Claim, runs: Sequence[Recorded]) -> JudgedClaim:
    """Return the verdict on a claim: of each test the finding that rests on most pairs, and what
    they say together.

    Each test without a condition has to hold. Of those with one, all that hold make it `holds`,
    some `holds partly`, none `does not hold`. What was not measured or is inconclusive decides
    nothing, and is named.
    """
    tests = tuple(_tested(test, claim, runs) for test in claim.tests)
    deciding = [result for result in tests if not result.test.aside]
    always = {result.finding.outcome for result in deciding if result.test.condition is None}
    under = {result.finding.outcome for result in deciding if result.test.condition is not None}
    return JudgedClaim(claim, _verdict(always, under), tests)


def _verdict(always: Set[RuleOutcome], under: Set[RuleOutcome]) -> ClaimVerdict:
    """Return the verdict on the outcomes of the tests that have to hold, and of those under a
    condition.
    """
    unknown = {RuleOutcome.NOT_MEASURED, RuleOutcome.INCONCLUSIVE}
    if RuleOutcome.FAILS in always:
        return ClaimVerdict.DOES_NOT
    if always & unknown or (under and under <= unknown):
        return ClaimVerdict.NOT_TESTED
    if under and RuleOutcome.HOLDS not in under:
        return ClaimVerdict.DOES_NOT
    return ClaimVerdict.PARTLY if under - {RuleOutcome.HOLDS} else ClaimVerdict.HOLDS


def missing(judged_claims: Sequence[JudgedClaim]) -> list[Measure]:
    """Return what has to be measured so that every test is, in the order of the ledger: more of it
    where too few could not tell.
    """
    names = {
        result.test.measure
        for judged in judged_claims
        for result in judged.tests
        if _lacks(result.finding)
    }
    return [measure for name, measure in measures().items() if name in names]


def changed(
    before: Sequence[JudgedClaim], after: Sequence[JudgedClaim]
) -> list[tuple[JudgedClaim, JudgedClaim]]:
    """Return (before, after) of every claim whose verdict, with its conditions, is another than it
    was.
    """
    then = {judged.claim.id: judged for judged in before}
    pairs = [(then[judged.claim.id], judged) for judged in after if judged.claim.id in then]
    return [
        (old, new)
        for old, new in pairs
        if (old.verdict, _conditions(old)) != (new.verdict, _conditions(new))
    ]


def _lacks(finding: Finding) -> bool:
    return finding.outcome == RuleOutcome.NOT_MEASURED or (
        finding.outcome == RuleOutcome.INCONCLUSIVE and finding.count < ENOUGH
    )


def _conditions(judged: JudgedClaim) -> list[str]:
    return [
        result.test.says
        for result in judged.tests
        if result.finding.outcome == RuleOutcome.HOLDS
        and result.test.condition
        and not result.test.aside
    ]


def _tested(test: ClaimTest, claim: Claim, runs: Sequence[Recorded]) -> JudgedTest:
    words = test.criterion(claim.figure)
    findings = [test.judge(run, claim.figure) for run in runs]
    measured = [
        (_weight(test, run, finding), finding)
        for run, finding in zip(runs, findings, strict=True)
        if finding.outcome != RuleOutcome.NOT_MEASURED
    ]
    if measured:
        return JudgedTest(test, max(measured, key=lambda entry: entry[0])[1], words)
    reasons = [finding for finding in findings if finding.reason]
    needs = measures()[test.measure].needs
    otherwise = (
        f"no run on a {'GPU' if needs == 'cuda' else needs} is here yet"
        if needs
        else "no run here measured it"
    )
    return JudgedTest(
        test, reasons[-1] if reasons else Finding(RuleOutcome.NOT_MEASURED, reason=otherwise), words
    )


def _weight(test: ClaimTest, run: Recorded, finding: Finding) -> tuple[int, int, str]:
    """Return what decides between findings of several runs: most pairs, of as many the run that
    compared most loaders there, and then the newest. None of it looks at what was found.
    """
    cell = getattr(test, "cell", "")  # a rule about checks or trials has none
    return finding.count, len({sample.loader for sample in run.cells.get(cell, ())}), run.run


def recorded(evidence: Sequence[RecordedRun]) -> list[Recorded]:
    """Return what the rules look at, of every run that is no regression run: there environments
    stand side by side.
    """
    return [
        Recorded.of(run.name, run.manifest, run.samples, run.checks, run.trials)
        for run in evidence
        if not run.paired
    ]


def by_machine(evidence: Sequence[RecordedRun]) -> list[Machine]:
    """Return the machines of these runs, regression runs left aside, the one with most samples
    first, and of as many the one whose runs tell of most tests.
    """
    return [machine for machine, _ in judged_machines(evidence)]


def judged_machines(evidence: Sequence[RecordedRun]) -> list[tuple[Machine, list[JudgedClaim]]]:
    """Return the machines of these runs with their verdicts, the one with most samples first:
    intervals are narrow there.
    """
    machines = [
        replace(machine, runs=runs)
        for machine in machines_of(evidence)
        if (runs := tuple(run for run in machine.runs if not run.paired))
    ]
    verdicts = [(machine, judge_claims(recorded(machine.runs))) for machine in machines]
    return sorted(
        verdicts,
        key=lambda entry: (-sum(len(run.samples) for run in entry[0].runs), -_told(entry[1])),
    )


def _told(judged: Sequence[JudgedClaim]) -> int:
    """Return how many tests were told, one way or the other."""
    return sum(
        tested.finding.outcome in (RuleOutcome.HOLDS, RuleOutcome.FAILS)
        for claim in judged
        for tested in claim.tests
    )


def judged_here(evidence: Sequence[RecordedRun]) -> list[JudgedClaim]:
    """Return the verdicts of the machine with most samples, of claims it could not test
    another's.
    """
    machines = [(machine.name, judged) for machine, judged in judged_machines(evidence)]
    return with_verdicts_lent(machines)[0] if machines else judge_claims([])


def with_verdicts_lent(
    machines: Sequence[tuple[str, Sequence[JudgedClaim]]],
) -> tuple[list[JudgedClaim], dict[str, str]]:
    """Return each claim's verdict from the first machine that could test it, and which machine that
    was where it is not the first of all.

    A claim is judged on a machine that has what it needs: one about a GPU by the machine with a
    GPU, beside the others' verdicts.
    """
    first = list(machines[0][1])
    elsewhere: dict[str, str] = {}
    for number, judged in enumerate(first):
        if judged.verdict == ClaimVerdict.NOT_TESTED:
            able = (
                (name, other[number])
                for name, other in machines[1:]
                if other[number].verdict != ClaimVerdict.NOT_TESTED
            )
            if better := next(able, None):
                elsewhere[judged.claim.id], first[number] = better
    return first, elsewhere
