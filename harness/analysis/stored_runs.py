"""Two stored runs held against each other: whether they may be, and the verdicts.

Pure functions over manifests and samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.analysis.ceilings import is_ceiling
from harness.analysis.regression import Thresholds
from harness.analysis.regression_verdicts import ArmVerdict, judged
from harness.records.cell import Cell
from harness.records.manifest import fingerprint
from harness.records.sample import Sample

BEFORE, AFTER = "baseline", "candidate"
ENOUGH_FOR_HALVES = 16
"""With as many blocks the second half confirms what the first half says; with fewer all of them say
it once.
"""


def not_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Return why two runs cannot be compared, by name, or None."""
    pair = f"{b['run']} cannot be compared with {a['run']}"
    mine, theirs = fingerprint(a), fingerprint(b)
    for name, value in mine.items():
        if value != theirs[name]:
            return (
                f"{pair}: {name} is {theirs[name]} there and {value} here; times belong to one"
                " machine"
            )
    for name, checkpoint in a["checkpoints"].items():
        other = b["checkpoints"].get(name)
        if other and other["digest"] != checkpoint["digest"]:
            return f"{pair}: {name} has other content there (--seed)"
    return None


def judge_stored(
    a: Mapping[str, Any],
    before: Sequence[Sample],
    b: Mapping[str, Any],
    after: Sequence[Sample],
    thresholds: Callable[[str, str], Thresholds],
) -> list[ArmVerdict]:
    """Return the verdicts on run `b` held against run `a`, block by block, for every arm that `a`
    has samples of.

    Nothing can be measured again, so every second block takes the part of the fresh ones. Of a run
    with environments side by side, `a` gives its baseline and `b` its candidate.
    """
    base, new = _side(a, before, BEFORE), _side(b, after, AFTER)
    arms: dict[str, dict[str, None]] = {}
    for sample in base:
        if not is_ceiling(sample.loader):
            arms.setdefault(Cell.of(sample).name, {})[sample.loader] = None
    reasons = {entry["name"]: entry.get("reason") for entry in b["cells"]}
    blocks: dict[str, set[int]] = {}
    for sample in new:
        blocks.setdefault(Cell.of(sample).name, set()).add(sample.block)
    entries = []
    for cell, loaders in arms.items():
        numbers = sorted(blocks.get(cell, ()))
        fresh = numbers[1::2] if len(numbers) >= ENOUGH_FOR_HALVES else []
        entries.append(
            {
                "name": cell,
                "arms": list(loaders),
                "reason": reasons.get(cell),
                "fresh": dict.fromkeys(loaders, fresh),
            }
        )
    return judged(entries, [*base, *new], BEFORE, AFTER, thresholds)


def _side(manifest: Mapping[str, Any], samples: Sequence[Sample], role: str) -> list[Sample]:
    environment = (manifest["options"].get("paired_run") or {}).get(role)
    return [
        replace(sample, environment=role)
        for sample in samples
        if environment is None or sample.environment == environment
    ]
