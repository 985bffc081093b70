"""The end of a run in a terminal: what to use, how sure that is, and what was cut or busy.

Ten lines at most, each a plain sentence; the page has everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness.analysis.hostile import files_of, loaders_of, surprise
from harness.analysis.memory_use import without_failed_tries
from harness.analysis.promises import PromiseResult
from harness.analysis.run_answer import Advice, Situation, situations
from harness.analysis.run_cells import MeasuredCell, cells_of, invalid_counts, shortfalls
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.checks import Check
from harness.records.limits import BUSY_AT_MOST
from harness.records.sample import BUSY, Sample
from harness.records.trials import Outcome, Trial
from harness.report.format import significant, size_text, time_text, was_busy
from harness.scenarios import AS_IS, HOSTILE_FILES

LINES = 10
"""Most lines of the answer, the path of the page aside."""
_TWICE = 0.5
"""Below this ratio a reader takes in "4 times as fast" more easily than "75 % sooner"."""


def answer(
    manifest: Mapping[str, Any],
    samples: Sequence[Sample],
    checks: Sequence[Check] = (),
    trials: Sequence[Trial] = (),
) -> list[str]:
    """Return what a run says to do and how sure that is, as ten lines or fewer."""
    cells = cells_of(manifest, samples)
    measured = situations(cells)
    rest = [
        line
        for line in (
            _how_sure(measured, cells, samples),
            _cut(cells),
            _missing(manifest, cells),
            _busy(samples),
            _behaviour(checks),
            _hostile_files(manifest, trials),
        )
        if line
    ]
    uses = [line for situation in measured for line in _uses(situation)]
    room = LINES - len(rest)
    if len(uses) > room:
        hidden = len(uses) - room + 1
        uses = [*uses[: room - 1], f"{hidden} more lines like these are on the page."]
    if not uses and cells:
        uses = [
            (
                "No advice: this run compared no loaders on whole checkpoints. The page has its "
                "figures."
            )
        ]
    return [*uses, *rest]


def _uses(situation: Situation) -> list[str]:
    """Return what to use in a situation: one line, or two where cold and warm differ."""
    advices = situation.advices
    head = _head(advices[0].cell)
    first = advices[0]
    if len(advices) == 1 or any(_pair(advice) != _pair(first) for advice in advices):
        return [_single(head, advice) for advice in advices]
    if first.other is None:
        return [_single(head, advice) for advice in advices]
    gains = ", ".join(f"{advice.cell.cache_state} {_gain(advice)}" for advice in advices)
    return [f"{head}: use {_label(first)}; compared with {_other(first)}: {gains}."]


def _pair(advice: Advice) -> tuple[str, str]:
    return _label(advice), _other(advice)


def _single(head: str, advice: Advice) -> str:
    state, ready = advice.cell.cache_state, advice.take.ready
    if advice.other is None:
        time = time_text(ready.median) if ready else "no time"
        return f"{head}, {state}: only {_label(advice)} was measured, ready in {time}."
    return (
        f"{head}, {state}: use {_label(advice)}; compared with {_other(advice)}: {_gain(advice)}."
    )


def _head(cell: MeasuredCell) -> str:
    """Return what was loaded, from where and to where, in words."""
    ranks = f"{cell.key.ranks} rank{'' if cell.key.ranks == 1 else 's'}" if cell.key.ranks else ""
    parts = (
        cell.scenario.replace("-", " ").capitalize(),
        cell.key.part,
        ranks,
        f"{cell.checkpoint} ({size_text(cell.bytes)})",
        "" if cell.device == "cpu" else f"to {cell.device}",
        "" if cell.key.storage == AS_IS else f"on {cell.key.storage}",
    )
    return ", ".join(part for part in parts if part)


def _label(advice: Advice) -> str:
    return advice.cell.label(advice.take)


def _other(advice: Advice) -> str:
    return advice.cell.label(advice.other) if advice.other else "nothing"


def _gain(advice: Advice) -> str:
    """Return how much sooner the loader was ready, with its interval, or that it is inconclusive.

    A ratio below a half is told as a factor.
    """
    ratio = advice.ratio
    if ratio is None or ratio.low is None or ratio.high is None:
        pairs = ratio.count if ratio else 0
        return f"inconclusive (pairs: {pairs}; {MINIMUM_BLOCKS} make an interval)"
    if not advice.conclusive:
        later, sooner = _percent(ratio.high - 1), _percent(1 - ratio.low)
        return f"inconclusive ({later} later to {sooner} sooner)"
    if ratio.median < _TWICE:
        low, high = (significant(1 / bound) for bound in (ratio.high, ratio.low))
        return f"{significant(1 / ratio.median)} times as fast ({low} to {high})"
    sign, word = (1, "sooner") if ratio.high < 1 else (-1, "later")
    bounds = sorted((sign * (1 - ratio.low), sign * (1 - ratio.high)))
    between = f"{100 * bounds[0]:.0f} to {_percent(bounds[1])}"
    return f"{_percent(sign * (1 - ratio.median))} {word} ({between})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _how_sure(
    measured: Sequence[Situation], cells: Sequence[MeasuredCell], samples: Sequence[Sample]
) -> str | None:
    """Return how many blocks the intervals rest on, what is inconclusive, and what is invalid."""
    blocks = [len({sample.block for sample in cell.samples}) for cell in cells if cell.samples]
    if not blocks:
        return None
    samples = without_failed_tries(samples)
    counts = invalid_counts(samples)
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    invalid = (
        f"{sum(counts.values())} of {len(samples):,} samples invalid and left out ({reasons})"
        if counts
        else f"all {len(samples):,} samples valid"
    )
    advices = [advice for one in measured for advice in (*one.advices, *one.others) if advice.other]
    unsure = sum(not advice.conclusive for advice in advices)
    more = (
        f" {unsure} of {len(advices)} comparisons are inconclusive; use --rounds N for more blocks."
    )
    others = sum(len(situation.others) for situation in measured)
    agreeing = sum(situation.agreeing for situation in measured)
    same = f" {agreeing} of {others} other cells say the same."
    return (
        f"How sure: 95 % intervals of {_between(min(blocks), max(blocks))} blocks; {invalid}."
        f"{same if others else ''}{more if unsure else ''}"
    )


def _between(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _cut(cells: Sequence[MeasuredCell]) -> str | None:
    """Return what was cut for time, and what to do about it."""
    cut = sum(cell.record.get("status") == "cut" for cell in cells)
    wide = sum(
        cell.record.get("status") != "cut" and cell.record.get("stopped") == "budget"
        for cell in cells
    )
    if not cut and not wide:
        return None
    parts = [
        f"{cut} of {len(cells)} cells had too little time and have no figure" if cut else "",
        f"{wide} ended before every ratio was within 5 %" if wide else "",
    ]
    return (
        f"Cut for time: {'; '.join(filter(None, parts))}. Use --profile full, or name fewer "
        "--checkpoints."
    )


def _missing(manifest: Mapping[str, Any], cells: Sequence[MeasuredCell]) -> str | None:
    """Return how much has no figure for other reasons than time, by kind."""
    counts = Counter[str]()
    first = ""
    for kind, what, reason in shortfalls(manifest, cells):
        if kind not in ("cut", "cut by the budget"):
            counts[kind] += what.count(", ") + 1
            first = first or reason
    if not counts:
        return None
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    reason = first if len(first) <= 60 else f"{first[:57].rstrip()}..."
    return f"Without a figure: {kinds} (the first: {reason}). The page names each."


def _busy(samples: Sequence[Sample]) -> str | None:
    """Return how busy the machine was with other programs, None where it was quiet or nothing
    tells.
    """
    shares = [
        sample.others_cpu_share + (sample.steal_share or 0.0)
        for sample in samples
        if sample.others_cpu_share is not None
    ]
    busy = sum(sample.reason == BUSY for sample in samples)
    allowed = sum(share > BUSY_AT_MOST for share in shares) - busy
    if not shares or not (was_busy(samples) if busy else allowed > 0):
        return None
    kept = "invalid for it" if busy else "busy but counted, because --busy-at-most allows it"
    return (
        f"Busy: other programs used {_percent(median(shares))} of the cores in the median sample;"
        f" {busy or allowed} of {len(samples):,} samples are {kept}. Stop them and measure again."
    )


def _behaviour(checks: Sequence[Check]) -> str | None:
    """Return how much documented behaviour differs, None where none was checked."""
    tested = [check for check in checks if check.outcome != PromiseResult.NOT_TESTED]
    if not tested:
        return None
    differing = sum(check.outcome == PromiseResult.BROKEN for check in tested)
    where = "; the page lists them under What the page promises" if differing else ""
    return f"Documented behaviour: {differing} of {len(tested)} checks differ{where}."


def _hostile_files(manifest: Mapping[str, Any], trials: Sequence[Trial]) -> str | None:
    """Return how hostile files were taken, None where no loader met any."""
    met = [trial for trial in trials if trial.scenario == HOSTILE_FILES]
    if not met:
        return None
    files, loaders = files_of(manifest), loaders_of(manifest)
    ran = Counter(trial.loader for trial in met if trial.outcome == Outcome.RAN)
    odd = sum(bool(surprise(trial, files[trial.file], loaders[trial.loader])) for trial in met)
    code = ", ".join(f"{name} {count}" for name, count in ran.most_common(3))
    more = f" and {len(ran) - 3} more" if len(ran) > 3 else ""
    names = f"{len(ran)} loaders ran code of a file ({code}{more})" if ran else "no code ran"
    return f"Hostile files: {len(met):,} trials, {names}; {odd} surprises, listed on the page."
