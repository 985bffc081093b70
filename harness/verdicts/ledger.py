"""The claims ledger: what is said, what measures it, and the verdict that the measurements give by the claim's own rule."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import WeighbridgeError
from harness.verdicts.rules import FAILS, HOLDS, KEYS, NOT_MEASURED, NOT_TOLD, RULES, Finding, Recorded, criterion

VERDICTS = VERDICT_HOLDS, ONLY_IF, DOES_NOT, NOT_TESTED = "holds", "holds only if", "does not hold", "not tested here"
ENOUGH = 16
"""With as many pairs a test that could not be told is not measured again."""
_OWN = ("says", "rule", "measure", "condition", "aside")
"""The keys of a test that no rule reads."""
_FILE = Path(__file__).with_name("claims.toml")


@dataclass(frozen=True)
class ClaimTest:
    """One test of a claim: what is looked at, under which condition, by which rule; `asked` are the rule's own parameters."""

    says: str
    rule: str
    measure: str
    condition: str | None = None
    aside: bool = False
    """Shown beside the others, and decides nothing."""
    asked: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Claim:
    """One statement of the document under test, or of what is known beside it."""

    id: str
    says: str
    where: str
    figure: float | None
    figure_text: str | None
    under: str | None
    """The conditions that it was said under, None where it named none."""
    left: str | None
    """What of it no test here can reach."""
    tests: tuple[ClaimTest, ...]


@dataclass(frozen=True)
class Measure:
    """What takes the samples of some tests: arguments of pytest after `benchmarks`, how long that takes, and what it needs."""

    name: str
    arguments: tuple[str, ...]
    minutes: int
    needs: str | None = None


