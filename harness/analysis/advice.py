"""Advice on one checkpoint, from a quick probe of it: which loader to use, cold and warm, what it
saves, what to type, and what that rests on.

All of it is computed here, as one record; `harness/report/advice_text.py` says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from harness.analysis.advice_record import (
    Advice,
    Bottleneck,
    Conversion,
    Evidence,
    Figures,
    Memory,
    ToType,
    Use,
    Verdict,
)
from harness.analysis.arms import REFERENCE, ArmSummary
from harness.analysis.bottleneck import PAGE_FAULTS, bottleneck_of, copies_nothing
from harness.analysis.lines_to_type import NAMES, Library, line_for
from harness.analysis.memory_use import memory_to_ask_for
from harness.analysis.payback import Payback, payback
from harness.analysis.run_cells import MeasuredCell, indistinguishable, invalid_counts, pair_ratio
from harness.analysis.shaped_storage import words_of
from harness.analysis.statistics import Estimate
from harness.records.sample import BUSY, REASONS
from harness.scenarios import CONVERSION, FULL_LOAD, CacheState

SAFETENSORS, TORCH_ZIP, TORCH_LEGACY = "safetensors", "torch-zip", "torch-legacy"
OWN = {
    SAFETENSORS: REFERENCE,
    TORCH_ZIP: "torch-load",
    TORCH_LEGACY: "torch-load-legacy",
}
"""The loader that a person uses today, by the format of the file: its plain one."""
CONVERTERS = {TORCH_ZIP: "convert", TORCH_LEGACY: "convert-legacy"}
"""What makes safetensors of each format."""
_ALSO = {TORCH_ZIP: ("torch-load-mmap",), TORCH_LEGACY: (), SAFETENSORS: ()}
_COLD_ONLY: tuple[str, ...] = ("safetensors-pread", "safetensors-load-bytes")
"""What copies every byte. Warm, on the CPU, it is slower than mapping by what the copy takes, and
measuring that would double the time of the warm cell."""
_OF_SMALL_FILES, _SMALL_BYTES = ("safetensors-load-bytes",), 250_000_000
"""What takes most of the time of a large file: `pread` reads it too, with half the memory."""
_READ_OR_MAPPED = (REFERENCE, "safetensors-prefetch-cache", *_COLD_ONLY)
_LEAST_STEP = 100_000_000


def loaders_for(given: str, size: int, cache_state: CacheState, device: str) -> tuple[str, ...]:
    """Return the loaders that a probe of a file of the format `given` and of `size` bytes
    measures.
    """
    leave_out = _COLD_ONLY if cache_state == "warm" and device == "cpu" else ()
    leave_out += _OF_SMALL_FILES if size > _SMALL_BYTES else ()
    loaders = dict.fromkeys((OWN[given], *_ALSO[given], *_READ_OR_MAPPED))
    return tuple(loader for loader in loaders if loader not in leave_out)


def advice(manifest: Mapping[str, Any], cells: Sequence[MeasuredCell], given: str) -> Advice:
    """Return the advice on a file that came in the format `given`.

    Of several devices it speaks of the GPU.
    """
    loads = [cell for cell in cells if cell.scenario == FULL_LOAD]
    device = next((cell.device for cell in loads if cell.device != "cpu"), "cpu")
    cold, warm = (
        next((cell for cell in loads if (cell.device, cell.cache_state) == (device, state)), None)
        for state in ("cold", "warm")
    )
    chosen = _chosen(cold, warm, OWN[given])
    uses = _use(manifest, cold, "cold", chosen, given), _use(manifest, warm, "warm", chosen, given)
    first, first_cell = next(
        ((use, cell) for use, cell in zip(uses, (cold, warm), strict=True) if use.loader),
        (uses[0], cold),
    )
    return Advice(
        checkpoint=next((cell.checkpoint for cell in loads), "unknown"),
        bytes=next((cell.bytes for cell in loads if cell.bytes), None),
        format=given,
        device=device,
        cold=uses[0],
        warm=uses[1],
        lines=tuple(_lines(first_cell, first.loader)),
        convert_first=any(
            use.loader is not None and use.loader.startswith(SAFETENSORS) for use in uses
        )
        and given != SAFETENSORS,
        memory=memory_needed(first_cell, first.loader),
        conversion=_conversion(manifest, cells, (cold, warm), uses, given),
        bottlenecks=tuple(
            filter(None, (_bottleneck(cell, chosen) for cell in (cold, warm) if cell))
        ),
        figures=tuple(_figures(cold, warm)),
        evidence=_evidence(manifest, cells),
    )


def _chosen(
    cold: MeasuredCell | None, warm: MeasuredCell | None, own: str
) -> dict[CacheState, str]:
    """Return the loader to use in each cache state that was measured: one for both where that is as
    fast as can be told in each, the one in use today before any other.
    """
    cells = [cell for cell in (cold, warm) if cell and cell.measured()]
    tied = [[arm.loader for arm in indistinguishable(cell)] for cell in cells]
    common = [
        loader for loader in (tied[0] if tied else ()) if all(loader in others for others in tied)
    ]
    return {cell.key.cache_state: _preferred(common or _best(cell, own), own) for cell in cells}


def _best(cell: MeasuredCell, own: str) -> list[str]:
    """Return the loaders that nothing told from the fastest, the fastest first; of those, where
    some are known to be faster than the one in use, only these.
    """
    tied = [arm.loader for arm in indistinguishable(cell)]
    if own in tied:
        return tied
    faster = [loader for loader in tied if _is_faster(_ratio(cell, own, loader))]
    return faster or tied


def _preferred(loaders: Sequence[str], own: str) -> str:
    """Return the one in use where it is among them, else safetensors' plain one, else the first."""
    return next((loader for loader in (own, REFERENCE) if loader in loaders), loaders[0])


