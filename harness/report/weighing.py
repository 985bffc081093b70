"""Weighings in words: the answer in a sentence, a table of figures, and the verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from harness.analysis.regression import Verdict
from harness.analysis.regression_verdicts import ArmVerdict
from harness.analysis.statistics import Estimate
from harness.analysis.weighing import (
    CommandBottleneck,
    TimeGoesTo,
    command_bottleneck,
    estimates,
    ratio_of,
)
from harness.records.weighing import Weighing
from harness.report.format import listed, significant, size_text, time_text, time_unit

_LABEL = 30
_CELL = 26


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("time_s", "time", time_text),
    ("cpu_s", "CPU time", time_text),
    ("io_waiting_share", "waiting for storage (PSI)", _share),
    ("storage_read_bytes", "read from storage", size_text),
    ("storage_requests", "requests (whole disk)", _count),
    ("storage_request_bytes", "mean request", size_text),
    ("major_faults", "major faults", _count),
    ("peak_bytes", "peak memory (largest process)", size_text),
)
"""The rows of the table: a figure of a weighing, its name, and how a value of it is written."""


def answer(weighings: Mapping[str, Sequence[Weighing]], cores: int) -> str:
    """Return the time of the command in each state, and what it goes to, in one plain line."""
    parts, sentences = [], []
    for state, samples in weighings.items():
        time = estimates(samples)["time_s"]
        parts.append(f"{state}: {_time(time)}")
        if bottleneck := command_bottleneck(samples, cores):
            sentences.append(f"{state.capitalize()}, the command {bottleneck_words(bottleneck)}.")
    return f"{'; '.join(parts)}. {' '.join(sentences)}".rstrip()


def bottleneck_words(bottleneck: CommandBottleneck) -> str:
    """Return what a command's time goes to as the rest of a sentence about it."""
    share = _share(bottleneck.share)
    if bottleneck.kind == TimeGoesTo.STORAGE:
        small = bottleneck.request_bytes
        size = f", in requests of {size_text(small)}" if small else ""
        return f"waits for storage: {share} of its time{size}"
    if bottleneck.kind in (TimeGoesTo.ONE_CORE, TimeGoesTo.ALL_CORES):
        where = "one core" if bottleneck.kind == TimeGoesTo.ONE_CORE else "all cores"
        kernel = bottleneck.system_share
        of_kernel = f", {_share(kernel)} of that in the kernel" if kernel and kernel >= 0.3 else ""
        return f"computes: {share} of its time on {where}{of_kernel}"
    if bottleneck.kind == TimeGoesTo.ELSE:
        return (
            f"waits for something else than storage or a processor: {share} of its time (a sleep, "
            "a lock, a network, another process)"
        )
    return f"waits: {share} of its time; this kernel does not say for what (no PSI)"


def table(columns: Mapping[str, Sequence[Weighing]]) -> str:
    """Return the figures of each column's weighings, a line a figure that any of them has."""
    figures = {name: estimates(samples) for name, samples in columns.items()}
    lines = [" " * _LABEL + "".join(f"{name:>{_CELL}}" for name in columns)]
    for figure, label, written in ROWS:
        known = [figures[name][figure] for name in columns]
        if any(known):
            cells = "".join(f"{_spread(estimate, written):>{_CELL}}" for estimate in known)
            lines.append(f"{label:<{_LABEL}}{cells}")
    counts = "".join(f"{_runs(samples):>{_CELL}}" for samples in columns.values())
    return "\n".join([*lines, f"{'runs':<{_LABEL}}{counts}"])


def comparison(weighings: Sequence[Weighing], verdict: ArmVerdict, limit: float) -> str:
    """Return the verdict on the command against the other in one line, the answer first."""
    ratio, change = ratio_of(weighings, "time_s"), verdict.change
    judged = "time not judged" if math.isinf(limit) else f"limit {significant(1 + limit)}"
    times = (
        "No pair of runs is valid"
        if ratio is None
        else f"The command takes {significant(ratio.median)} times{_interval(ratio)} as long as the"
        f" other ({judged})"
    )
    by_time = change.metric == "time_s"
    if change.verdict in (Verdict.SAME, Verdict.FASTER):
        return f"{verdict.cell}: {change.verdict}. {times}."
    if change.verdict == Verdict.SLOWER and by_time:
        return f"{verdict.cell}: slower. {times}; fresh blocks confirm it."
    word = "worse" if change.verdict == Verdict.SLOWER else change.verdict.value
    return f"{verdict.cell}: {word}: {change.reason}. {times}."


def warnings(weighings: Mapping[str, Sequence[Weighing]], file_bytes: int) -> list[str]:
    """Return what a reader should know before believing the figures, a line each."""
    lines = []
    for state, samples in weighings.items():
        reasons = Counter(sample.reason for sample in samples if sample.reason)
        if reasons:
            words = listed([f"{count} {reason}" for reason, count in reasons.items()])
            detail = next(sample.detail for sample in samples if sample.reason)
            lines.append(f"{state}: invalid and not counted: {words} (such as: {detail})")
        valid = [sample for sample in samples if sample.valid]
        if state == "cold" and valid and not any(sample.gained_bytes for sample in valid):
            lines.append("cold: no byte of the files came into the page cache; does it read them?")
        read = estimates(samples)["storage_read_bytes"]
        if state == "cold" and read and file_bytes and read.median > 1.5 * file_bytes:
            lines.append(
                f"cold: storage gave {significant(read.median / file_bytes)} times the files' bytes"
            )
        if any(sample.left_running for sample in valid):
            lines.append(f"{state}: some processes outlived the command and were ended")
    return lines


def _runs(samples: Sequence[Weighing]) -> str:
    valid = sum(sample.valid for sample in samples)
    return f"{valid} valid, {len(samples) - valid} invalid"


def _interval(estimate: Estimate, factor: float = 1.0) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{significant(estimate.low * factor)}-{significant(estimate.high * factor)}]"


def _time(estimate: Estimate | None) -> str:
    if estimate is None:
        return "no valid run"
    factor, unit = time_unit([estimate.median])
    if estimate.low is None:
        return f"{time_text(estimate.median)} (too few runs for an interval)"
    return f"{significant(estimate.median * factor)} {unit}{_interval(estimate, factor)}"


def _spread(estimate: Estimate | None, written: Callable[[float], str]) -> str:
    """Return a median with its interval, in the unit that the median is written in."""
    if estimate is None:
        return "not told"
    if written is time_text:
        return _time(estimate)
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return written(estimate.median)
    if written is size_text:
        factor = 1e-9 if estimate.median >= 1e9 else 1e-6
        return written(estimate.median) + _interval(estimate, factor)
    low, high = written(estimate.low), written(estimate.high)
    return low if low == high else f"{written(estimate.median)} [{low}-{high}]"
