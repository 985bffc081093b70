"""The verdicts on every loader of a run of a baseline and a candidate, the thresholds they are held
to, and the exit code they come to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.regression import (
    BASELINE_GONE,
    CLOCKS,
    SAFE_COLD,
    SAFE_SHAPED,
    SAFE_WARM,
    Change,
    Thresholds,
    Verdict,
    change,
    confirmed,
)
from harness.records.cell import Cell, is_shaped
from harness.records.sample import Sample
from harness.records.verdicts import INVALID, NO_BASELINE, NOTHING, REGRESSION


@dataclass(frozen=True)
class ArmVerdict:
    """The verdict on one loader of one cell: what the first pairs said, what fresh ones did where
    they were taken, and what came of it.
    """

    cell: str
    loader: str
    first: Change
    fresh: Change | None
    change: Change


def judged(
    entries: Iterable[Mapping[str, Any]],
    samples: Iterable[Sample],
    baseline: str,
    candidate: str,
    thresholds: Callable[[str, str], Thresholds],
) -> list[ArmVerdict]:
    """Return the verdict on every loader of every cell of a run, from its manifest's entries and
    its samples and from nothing else.

    `baseline` and `candidate` are names of environments; `thresholds(cell, loader)` are what a
    change is held to. The blocks that an entry notes as fresh for a loader enter its confirmation
    alone. A loader that no sample was taken of is `missing`.
    """
    samples_by_arm: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        samples_by_arm.setdefault(
            (Cell.of(sample).name, sample.loader, sample.environment), []
        ).append(sample)
    results = []
    for entry in entries:
        for loader in entry["arms"]:
            fresh_blocks = set((entry.get("fresh") or {}).get(loader, ()))
            base, new = (
                samples_by_arm.get((entry["name"], loader, side), [])
                for side in (baseline, candidate)
            )
            limits = thresholds(entry["name"], loader)
            first = change(
                _where(base, fresh_blocks, inside=False),
                _where(new, fresh_blocks, inside=False),
                limits,
            )
            first = _with_reason(first, entry, f"{loader}@{candidate}", f"{loader}@{baseline}")
            fresh = None
            if fresh_blocks:
                fresh = change(
                    _where(base, fresh_blocks, inside=True),
                    _where(new, fresh_blocks, inside=True),
                    limits,
                    first.reasons,
                )
            last = confirmed(first, fresh) if fresh else first
            results.append(ArmVerdict(entry["name"], loader, first, fresh, last))
    return results


def safe_thresholds(
    cell: str,
    loader: str,
    calibrated: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> Thresholds:
    """Return what an arm's changes are held to: what its machine's calibration found, where there
    is one, or safe defaults.

    `calibrated` holds by cell and loader the share by which each clock may grow.
    """
    limits = ((calibrated or {}).get(cell) or {}).get(loader)
    if limits:
        return Thresholds({clock: limits[clock] for clock in CLOCKS})
    safe = SAFE_WARM if "/cold/" not in cell else SAFE_SHAPED if is_shaped(cell) else SAFE_COLD
    return Thresholds(dict.fromkeys(CLOCKS, safe))


def stored_thresholds(manifest: Mapping[str, Any]) -> Callable[[str, str], Thresholds]:
    """Return the thresholds that a run was held to, as its manifest keeps them."""
    kept = manifest.get("thresholds") or {}
    return lambda cell, loader: safe_thresholds(cell, loader, kept)


def judged_run(manifest: Mapping[str, Any], samples: Iterable[Sample]) -> list[ArmVerdict]:
    """Return the verdicts of a stored run of a baseline and a candidate, from its manifest and
    samples and from nothing else.
    """
    paired_run = manifest["options"]["paired_run"]
    return judged(
        manifest["cells"],
        samples,
        paired_run["baseline"],
        paired_run["candidate"],
        stored_thresholds(manifest),
    )


def exit_code(verdict: Sequence[ArmVerdict]) -> int:
    """Return the exit code of a check's verdicts.

    A regression outweighs a missing cell, and a missing cell is never a pass.
    """
    if not verdict or all(
        arm_verdict.change.verdict == Verdict.MISSING and arm_verdict.change.metric == BASELINE_GONE
        for arm_verdict in verdict
    ):
        return NO_BASELINE
    verdicts = {arm_verdict.change.verdict for arm_verdict in verdict}
    if Verdict.SLOWER in verdicts:
        return REGRESSION
    return INVALID if verdicts & {Verdict.MISSING, Verdict.INSUFFICIENT} else NOTHING


def _where(samples: Iterable[Sample], blocks: set[int], *, inside: bool) -> list[Sample]:
    return [sample for sample in samples if (sample.block in blocks) == inside]


def _with_reason(change: Change, entry: Mapping[str, Any], *arms: str) -> Change:
    """Return a missing arm's change with what the manifest says of why it is."""
    left_out = entry.get("left_out") or {}
    reason = next(
        (f"{arm}: {left_out[arm]}" for arm in arms if arm in left_out), entry.get("reason")
    )
    return (
        replace(change, reason=f"{change.reason} ({reason})")
        if change.verdict == Verdict.MISSING and reason
        else change
    )


def verdicts_row(verdict: ArmVerdict) -> dict[str, Any]:
    """Return a verdict as plain figures."""
    ratio = verdict.change.ratio
    return {
        "cell": verdict.cell,
        "loader": verdict.loader,
        "verdict": verdict.change.verdict,
        "reason": verdict.change.reason,
        "metric": verdict.change.metric,
        "ratio_ready": ratio.median if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "pairs": ratio.count if ratio else 0,
        "first_verdict": verdict.first.verdict,
        "fresh_verdict": verdict.fresh.verdict if verdict.fresh else None,
    }
