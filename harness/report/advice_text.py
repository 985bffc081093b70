"""Advice in words: three lines that stand alone, short paragraphs with the figures that carry them,
the evidence last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.analysis import bottleneck
from harness.analysis.advice import SAFETENSORS
from harness.analysis.advice_record import Advice, Bottleneck, Conversion, Use, Verdict
from harness.analysis.lines_to_type import LINES, NAMES, PLAIN
from harness.analysis.statistics import Estimate
from harness.report.format import listed, significant, size_text, time_spread, time_text

SEPARATOR = " · "


@dataclass(frozen=True)
class Paths:
    """A person's checkpoint as the lines to type name it."""

    file: str
    """What a call is given: the file's path in quotes, or a name where there are several files."""
    converted: str
    """The same of what a conversion makes."""
    folder: str
    """What a model is made from."""
    convert: str
    """The command that converts it."""


def first_lines(advice: Advice, paths: Paths) -> tuple[str, str, str]:
    """Return what to use cold, what to use warm, and the line to type."""
    return _use(advice.cold, advice), _use(advice.warm, advice), _type(advice, paths)


def _use(use: Use, advice: Advice) -> str:
    """Return what to use in one cache state and what it saves, in a line."""
    where = f", on {use.storage}" if use.storage else ""
    where += f", to {advice.device}" if advice.device != "cpu" else ""
    head = f"{use.cache_state.capitalize()}{where}:"
    if use.verdict is Verdict.NOT_MEASURED or use.ready_s is None:
        return f"{head} not measured: {use.reason}."
    ready = f"ready in {time_text(use.ready_s.median)}"
    today = f"{use.own_name} ({time_text(use.own_ready_s.median)})" if use.own_ready_s else None
    if use.verdict is Verdict.UNDECIDED:
        beside = f", {today}" if today and use.loader != use.own_loader else ""
        blocks = f"{use.blocks} block{'' if use.blocks == 1 else 's'}"
        return f"{head} undecided, {blocks} are too few to tell. {use.name} was {ready}{beside}."
    if use.verdict is Verdict.KEEP:
        return (
            f"{head} keep {use.name}: {ready}. No other measured loader was faster with confidence."
        )
    if use.verdict is Verdict.ALIKE:
        return f"{head} use {use.name}: {ready}, no measurable difference from {today}."
    assert use.times_as_fast is not None
    return f"{head} use {use.name}: {ready}, {_gain(use.times_as_fast, today or 'today')}."


def _gain(times: Estimate, today: str) -> str:
    """Return how much sooner a load is ready than today's, in words."""
    if times.median < 2:
        return f"{100 * (1 - 1 / times.median):.0f} % sooner than {today}"
    figure = f"{times.median:.1f}" if times.median < 10 else f"{times.median:.0f}"
    return f"{figure} times as fast as {today}"


def _type(advice: Advice, paths: Paths) -> str:
    """Return the line to type, of what is advised cold; where another loader is advised warm, its
    call as well.
    """
    if not advice.lines:
        return "Type: no advice, because nothing could be measured."
    cold, warm = advice.cold.loader, advice.warm.loader
    first = cold or warm or ""
    parts = []
    for (pattern, advised), lines in groupby(
        advice.lines, key=lambda line: (line.text, line.advised)
    ):
        group = list(lines)
        names = ", ".join(line.library for line in group if line.library not in PLAIN)
        typed = _filled(pattern, group[0].loader, advice.format, paths)
        note = "" if advised else " (its fastest)"
        parts.append(f"{names}: {typed}{note}" if names else f"{typed}{note}")
    text = SEPARATOR.join(parts)
    head = "Type"
    if cold and warm and cold != warm:
        head = "Type (for cold, as after a restart)"
        call = next((line for line in LINES if line.loader == warm and line.library in PLAIN), None)
        if call:
            typed = _filled(call.text, warm, advice.format, paths)
            also = "" if _converts(first, advice) else _convert_first(warm, advice, paths)
            text += f"{SEPARATOR}warm: {also}{typed}"
    return f"{head}: {_convert_first(first, advice, paths)}{text}"


def _converts(loader: str, advice: Advice) -> bool:
    """Return whether the file has to be converted for a loader."""
    return loader.startswith(SAFETENSORS) and advice.format != SAFETENSORS


def _convert_first(loader: str, advice: Advice, paths: Paths) -> str:
    return f"{paths.convert}, then " if _converts(loader, advice) else ""


def _filled(text: str, loader: str, given: str, paths: Paths) -> str:
    """Return a line with the person's paths in it."""
    converted = loader.startswith(SAFETENSORS) and given != SAFETENSORS
    file = paths.converted if converted else paths.file
    return text.format(file=file, folder=paths.folder)


def paragraphs(advice: Advice) -> list[str]:
    """Return what follows the three lines: memory, converting, the bottleneck."""
    parts = [_memory(advice), _converting(advice), _bottlenecks(advice.bottlenecks)]
    return [part for part in parts if part]


