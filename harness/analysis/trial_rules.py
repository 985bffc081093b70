"""The rules that judge a test of a claim by counting: checks of documented behaviour, trials of
hostile files, and what scanners made of them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

from harness.analysis.claim_findings import ClaimTest, Finding, Recorded, RuleOutcome, counted
from harness.analysis.hostile import (
    SURPRISES,
    File,
    ScannerResult,
    files_of,
    growth,
    loaders_of,
    seen_by_scanner,
    surprise,
)
from harness.analysis.promises import PromiseResult
from harness.records.trials import Harm, Outcome, Trial
from harness.scenarios import HOSTILE_FILES, HOSTILE_SCAN


class ChecksTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="checks"):
    """Every check of `claim` whose name matches `like` and not `unlike` was kept."""

    claim: str
    like: str
    unlike: str = ""

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return whether every check that had an outcome was kept."""
        checks = [
            check
            for check in run.checks
            if check.claim == self.claim
            and fnmatchcase(check.check, self.like)
            and not fnmatchcase(check.check, self.unlike)
        ]
        tested = [
            check for check in checks if check.outcome in (PromiseResult.KEPT, PromiseResult.BROKEN)
        ]
        if not tested:
            return Finding(RuleOutcome.NOT_MEASURED, reason=checks[0].happened if checks else None)
        kept = sum(check.outcome == PromiseResult.KEPT for check in tested)
        return counted(run, kept == len(tested), kept, len(tested), "checks", "kept")


class TrialsTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="trials"):
    """How loaders took hostile files: `none`, `some` or `all` trials ended as `outcome`.

    `well` asks that all ended without running code, crashing, starving or hanging, within
    `within_s` and `within_bytes`.
    """

    loaders: str | tuple[str, ...]
    ended: Literal["none", "some", "all", "well"]
    outcome: Outcome | None = None
    harm: Harm | None = None
    family: str | None = None
    files: tuple[str, ...] | None = None
    within_s: float = float("inf")
    within_bytes: float = float("inf")

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return how many of the trials ended as was asked."""
        files, loaders = files_of(run.manifest), loaders_of(run.manifest)
        trials = [
            trial
            for trial in run.trials
            if trial.scenario == HOSTILE_FILES
            and self._matches(trial.loader)
            and self._selects(files[trial.file])
        ]
        if not trials:
            return Finding(RuleOutcome.NOT_MEASURED)

        def cheap(trial: Trial) -> bool:
            grown = growth(trial, loaders[trial.loader])
            return trial.seconds <= self.within_s and (grown or 0) <= self.within_bytes

        def good(trial: Trial) -> bool:
            if self.ended == "well":
                return (
                    cheap(trial)
                    and surprise(trial, files[trial.file], loaders[trial.loader])
                    not in SURPRISES[:4]
                )
            return trial.outcome == self.outcome and (
                cheap(trial) or trial.outcome != Outcome.REFUSED
            )

        count = sum(map(good, trials))
        holds = {"none": count == 0, "some": count > 0}.get(self.ended, count == len(trials))
        return counted(run, holds, count, len(trials), "trials", self.outcome or "within both")

    def _matches(self, loader: str) -> bool:
        patterns = [self.loaders] if isinstance(self.loaders, str) else self.loaders
        return any(fnmatchcase(loader, pattern) for pattern in patterns)

    def _selects(self, file: File) -> bool:
        return (
            (self.files is None or file.name in self.files)
            and (self.harm is None or file.harm == self.harm)
            and (self.family is None or file.family == self.family)
        )


class ScannerTest(ClaimTest, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="scanner"):
    """A scanner passed no file with a payload."""

    loader: str

    def judge(self, run: Recorded, figure: float | None) -> Finding:
        """Return how many files with a payload the scanner passed."""
        files = files_of(run.manifest)
        seen = [
            seen_by_scanner(trial, files[trial.file])
            for trial in run.trials
            if trial.scenario == HOSTILE_SCAN
            and trial.loader == self.loader
            and files[trial.file].harm == Harm.CODE
        ]
        missed = seen.count(ScannerResult.MISSED)
        return (
            counted(run, missed == 0, missed, len(seen), "files with a payload", "passed")
            if seen
            else Finding(RuleOutcome.NOT_MEASURED)
        )
