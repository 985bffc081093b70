"""The first screen: the question, the answer in one sentence, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.analysis.claims import JudgedClaim, _judged, claims
from harness.analysis.machines import Machine
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.statistics import Estimate
from harness.report.verdict_text import NO_DIFFERENCE, number, speed_text

QUESTION = "How should you load model weights?"
WHAT_IT_IS = "Weighbridge measures how model checkpoints load, and proves each figure."
NOTHING = "No run is here yet that would answer."


def lead(evidence: Sequence[RecordedRun]) -> str:
    """Return the answer in one sentence of Markdown, from the claims' own figures."""
    figures = headline_figures(evidence)
    ready, first = (figures.get(name) for name in ("ready", "first load"))
    parts = []
    if ready:
        parts.append(f"From memory, a safetensors file is ready {_as_a_pickle(ready)}")
    if first:
        parts.append(f"from disk, on a first load, {_as_a_pickle(first, short=bool(parts))}")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else NOTHING


def background(evidence: Sequence[RecordedRun]) -> str:
    """Return what the documentation says of the same, and both clocks of it here, in Markdown."""
    claim = next(claim for claim in claims() if any(test.headline for test in claim.tests))
    text = f"The documentation says {claim.figure:g} times"
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
        f"On {machine.name}: {speed_text([theirs['ready']])} from memory,"
        f" {speed_text([theirs['first load']])} from disk."
        for machine, judged in _judged(evidence)[1:]
        if {"ready", "first load"} <= set(theirs := _figures(judged))
    ]


def headline_figures(evidence: Sequence[RecordedRun]) -> Mapping[str, Estimate]:
    """Return the figures of the first sentences, of the machine that most is known of."""
    machines = _judged(evidence)
    return _figures(machines[0][1]) if machines else {}


def first_machine(evidence: Sequence[RecordedRun]) -> Machine | None:
    """Return the machine that most is known of."""
    machines = _judged(evidence)
    return machines[0][0] if machines else None


def _figures(judged: Sequence[JudgedClaim]) -> dict[str, Estimate]:
    return {
        result.test.headline: figure
        for claim in judged
        for result in claim.tests
        if result.test.headline and (figure := result.finding.figure)
    }


def _as_a_pickle(ratio: Estimate, short: bool = False) -> str:
    text = speed_text([ratio])
    if text == NO_DIFFERENCE:
        return f"as fast as a pickle ({text})" if not short else f"there is {text}"
    if "as fast" in text or "as slow" in text:
        return f"**{text}**" if short else f"**{text}** as a pickle"
    return f"**{text}**" if short else f"**{text}** than a pickle"
