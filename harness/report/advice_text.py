"""Advice on one checkpoint, from a quick probe of it: plain sentences, each with the figures that
carry it, and none that they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis.arms import REFERENCE
from harness.analysis.payback import Payback, payback_of
from harness.analysis.run_cells import MeasuredCell, indistinguishable, pair_ratio, to_take
from harness.analysis.statistics import Estimate
from harness.report.format import (
    bottleneck_text,
    megabytes,
    size_text,
    spread,
    time_spread,
    time_text,
)
from harness.scenarios import CONVERSION, FULL_LOAD

LOADERS = ("torch-load", "torch-load-mmap", REFERENCE, "safetensors-pread")
"""The two formats, each mapped and read."""
PICKLE = "torch-load"
_MAPPED_OVER_READ = (("torch-load-mmap", PICKLE), (REFERENCE, "safetensors-pread"))
_TOLD = 1.1
"""Mapping is said to hurt, or to help, where the whole interval is beyond this."""
_STATES = {
    "cold": "a first load, nothing of it in memory",
    "warm": "loaded before, all of it in memory",
}


def advice(manifest: Mapping[str, Any], cells: Sequence[MeasuredCell], given: str) -> list[str]:
    """Return the advice in paragraphs, Markdown of the plainest kind.

    `given` is the format that the person's file came in.
    """
    loads = [cell for cell in cells if cell.scenario == FULL_LOAD and cell.measured()]
    if not loads:
        reasons = (
            "; ".join(dict.fromkeys(cell.reason for cell in cells if cell.reason))
            or "no load gave a valid sample"
        )
        return [f"Nothing can be advised: {reasons}."]
    paragraphs = [_use(loads), *map(_fastest, loads)]
    paragraphs += [
        f"Not measured: {cell.name}: {cell.reason}."
        for cell in cells
        if cell.reason and not cell.samples
    ]
    return [
        *paragraphs,
        _converting(cells, loads, given),
        *_mapping(manifest, loads),
        *_memory(loads),
        _safety(given),
        _rests_on(cells),
    ]


def _use(loads: Sequence[MeasuredCell]) -> str:
    by_device: dict[str, dict[str, str]] = {}
    for cell in loads:
        if take := to_take(cell):
            by_device.setdefault(cell.device, {})[cell.cache_state] = take.loader
    sentences = []
    for device, chosen in by_device.items():
        where = "" if device == "cpu" else f" to {device}"
        if len(set(chosen.values())) == 1:
            sentences.append(f"use `{next(iter(chosen.values()))}`{where}, {' and '.join(chosen)}")
        else:
            parts = [f"`{loader}`{where} {state}" for state, loader in chosen.items()]
            sentences.append(f"use {' and '.join(parts)}")
    words = "; ".join(sentences)
    return f"**{words[0].upper()}{words[1:]}.**"


def _fastest(cell: MeasuredCell) -> str:
    alike = indistinguishable(cell)
    take, few = to_take(cell) or alike[0], alike[0].status == "insufficient"
    others = [arm.loader for arm in alike if arm is not take]
    where = "" if cell.device == "cpu" else f", to {cell.device}"
    words = (
        f"{cell.cache_state.capitalize()} ({_STATES[cell.cache_state]}{where}): `{take.loader}` is"
        f" ready after {time_spread(take.ready)}"
    )
    if few:
        words += ", a quick look with too few blocks to tell it from the others"
    elif others:
        words += f", not significantly different from {', '.join(others)}"
    slower = [arm for arm in cell.measured() if arm not in alike]
    if slower and not few:
        words += (
            "; slower than the fastest:"
            f" {', '.join(f'{arm.loader} ({time_spread(arm.ready)})' for arm in slower)}"
        )
    return f"{words}. {bottleneck_text(cell) or ''}".strip()


def _converting(cells: Sequence[MeasuredCell], loads: Sequence[MeasuredCell], given: str) -> str:
    gains = {
        cell.cache_state: pair_ratio(cell, PICKLE, REFERENCE, lambda sample: sample.ready_s)
        for cell in loads
        if cell.device == "cpu"
    }
    text = ", ".join(
        f"{spread(ratio, 'unknown')} {state}" for state, ratio in gains.items() if ratio
    )
    if given == "safetensors":
        return (
            "Converting: it is safetensors already, so nothing needs to be. As a pickle it would"
            f" take, until ready, this many times as long: {text or 'not measured'}."
        )
    convert = next(
        (cell for cell in cells if cell.scenario == CONVERSION and cell.measured()), None
    )
    arm = next(iter(convert.measured()), None) if convert else None
    cost = (
        f" It costs {time_spread(arm.ready)}, once."
        if arm and arm.ready
        else " What it costs was not measured."
    )
    pays = [
        _pays(cell, payback_of(convert, cell, arm.loader))
        for cell in loads
        if cell.device == "cpu" and convert and arm
    ]
    return (
        "Converting to safetensors: pickle takes, until ready, this many times as long:"
        f" {text or 'not measured'}.{cost} {' '.join(filter(None, pays))}".strip()
    )


def _pays(cell: MeasuredCell, paid: Payback | None) -> str:
    if not paid:
        return ""
    if not paid.loads:
        none = "no time" if paid.never else "no time that this run can tell"
        return f"A {cell.cache_state} load saves {none}."
    loads = math.ceil(paid.loads.median)
    return (
        f"Each {cell.cache_state} load saves {time_text(paid.saving.median)}, so it pays off after"
        f" {loads:,} {cell.cache_state} load{'' if loads == 1 else 's'}."
    )


def _mapping(manifest: Mapping[str, Any], loads: Sequence[MeasuredCell]) -> list[str]:
    cold = next(
        (cell for cell in loads if cell.cache_state == "cold" and cell.device == "cpu"), None
    )
    if cold is None:
        return [
            "Mapping: whether it hurts on this storage shows cold alone, and cold was not measured."
        ]
    phrases = [
        f"{mapped} over {read} {spread(ratio, 'unknown')}: {_hurts(ratio)}"
        for mapped, read in _MAPPED_OVER_READ
        if (ratio := pair_ratio(cold, mapped, read, lambda sample: sample.ready_s))
    ]
    ahead = (manifest.get("storage") or {}).get("read_ahead_kb")
    readahead = (
        ""
        if ahead is None
        else (
            f" The device reads {ahead:,} KiB ahead; with less of it mapping would wait for storage"
            " more often."
        )
    )
    return (
        [f"Mapping on this storage, cold until ready: {'; '.join(phrases)}.{readahead}"]
        if phrases
        else []
    )


def _hurts(ratio: Estimate) -> str:
    if ratio.low is None or ratio.high is None:
        return "too few blocks to tell"
    if ratio.low > _TOLD:
        return "mapping hurts"
    return "mapping helps" if ratio.high < 1 / _TOLD else "no difference that was told"


def _memory(loads: Sequence[MeasuredCell]) -> list[str]:
    warm = next(
        (cell for cell in loads if cell.cache_state == "warm" and cell.device == "cpu"), None
    )
    arms = (
        [
            arm
            for arm in warm.measured()
            if arm.anonymous_bytes is not None and arm.mapped_bytes is not None
        ]
        if warm
        else []
    )
    text = ", ".join(
        f"{arm.loader} {megabytes(arm.anonymous_bytes)} + {megabytes(arm.mapped_bytes)}"
        for arm in arms
    )
    return [f"Memory, its own + mapped from the file and shared, MB: {text}."] if text else []


def _safety(given: str) -> str:
    if given == "safetensors":
        return "Safety: a safetensors file holds no code to run."
    return (
        "Safety: a pickle may run code unless it is loaded with `weights_only=True`, as here; a"
        " safetensors file holds none."
    )


def _rests_on(cells: Sequence[MeasuredCell]) -> str:
    samples = [sample for cell in cells for sample in cell.samples]
    blocks = ", ".join(
        f"{len({sample.block for sample in cell.samples})} {cell.cache_state} {cell.scenario}"
        for cell in cells
        if cell.samples
    )
    size = size_text(next((cell.bytes for cell in cells if cell.bytes), None))
    valid = sum(sample.valid for sample in samples)
    return (
        f"It rests on {valid} valid of {len(samples)} samples of {size} in blocks ({blocks});"
        " intervals hold the median with 95 % confidence."
    )