def _ratio(cell: MeasuredCell, over: str, under: str) -> Estimate | None:
    return pair_ratio(cell, over, under, attrgetter("ready_s"))


def _is_faster(ratio: Estimate | None) -> bool:
    return ratio is not None and ratio.low is not None and ratio.low > 1.0


def _use(
    manifest: Mapping[str, Any],
    cell: MeasuredCell | None,
    state: CacheState,
    chosen: Mapping[CacheState, str],
    given: str,
) -> Use:
    if cell is None or state not in chosen:
        return Use(state, Verdict.NOT_MEASURED, reason=_why_not(cell))
    storage = cell.key.storage
    shaped = words_of(storage, manifest) if storage in (manifest.get("shapes") or {}) else None
    return _held_against(cell, chosen[state], OWN[given], shaped)


def _why_not(cell: MeasuredCell | None) -> str:
    """Return why nothing of a cell has a figure."""
    if cell is None or cell.reason:
        return (cell.reason if cell else None) or "it was not requested"
    counts = invalid_counts(cell.samples)
    if not counts:
        return "no sample was taken"
    reason = next(iter(counts))
    advice = "; stop other programs and try again" if reason == BUSY else ""
    return f"no sample is valid ({reason}: {REASONS[reason]}){advice}"


def _held_against(cell: MeasuredCell, loader: str, own: str, storage: str | None = None) -> Use:
    """Return a loader of a cell, held against the one in use today."""
    arm, today = cell.arm(loader), cell.arm(own)
    ratio = _ratio(cell, own, loader)
    blocks = len({sample.block for sample in cell.samples if sample.valid})
    if arm is None or arm.status == "insufficient":
        verdict = Verdict.UNDECIDED
    elif loader == own:
        verdict = Verdict.KEEP
    elif ratio is None or ratio.low is None:
        verdict = Verdict.UNDECIDED
    else:
        verdict = Verdict.FASTER if ratio.low > 1.0 else Verdict.ALIKE
    return Use(
        cell.key.cache_state,
        verdict,
        storage,
        loader,
        NAMES[loader],
        arm.ready if arm else None,
        own,
        NAMES[own],
        today.ready if today else None,
        ratio,
        blocks,
    )


def _lines(cell: MeasuredCell | None, advised: str | None) -> list[ToType]:
    """Return the line to type of each library: of the advised loader, or of the fastest measured of
    the same format that the library offers.
    """
    if cell is None or advised is None:
        return []
    family = advised.split("-")[0]
    others = [arm.loader for arm in cell.measured() if arm.loader.split("-")[0] == family]
    found_lines = (line_for(library, (advised, *others)) for library in Library)
    return [
        ToType(line.library, line.text, line.loader, line.loader == advised)
        for line in found_lines
        if line
    ]


def memory_needed(cell: MeasuredCell | None, loader: str | None) -> Memory | None:
    """Return the memory that a loader needs in a cell, by the medians of its samples.

    The limit to ask for is that of `memory_to_ask_for`, rounded up to 0.1 GB. None where the system
    did not tell.
    """
    arm = cell.arm(loader) if cell and loader else None
    if arm is None or arm.peak_rss_bytes is None or arm.peak_growth_bytes is None:
        return None
    samples = [sample for sample in cell.samples if sample.loader == loader] if cell else []
    if (need := memory_to_ask_for(samples)) is None:
        return None
    ask_for = math.ceil(need.ask_bytes / _LEAST_STEP) * _LEAST_STEP
    return Memory(
        arm.loader,
        arm.peak_rss_bytes,
        max(arm.peak_rss_bytes - arm.peak_growth_bytes, 0.0),
        max(arm.mapped_bytes or 0.0, 0.0),
        ask_for,
    )


