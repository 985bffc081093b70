"""The first screen: the question, the answer in one sentence, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.analysis.claims import JudgedClaim, claims, judged_machines
from harness.analysis.machines import Machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.statistics import Estimate
from harness.report.verdict_text import NO_DIFFERENCE, comparison, number, speed_text

QUESTION = "How should you load model weights?"
WHAT_IT_IS = "measures how model checkpoints load, and proves each figure."
NOTHING = "No run here answers this yet."


def lead(evidence: Sequence[RecordedRun]) -> str:
    """Return the answer in one sentence of Markdown, from the claims' own figures."""
    figures = headline_figures(evidence)
    ready, first = (figures.get(name) for name in ("ready", "first load"))
    if not ready:
        return NOTHING
    text = f"From memory, {comparison('a mapped safetensors file', ready, '`torch.load`', '**')}"
    if first:
        other = speed_text([first])
        text += f"; on a first load from disk, {'there is ' if other == NO_DIFFERENCE else ''}"
        text += f"it is **{other}**" if other != NO_DIFFERENCE else f"**{other}**"
    return f"{text}."


def background(evidence: Sequence[RecordedRun]) -> str:
    """Return what the documentation says of the same, and both clocks of it here, in Markdown."""
    claim = next(claim for claim in claims() if any(test.headline for test in claim.tests))
    text = f"Diffusers' documentation says {claim.figure:g} times"
    if claim.under:
        text += f" ({claim.under})"
    figures = headline_figures(evidence)
    returned, ready = (figures.get(name) for name in ("returned", "ready"))
    if not returned or not ready:
        return f"{text}."
    return (
        f"{text}. Measured here: {number(returned.median)} times until the call returns, and"
        f" {number(ready.median)} times until the tensors can be used."
    )


def other_machines(evidence: Sequence[RecordedRun]) -> list[str]:
    """Return a sentence for each other machine that measured the same figures."""
    return [
        f"On {machine.short} ({machine.hardware}): {speed_text([theirs['ready']])} from memory,"
        f" {speed_text([theirs['first load']])} from disk."
        for machine, judged in judged_machines(evidence)[1:]
        if {"ready", "first load"} <= set(theirs := _figures(judged))
    ]


def headline_figures(evidence: Sequence[RecordedRun]) -> Mapping[str, Estimate]:
    """Return the figures of the first sentences, of the machine with most samples."""
    machines = judged_machines(evidence)
    return _figures(machines[0][1]) if machines else {}


def first_machine(evidence: Sequence[RecordedRun]) -> Machine | None:
    """Return the machine with most samples."""
    machines = judged_machines(evidence)
    return machines[0][0] if machines else None


def _figures(judged: Sequence[JudgedClaim]) -> dict[str, Estimate]:
    return {
        result.test.headline: figure
        for claim in judged
        for result in claim.tests
        if result.test.headline and (figure := result.finding.figure)
    }
