"""The rules that a run keeps before others may rely on it: each by name, with what was expected and
found.

The same rules are read before a run, of what can be known then, and after it. A field that a run of
an earlier release did not record breaks no rule; the result then says "not recorded".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.analysis.ceilings import is_ceiling
from harness.analysis.run_cells import cells_of
from harness.errors import unknown_name
from harness.records import limits
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.privacy import private_in
from harness.records.sample import BUSY, Sample
from harness.records.trials import Trial
from harness.scenarios import CONVERSION, SCAN

BUSY_SAMPLES_AT_MOST = 0.10
"""Largest share of a run's samples that may have been taken on a busy machine."""
_SHOWN = 3
"""How many offenders a message names."""
_READS_NOT_ALL = (CONVERSION, SCAN)
"""Scenarios that may do their work without reading every byte of the checkpoint."""


class RuleOutcome(StrEnum):
    """What became of a rule."""

    KEPT = "ok"
    BROKEN = "issue"
    NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Evidence:
    """What rules are judged by: a run's records, or, before a run, the manifest it would have."""

    manifest: Mapping[str, Any]
    samples: Sequence[Sample] = ()
    trials: Sequence[Trial] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    """The text of every file of the run, by name."""
    packed_bytes: int | None = None
    """Size of the run as it would be contributed."""
    busy_share: float | None = None
    """Before a run: the share of the cores' time that other programs use now."""


@dataclass(frozen=True)
class Finding:
    """What a rule saw: in words, what is wrong with it, and whether the run recorded it at all."""

    found: str
    problems: tuple[str, ...] = ()
    recorded: bool = True


@dataclass(frozen=True)
class Issue:
    """One way in which a run breaks a rule."""

    rule: str
    message: str
    expected: str
    found: str
    to_do: str


@dataclass(frozen=True)
class RuleResult:
    """What became of one rule: its outcome, and an issue for each way it is broken."""

    rule: str
    outcome: RuleOutcome
    expected: str
    found: str
    issues: tuple[Issue, ...]


@dataclass(frozen=True)
class Rule:
    """One rule; `judge` reads a finished run, `foresee` a machine before a run where it can."""

    name: str
    sentence: str
    expected: str
    to_do: str
    judge: Callable[[Evidence], Finding]
    foresee: Callable[[Evidence], Finding] | None = None

    def check(self, evidence: Evidence, *, before: bool = False) -> list[Issue]:
        """Return the issues of the evidence, none where it keeps the rule."""
        return list(self.result(evidence, before=before).issues)

    def result(self, evidence: Evidence, *, before: bool = False) -> RuleResult:
        """Return what becomes of the rule; `before` asks for what can be known before a run."""
        judge = self.foresee if before and self.foresee else self.judge
        finding = judge(evidence)
        issues = tuple(
            Issue(self.name, problem, self.expected, finding.found, self.to_do)
            for problem in finding.problems
        )
        outcome = RuleOutcome.KEPT if finding.recorded else RuleOutcome.NOT_RECORDED
        return RuleResult(
            self.name,
            RuleOutcome.BROKEN if issues else outcome,
            self.expected,
            finding.found,
            issues,
        )


def _finished(evidence: Evidence) -> Finding:
    valid = sum(sample.valid for sample in evidence.samples)
    ended = evidence.manifest.get("finished_at")
    problems = []
    if not ended:
        problems.append("the run is not finished")
    if not valid and not evidence.trials:
        problems.append("the run has no valid sample and no trial")
    found = f"{'finished' if ended else 'not finished'}, {valid:,} valid samples"
    trials = f", {len(evidence.trials):,} trials" if evidence.trials else ""
    return Finding(found + trials, tuple(problems))


def _uncut(evidence: Evidence) -> Finding:
    cells = evidence.manifest.get("cells") or ()
    cut = [str(cell.get("name")) for cell in cells if cell.get("status") in ("cut", "going")]
    problems = (f"cells stopped by the time limit: {_some(cut)}",) if cut else ()
    return Finding(f"{len(cells) - len(cut)} of {len(cells)} cells", problems)


def _proof(evidence: Evidence) -> Finding:
    valid = [sample for sample in evidence.samples if sample.valid]
    cold = [sample for sample in valid if sample.cache_state == "cold"]
    wrong = [text for sample in valid if (text := _unproved(sample))]
    problems = [f"{len(wrong)} samples do not prove their cache state: {wrong[0]}"] if wrong else []
    page_cache = evidence.manifest.get("page_cache") or {}
    recorded = not cold or "witness" in page_cache or any(sample.cold_depth for sample in cold)
    if recorded:
        bare = [sample for sample in cold if not (sample.cold_depth and sample.storage_witness)]
        if bare:
            problems.append(f"{len(bare)} cold samples do not record their depth or witness")
    depths = sorted({sample.cold_depth for sample in cold if sample.cold_depth})
    found = f"{len(cold):,} cold and {len(valid) - len(cold):,} warm samples proved"
    found += f", cold {' and '.join(depths)}" if depths else ""
    found += "" if recorded else ", depth and witness not recorded"
    return Finding(found, tuple(problems), recorded)