def _conversion(
    manifest: Mapping[str, Any],
    cells: Sequence[MeasuredCell],
    loads: tuple[MeasuredCell | None, MeasuredCell | None],
    uses: tuple[Use, Use],
    given: str,
) -> Conversion | None:
    if given == SAFETENSORS:
        return None
    converting = next((cell for cell in cells if cell.scenario == CONVERSION), None)
    arm = converting.arm(CONVERTERS[given]) if converting else None
    paid = [
        _paid_back(converting, arm, cell, OWN[given], use.loader)
        for cell, use in zip(loads, uses, strict=True)
    ]
    cold, warm = paid
    return Conversion(
        arm.ready if arm else None,
        cold.saving if cold else None,
        warm.saving if warm else None,
        _loads(cold),
        _loads(warm),
        _without(loads[1] or loads[0], given),
    )


def _paid_back(
    converting: MeasuredCell | None,
    arm: ArmSummary | None,
    cell: MeasuredCell | None,
    own: str,
    loader: str | None,
) -> Payback | None:
    """Return what a conversion costs and what a load of a cell saves by safetensors.

    Where the loader to use is not of safetensors, it is the plain one that is compared.
    """
    if converting is None or arm is None or cell is None:
        return None
    compared = loader if loader and loader.startswith(SAFETENSORS) else REFERENCE
    today, other = cell.arm(own), cell.arm(compared)
    if today is None or other is None:
        return None
    return payback(
        attrgetter("ready_s"), converting.valid(arm), cell.valid(today), cell.valid(other)
    )


def _loads(paid: Payback | None) -> int | None:
    """Return after how many loads the median conversion has paid, None where no load is known to
    save anything.
    """
    if paid is None or paid.saving.low is None or paid.saving.low <= 0:
        return None
    return math.ceil(paid.cost.median / paid.saving.median)


def _without(cell: MeasuredCell | None, given: str) -> Use | None:
    """Return the best that the file allows as it is, where that is faster than what is in use."""
    if cell is None:
        return None
    uses = [_held_against(cell, loader, OWN[given]) for loader in _ALSO[given] if cell.arm(loader)]
    return next((use for use in uses if use.verdict is Verdict.FASTER), None)


def _bottleneck(cell: MeasuredCell, chosen: Mapping[CacheState, str]) -> Bottleneck | None:
    arm = cell.arm(chosen.get(cell.key.cache_state, ""))
    if arm is None:
        return None
    what = PAGE_FAULTS if copies_nothing(arm) else bottleneck_of(arm)
    if what is None:
        return None
    ceiling = cell.ceiling
    return Bottleneck(
        cell.key.cache_state,
        arm.loader,
        what,
        arm.share_of_ceiling.median if arm.share_of_ceiling else None,
        ceiling.loader if ceiling else None,
        ceiling.rate if ceiling else None,
    )


def _figures(cold: MeasuredCell | None, warm: MeasuredCell | None) -> list[Figures]:
    """Return every loader's figures, as fast as it is cold."""
    names = dict.fromkeys(arm.loader for cell in (cold, warm) if cell for arm in cell.measured())
    figures = []
    for name in names:
        arms = [cell.arm(name) if cell else None for cell in (cold, warm)]
        peaks = [arm.peak_rss_bytes for arm in arms if arm and arm.peak_rss_bytes is not None]
        cold_s, warm_s = (arm.ready if arm else None for arm in arms)
        figures.append(Figures(name, NAMES[name], cold_s, warm_s, max(peaks, default=None)))
    return figures


def _evidence(manifest: Mapping[str, Any], cells: Sequence[MeasuredCell]) -> Evidence:
    samples = [sample for cell in cells for sample in cell.samples]
    missing = {cell.name: cell.reason for cell in cells if cell.reason}
    left_out = {
        f"{loader} in {cell.name}": reason
        for cell in cells
        for loader, reason in cell.left_out.items()
    }
    return Evidence(
        len(samples),
        sum(sample.valid for sample in samples),
        invalid_counts(samples),
        {
            cell.name: len({sample.block for sample in cell.samples})
            for cell in cells
            if cell.samples
        },
        missing | left_out,
        (manifest.get("storage") or {}).get("read_ahead_kb"),
    )