def _memory(advice: Advice) -> str | None:
    memory = advice.memory
    if memory is None:
        return None
    mapped = (
        f", {size_text(memory.mapped_bytes)} are pages of the mapped file, which the kernel can"
        " drop"
        if memory.mapped_bytes
        else ""
    )
    return (
        f"Memory: ask for {size_text(memory.ask_for_bytes)}. {NAMES[memory.loader]} peaks at "
        f"{size_text(memory.peak_bytes)}: {size_text(memory.process_bytes)} is the process with "
        f"torch imported{mapped}. The limit to ask for is the peak and a tenth."
    )


def _converting(advice: Advice) -> str:
    conversion = advice.conversion
    if conversion is None:
        return "Converting: the file is safetensors already, so there is nothing to convert."
    if conversion.cost_s is None:
        cost = "Its cost was not measured."
    else:
        cost = f"It takes {time_text(conversion.cost_s.median)}, once."
    states = (
        ("cold", conversion.cold_saving_s, conversion.cold_loads),
        ("warm", conversion.warm_saving_s, conversion.warm_loads),
    )
    pays = " ".join(filter(None, (_pays(*state) for state in states)))
    return f"Converting to safetensors: {cost} {pays}{_without(conversion)}".strip()


def _pays(state: str, saving: Estimate | None, loads: int | None) -> str | None:
    if saving is None:
        return None
    if loads is None:
        none = "saves no time" if (saving.high or 0) < 0 else "shows no measurable saving"
        return f"A {state} load {none}."
    return (
        f"Each {state} load then saves {time_text(saving.median)}, so it pays off after"
        f" {loads:,} {state} load{'' if loads == 1 else 's'}."
    )


def _without(conversion: Conversion) -> str:
    use = conversion.without
    if use is None or use.times_as_fast is None or use.ready_s is None:
        return ""
    today = f"{use.own_name} {use.cache_state}"
    gain = _gain(use.times_as_fast, today)
    return f" Without converting, {use.name} is ready in {time_text(use.ready_s.median)}, {gain}."


_WORDS = {
    bottleneck.PAGE_FAULTS: "the first touch of each mapped page; nothing is copied",
    bottleneck.WAITING: (
        "waiting for storage, which could be faster: requests are too small, or too few at a time"
    ),
    bottleneck.OWN_WORK: "the loader's own work: unpickling, copying, preparing memory",
    bottleneck.OWN_WORK_OR_GPU: "the loader's own work, or its wait for the GPU",
    "storage": "storage, which is hardly faster at its best",
    "copy": "the copy from memory to memory, which is hardly faster at its best",
    "transfer": "the transfer to the device, which is hardly faster at its best",
}


def _bottlenecks(bottlenecks: Sequence[Bottleneck]) -> str | None:
    if not bottlenecks:
        return None
    texts = []
    for entry in bottlenecks:
        best = (
            f" ({NAMES[entry.loader]} reaches {100 * entry.share_of_ceiling:.0f} % of the"
            f" {significant(entry.ceiling_bytes_per_s / 1e9)} GB/s measured at best)"
            if entry.share_of_ceiling
            and entry.ceiling_bytes_per_s
            # a mapped load copies nothing, so that a copy's rate is no bound of it
            and entry.what != bottleneck.PAGE_FAULTS
            else ""
        )
        texts.append(f"{entry.cache_state}, {_WORDS.get(entry.what, entry.what)}{best}")
    return f"Bottleneck: {'; '.join(texts)}."


def evidence_lines(advice: Advice) -> list[str]:
    """Return the evidence: a table of every loader, then what was counted and what was not."""
    rows = [("until every page is ready", "cold", "warm", "peak memory")]
    rows += [
        (
            figures.name,
            time_spread(figures.cold_s) if figures.cold_s else "not measured",
            time_spread(figures.warm_s) if figures.warm_s else "not measured",
            size_text(figures.peak_bytes) if figures.peak_bytes else "unknown",
        )
        for figures in advice.figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [*table, "", _counts(advice), *_not_measured(advice)]


def _counts(advice: Advice) -> str:
    evidence = advice.evidence
    blocks = listed([f"{count} of {name}" for name, count in evidence.blocks.items()])
    invalid = ", ".join(f"{reason} {count}" for reason, count in evidence.invalid.items())
    readahead = (
        f" The device reads {evidence.read_ahead_kb:,} KiB ahead."
        if evidence.read_ahead_kb is not None
        else ""
    )
    return (
        f"{evidence.valid} of {evidence.samples} samples are valid"
        f"{f' (invalid: {invalid})' if invalid else ''}, of {size_text(advice.bytes)}; blocks:"
        f" {blocks}. The interval in brackets holds the median with 95 % confidence.{readahead}"
    )


def _not_measured(advice: Advice) -> list[str]:
    return [f"Not measured: {what}: {why}." for what, why in advice.evidence.not_measured.items()]


def table_of_lines() -> str:
    """Return the table of the lines to type, in Markdown."""
    rows = [
        "| loader | in words | library | line to type | where it was read |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| `{line.loader}` | {NAMES[line.loader]} | {line.library} |"
        f" `{line.text.format(file='file', folder='folder')}` | {line.source} |"
        for line in LINES
    ]
    return "\n".join(rows)