def _unproved(sample: Sample) -> str | None:
    """Return what a valid sample's proof lacks, or None."""
    resident, read = sample.resident_before, sample.storage_read_bytes
    where = f"{sample.loader}, block {sample.block + 1}"
    if resident is None:
        return f"residency unknown ({where})"
    if sample.cache_state == "warm":
        lacking = resident < limits.WARM_AT_LEAST
        return f"{resident:.4f} resident before a warm load ({where})" if lacking else None
    if resident > limits.COLD_AT_MOST:
        return f"{resident:.4f} resident before a cold load ({where})"
    if read is None:
        return f"bytes from storage unknown ({where})"
    size = min(sample.requested_bytes or sample.bytes, sample.bytes)  # ranks share what is read
    if is_ceiling(sample.loader) or sample.scenario in _READS_NOT_ALL:
        return None
    short = read < limits.STORAGE_AT_LEAST * size
    return f"{read:,} bytes from storage for {size:,} ({where})" if short else None


def _proof_here(evidence: Evidence) -> Finding:
    page_cache = evidence.manifest.get("page_cache") or {}
    if not page_cache.get("cold"):
        return Finding("no cold load", (f"no cold load here: {page_cache.get('reason')}",))
    lacks = [name for name in ("method", "witness", "depth") if not page_cache.get(name)]
    problems = (f"cold loads here have no {' and no '.join(lacks)}",) if lacks else ()
    return Finding(
        f"cold {page_cache.get('depth')} by {page_cache.get('method')}, witness:"
        f" {page_cache.get('witness')}",
        problems,
    )


def _blocks(evidence: Evidence) -> Finding:
    cells = [
        cell
        for cell in cells_of(evidence.manifest, evidence.samples)
        if cell.samples and not cell.key.searches_limit  # a try of a limit is no block
    ]
    arms = [(cell, arm) for cell in cells for arm in cell.arms]
    few = [
        f"{cell.label(arm)} in {cell.name} ({arm.valid})"
        for cell, arm in arms
        if 0 < arm.valid < MINIMUM_BLOCKS
    ]
    few += [
        f"every arm of {cell.name} (0)" for cell in cells if not any(arm.valid for arm in cell.arms)
    ]
    problems = (f"arms without an interval: {_some(few)}",) if few else ()
    return Finding(f"{len(few):,} of {len(arms):,} arms with fewer", problems)


def _versions(evidence: Evidence) -> Finding:
    finding = _code(evidence)
    environments = evidence.manifest.get("environments") or {}
    problems = list(finding.problems)
    problems += [
        f"environment {name}: versions are not recorded"
        for name in sorted({sample.environment for sample in evidence.samples})
        if not (environments.get(name) or {}).get("versions")
    ]
    codes = {entry["code"] for entry in environments.values() if entry.get("code")}
    if len(codes) > 1:
        problems.append(
            f"environments ran {len(codes)} different versions of the code: {_some(sorted(codes))}"
        )
    return Finding(finding.found, tuple(problems), finding.recorded)


def _code(evidence: Evidence) -> Finding:
    """Return what identifies the code and the libraries, before or after a run."""
    manifest = evidence.manifest
    git, packages = manifest.get("git") or {}, manifest.get("packages") or {}
    code = manifest.get("code")
    problems = [
        f"{name}: its version is not recorded"
        for name in ("python", "torch", "safetensors")
        if not packages.get(name)
    ]
    if git.get("dirty"):
        problems.append("the code was changed after its commit")
    commit = f"commit {git['commit'][:12]}" if git.get("commit") else ""
    digest = f"code {code}" if code else ""
    known = sum(version is not None for version in packages.values())
    found = ", ".join(
        filter(
            None, (f"weighbridge {manifest.get('version')}", commit, digest, f"{known} packages")
        )
    )
    return Finding(found, tuple(problems), recorded=bool(commit or digest))