@dataclass(frozen=True)
class Tested:
    """A test with what was found, and how its rule puts it into words."""

    test: ClaimTest
    finding: Finding
    criterion: str


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict: one of `VERDICTS`, its words, and every test that it follows from."""

    claim: Claim
    verdict: str
    words: str
    tests: tuple[Tested, ...]

    @property
    def main(self) -> Tested | None:
        """The first test that was measured, whose figure stands for the claim."""
        return next((one for one in self.tests if one.finding.outcome != NOT_MEASURED), None)


@cache
def claims() -> tuple[Claim, ...]:
    """Return every claim of the ledger, in its order."""
    return tuple(_claim(entry) for entry in _content()["claim"])


@cache
def measures() -> dict[str, Measure]:
    """Return what can be measured for the ledger, by name."""
    for one in _content()["measure"]:
        _known(f"measure {one.get('name')}", one, ("name", "arguments", "minutes"), ("needs",))
    found = [Measure(one["name"], tuple(one["arguments"]), one["minutes"], one.get("needs")) for one in _content()["measure"]]
    return {measure.name: measure for measure in found}


def judge_claims(runs: Sequence[Recorded], of: Sequence[Claim] | None = None) -> list[Judged]:
    """Return a verdict on every claim, from the runs of one machine; a claim that no run tells of is `not tested here`, never left out."""
    return [judge(claim, runs) for claim in (claims() if of is None else of)]


def judge(claim: Claim, runs: Sequence[Recorded]) -> Judged:
    """Return the verdict on a claim: of each test the finding that rests on most pairs, and what they say together.

    Each test without a condition has to hold. Of those with one, all that hold make it `holds`, some `holds only if` theirs, none
    `does not hold`. What was not measured or could not be told decides nothing, and is named.
    """
    tests = tuple(_tested(test, claim, runs) for test in claim.tests)
    deciding = [one for one in tests if not one.test.aside]
    always = [one for one in deciding if one.test.condition is None]
    under = [one for one in deciding if one.test.condition is not None]
    held = [one for one in under if one.finding.outcome == HOLDS]
    failed = [one for one in under if one.finding.outcome == FAILS]
    if broken := [one for one in always if one.finding.outcome == FAILS]:
        return Judged(claim, DOES_NOT, f"{DOES_NOT}: {_said(broken)}", tests)
    unknown = [one for one in deciding if one.finding.outcome in (NOT_MEASURED, NOT_TOLD)]
    if any(one in unknown for one in always) or not (held or failed or (always and not under)):
        return Judged(claim, NOT_TESTED, f"{NOT_TESTED}: {_why(unknown)}", tests)
    beside = f" (not told: {'; '.join(str(one.test.condition) for one in unknown)})" if unknown else ""
    if under and not held:
        return Judged(claim, DOES_NOT, f"{DOES_NOT}: {_said(failed)}{beside}", tests)
    if failed or unknown:
        conditions = "; or ".join(str(one.test.condition) for one in held)
        return Judged(claim, ONLY_IF, f"{ONLY_IF} {conditions}{beside}", tests)
    return Judged(claim, VERDICT_HOLDS, VERDICT_HOLDS, tests)


def missing(found: Sequence[Judged]) -> list[Measure]:
    """Return what has to be measured so that every test is, in the order of the ledger: more of it where too few could not tell."""
    wanted = {one.test.measure for judged in found for one in judged.tests if _lacks(one.finding)}
    return [measure for name, measure in measures().items() if name in wanted]


def changed(before: Sequence[Judged], after: Sequence[Judged]) -> list[tuple[Judged, Judged]]:
    """Return (before, after) of every claim whose verdict, with its conditions, is another than it was."""
    then = {judged.claim.id: judged for judged in before}
    pairs = [(then[judged.claim.id], judged) for judged in after if judged.claim.id in then]
    return [(old, new) for old, new in pairs if (old.verdict, _conditions(old)) != (new.verdict, _conditions(new))]


def _lacks(finding: Finding) -> bool:
    return finding.outcome == NOT_MEASURED or (finding.outcome == NOT_TOLD and finding.count < ENOUGH)


def _conditions(judged: Judged) -> list[str]:
    return [one.test.says for one in judged.tests if one.finding.outcome == HOLDS and one.test.condition and not one.test.aside]


def _said(failed: Sequence[Tested]) -> str:
    return "; ".join(f"{one.test.says}: {one.finding.short}" for one in failed)


def _why(unknown: Sequence[Tested]) -> str:
    reasons = dict.fromkeys(
        one.finding.reason or f"{one.test.says}: {one.finding.short}, and that reaches over the limit" for one in unknown
    )
    return "; ".join(reasons)


def _tested(test: ClaimTest, claim: Claim, runs: Sequence[Recorded]) -> Tested:
    limits = criterion(test.asked, claim.figure)
    findings = [RULES[test.rule](run, test.asked, limits) for run in runs]
    measured = [one for one in findings if one.outcome != NOT_MEASURED]
    if measured:  # most pairs first, of as many the newest: neither looks at what was found
        return Tested(test, max(measured, key=lambda one: (one.count, one.run or "")), limits.words)
    reasons = [one for one in findings if one.reason]
    needs = measures()[test.measure].needs
    otherwise = f"no {'GPU' if needs == 'cuda' else needs} was there" if needs else "it was not measured"
    return Tested(test, reasons[-1] if reasons else Finding(NOT_MEASURED, reason=otherwise), limits.words)


@cache
def _content() -> dict[str, Any]:
    try:
        content = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeighbridgeError(f"{_FILE.name}: not TOML ({error})") from None
    _known("its head", content, ("claim", "measure"), ())
    return content


def _known(entry: str, found: Mapping[str, Any], required: Sequence[str], optional: Sequence[str]) -> None:
    """Raise `WeighbridgeError`, naming the entry and the key, where an entry lacks a key or has one that nobody reads."""
    if unknown := [name for name in found if name not in (*required, *optional)]:
        raise WeighbridgeError(f"{_FILE.name}: {entry}: unknown key {unknown[0]!r}; there are: {', '.join((*required, *optional))}")
    if lacking := [name for name in required if name not in found]:
        raise WeighbridgeError(f"{_FILE.name}: {entry}: no {lacking[0]!r}")


def _checked_test(claim: str, number: int, test: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a test as it is; raises `WeighbridgeError` where its rule, its measure or one of its keys is none."""
    entry = f"claim {claim}, test {number} ({test.get('says', 'which says nothing')})"
    if lacking := [name for name in ("says", "rule", "measure") if name not in test]:
        raise WeighbridgeError(f"{_FILE.name}: {entry}: no {lacking[0]!r}")
    for name, known in (("rule", KEYS), ("measure", measures())):
        if test[name] not in known:
            raise WeighbridgeError(f"{_FILE.name}: {entry}: unknown {name} {test[name]!r}; there are: {', '.join(known)}")
    if problem := KEYS[test["rule"]].problem({name: value for name, value in test.items() if name not in _OWN}):
        raise WeighbridgeError(f"{_FILE.name}: {entry}: {problem}")
    return test


def _claim(entry: Mapping[str, Any]) -> Claim:
    _known(f"claim {entry.get('id')}", entry, ("id", "says", "where", "tests"), ("figure", "figure_text", "under", "left"))
    tests = tuple(
        ClaimTest(
            **{name: one[name] for name in _OWN if name in one}, asked={name: value for name, value in one.items() if name not in _OWN}
        )
        for number, one in enumerate(entry["tests"], 1)
        if _checked_test(entry["id"], number, one)
    )
    return Claim(
        entry["id"],
        entry["says"],
        entry["where"],
        entry.get("figure"),
        entry.get("figure_text"),
        entry.get("under"),
        entry.get("left"),
        tests,
    )