def _quiet(evidence: Evidence) -> Finding:
    told = [sample for sample in evidence.samples if sample.others_cpu_share is not None]
    if not told:
        return Finding("not told", recorded=not evidence.samples)
    busy = [
        sample
        for sample in told
        if sample.reason == BUSY
        or (sample.others_cpu_share or 0.0) + (sample.steal_share or 0.0) > limits.BUSY_AT_MOST
    ]
    found = f"{len(busy):,} of {len(told):,} samples on a busy machine"
    too_many = len(busy) > BUSY_SAMPLES_AT_MOST * len(told)
    return Finding(found, (found,) if too_many else ())


def _quiet_now(evidence: Evidence) -> Finding:
    if evidence.busy_share is None:
        return Finding("unknown on this system", recorded=False)
    found = f"other programs use {evidence.busy_share:.0%} of the cores now"
    return Finding(found, (found,) if evidence.busy_share > limits.BUSY_AT_MOST else ())


def _privacy(evidence: Evidence) -> Finding:
    private = {name: words for name, text in evidence.texts.items() if (words := private_in(text))}
    problems = tuple(
        f"{name} holds {_some(words)}, which may identify you" for name, words in private.items()
    )
    return Finding(f"{len(private)} of {len(evidence.texts)} files with private words", problems)


def _sizes(evidence: Evidence) -> Finding:
    if evidence.packed_bytes is None:
        return Finding("not told", recorded=False)
    takes = f"the packed run takes {evidence.packed_bytes / 1e6:.2f} MB"
    too_large = evidence.packed_bytes > limits.RUN_BYTES_AT_MOST
    return Finding(takes, (takes,) if too_large else ())


def _some(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{', '.join(listed[:_SHOWN])}{more}"


RULES = (
    Rule(
        "finished",
        "The run is finished and has at least one valid sample or trial.",
        "finished, with a valid sample or a trial",
        "complete it with --resume RUN",
        _finished,
    ),
    Rule(
        "uncut",
        f"No cell ran out of time before its {MINIMUM_BLOCKS} blocks.",
        "every cell done, or refused with a reason",
        "give it more time (--profile full), or name fewer --checkpoints",
        _uncut,
    ),
    Rule(
        "proof",
        "Every valid sample proves its cache state by the resident pages before the load. A cold "
        "sample also proves it by the bytes from storage.",
        "cold: no page resident and every byte read from storage, with witness and depth; warm: "
        "all pages resident",
        "measure on storage where `weighbridge doctor` says cold: yes (--store)",
        _proof,
        _proof_here,
    ),
    Rule(
        "blocks",
        f"Every measured arm has {MINIMUM_BLOCKS} valid samples or more, so its median has an "
        "interval.",
        f"{MINIMUM_BLOCKS} valid samples or more for every arm",
        f"measure again with --rounds {2 * MINIMUM_BLOCKS}, or find out why samples are invalid",
        _blocks,
    ),
    Rule(
        "versions",
        "The versions of all libraries are recorded. One version of the code measured "
        "everything, without changes after its commit.",
        "every library version recorded, one version of the code, no change after its commit",
        "commit your changes, then measure again",
        _versions,
        _code,
    ),
    Rule(
        "quiet-machine",
        f"At most {BUSY_SAMPLES_AT_MOST:.0%} of the samples were taken while other programs and the"
        f" host used more than {limits.BUSY_AT_MOST:.0%} of the cores' time.",
        f"other programs use {limits.BUSY_AT_MOST:.0%} of the cores or less, in "
        f"{1 - BUSY_SAMPLES_AT_MOST:.0%} of the samples or more",
        "stop other programs, or wait, and measure again",
        _quiet,
        _quiet_now,
    ),
    Rule(
        "privacy",
        "No file of the run holds a host name, a user name or an absolute path.",
        "no host, user or absolute path in any file",
        "take it out, or measure again without it",
        _privacy,
    ),
    Rule(
        "sizes",
        f"The run takes {limits.RUN_BYTES_AT_MOST / 1e6:.0f} MB or less when it is packed.",
        f"{limits.RUN_BYTES_AT_MOST / 1e6:.0f} MB or less",
        "measure fewer cells in a run",
        _sizes,
    ),
)
"""Every rule, in the order of the output."""
CONTRIBUTED = ("finished", "proof", "privacy", "sizes")
"""The rules without which a run is not taken in among the reference runs."""


def rules_named(names: Sequence[str] | None) -> list[Rule]:
    """Return the rules of these names, all for None.

    Raises `WeighbridgeError` listing the names there are.
    """
    known = {rule.name: rule for rule in RULES}
    for name in names or ():
        if name not in known:
            raise unknown_name("rule", name, tuple(known))
    return [rule for rule in RULES if names is None or rule.name in names]


def rules_before() -> list[Rule]:
    """Return the rules of which something can be known before a run."""
    return [rule for rule in RULES if rule.foresee]
