"""The part of a page that was not measured: what the cells measured say of other sizes, and of BLOOM-176B, as predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from harness.checkpoints.layouts import BLOOM_176B
from harness.measure.sample import Sample
from harness.report.cells import FULL_LOAD, Cell
from harness.report.place import Place
from harness.report.tables import markdown
from harness.report.words import DASH, significant, size_text
from harness.verdicts.cells import REFERENCE
from harness.verdicts.fit import Coefficient, Fit, NotFitted, fit_loaders
from harness.verdicts.prediction import Overtaking, Prediction, overtakings, predict_bloom, predicted_ratios

_RATES = (2e9, 8e9, 25e9)
"""Storage rates in bytes/s that predictions are made for besides this run's own: a disk, a fast one, several."""
_COUNTS, _SIZES = (100, 1000), (100_000_000,)

_FITS = """
**Nothing in this section was measured.** For each loader the line `fixed + per tensor * tensors + per byte * bytes` is laid through the
medians of its cells to *ready*, no coefficient below zero, each with the interval that 95 % of 2,000 redrawings of the samples give. With as
many checkpoints as coefficients a line meets every cell, so *spare* says how many there are beyond three, and *furthest* which cell the
line misses by most: what differs by less than that is not told by it.
""".strip()
_OVERTAKINGS = f"""
Where the lines of two loaders cross, one overtakes the other. Each loader here against `{REFERENCE}`, as *faster* or *slower* than it; every
pair stands in the plain figures. A crossing outside the sizes measured is marked as reached for.
""".strip()


def fits_of(cells: Sequence[Cell], samples: Sequence[Sample]) -> tuple[list[Fit], list[NotFitted]]:
    """Return the fits of every device that something was measured on, and what could not be fitted."""
    devices = sorted({cell.device for cell in cells if cell.scenario == FULL_LOAD and cell.measured()})
    fits: list[Fit] = []
    refused: list[NotFitted] = []
    for device in devices:
        found, without = fit_loaders(samples, device)
        fits, refused = [*fits, *found], [*refused, *without]
    return fits, refused


def on_paper(place: Place, cells: Sequence[Cell], fits: Sequence[Fit], refused: Sequence[NotFitted]) -> list[str]:
    """Return the blocks of Markdown of the fits, where loaders overtake each other, and BLOOM-176B; none without a full load."""
    if not fits and not refused:
        return []
    blocks = [place.heading("Past this machine, on paper")]
    if not fits:
        return [*blocks, f"No line was fitted, and nothing is predicted: {_why(refused)}."]
    blocks += [_FITS, markdown(_fit_table(fits)), f"In plain figures: {place.table('fits', _fit_frame(fits))}"]
    if refused:
        blocks.append(f"Not fitted: {_why(refused)}.")
    crossings = overtakings(fits, _COUNTS, _SIZES)
    if any(REFERENCE in (found.first, found.second) for found in crossings):
        blocks += [place.heading("Which loader overtakes which", 2), _OVERTAKINGS, markdown(_overtaking_table(crossings))]
        blocks.append(f"In plain figures: {place.table('overtakings', _frame(crossings, Overtaking))}")
    own = _own_rate(cells)
    predictions = predict_bloom(fits, sorted({*_RATES, *([own] if own else [])}))
    return [*blocks, *_bloom(place, predictions, own)]


def _why(refused: Sequence[NotFitted]) -> str:
    reasons: dict[str, list[str]] = {}
    for one in refused:
        reasons.setdefault(one.reason, []).append(f"{one.loader} {one.cache_state} on {one.device}")
    return "; ".join(f"{', '.join(who)} ({reason})" for reason, who in reasons.items())


def _own_rate(cells: Sequence[Cell]) -> float | None:
    """Return the highest cold rate in bytes/s that a ceiling reached in this run, to two figures, or None."""
    rates = [arm.rate for cell in cells if cell.scenario == FULL_LOAD and cell.cache_state == "cold" if (arm := cell.ceiling) and arm.rate]
    return float(f"{max(rates):.1e}") if rates else None


def _fit_table(fits: Sequence[Fit]) -> pd.DataFrame:
    several = len({(fit.environment, fit.device) for fit in fits}) > 1
    rows = [
        [
            f"{fit.loader}{f' @ {fit.environment}, {fit.device}' if several else ''}",
            fit.cache_state,
            *(_coefficient(found, factor) for found, factor in ((fit.fixed_s, 1e3), (fit.per_tensor_s, 1e6), (fit.per_byte_s, 1e12))),
            str(fit.spare),
            f"{fit.worst.checkpoint} {100 * fit.deviation(fit.worst):+.0f} %" if fit.deviation(fit.worst) else "none",
        ]
        for fit in fits
    ]
    heads = ["loader", "state", "fixed, ms", "per tensor, µs", "per GB, ms", "spare", "furthest"]
    return pd.DataFrame(sorted(rows, key=lambda row: (row[1], row[0])), columns=heads)


def _coefficient(found: Coefficient, factor: float) -> str:
    return f"{significant(found.value * factor)} [{significant(found.low * factor)}{DASH}{significant(found.high * factor)}]"


def _fit_frame(fits: Sequence[Fit]) -> pd.DataFrame:
    """Return one row for each fit: coefficients in s, s per tensor and s per byte with their intervals, and what it rests on."""
    rows = []
    for fit in fits:
        row: dict[str, Any] = {name: getattr(fit, name) for name in ("loader", "environment", "device", "cache_state")}
        for name in ("fixed_s", "per_tensor_s", "per_byte_s"):
            found: Coefficient = getattr(fit, name)
            row |= {name: found.value, f"{name[:-2]}_low_s": found.low, f"{name[:-2]}_high_s": found.high}
        row |= {"checkpoints": " ".join(cell.checkpoint for cell in fit.cells), "spare": fit.spare}
        rows.append(row | {"furthest": fit.worst.checkpoint, "deviation": fit.deviation(fit.worst)})
    return pd.DataFrame(rows)


def _overtaking_table(crossings: Sequence[Overtaking]) -> pd.DataFrame:
    found = [one for one in crossings if REFERENCE in (one.first, one.second)]
    heads = {("bytes", held): f"by size, {held:,} tensors" for held in _COUNTS} | {
        ("tensors", held): f"by tensors, {size_text(held)}" for held in _SIZES
    }
    several = len({(one.environment, one.device) for one in found}) > 1
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        loader = one.second if one.first == REFERENCE else one.first
        label = f"{loader}{f' @ {one.environment}, {one.device}' if several else ''}"
        row = rows.setdefault((one.cache_state, label), {"loader": label, "state": one.cache_state})
        row[heads[one.along, one.held]] = _where(one, loader)
        row["furthest"] = f"{100 * one.deviation:.0f} %"
    return pd.DataFrame([rows[key] for key in sorted(rows)], columns=["loader", "state", *heads.values(), "furthest"])


def _where(found: Overtaking, loader: str) -> str:
    def word(faster: str | None) -> str:
        return "not told apart" if faster is None else "faster" if faster == loader else "slower"

    def at(value: float | None) -> str:
        return "" if value is None else size_text(value) if found.along == "bytes" else f"{significant(value)} tensors"

    below, above = word(found.below), word(found.above)
    if below == above:
        return f"{below} at all" if found.below else below
    if found.crossing is not None:
        reached = ", reached for" if found.extrapolated else ""
        return f"{below} below {at(found.crossing)} [{at(found.low)} {DASH} {at(found.high)}{reached}], {above} above"
    return f"{below} up to {at(found.low)}, then {above}" if found.below else f"{below}, {above} from {at(found.high)} on"


def _bloom(place: Place, predictions: Sequence[Prediction], own: float | None) -> list[str]:
    if not predictions:
        return []
    ratios = predicted_ratios(predictions)
    lowest, highest = (min(one.low for one in ratios), max(one.high for one in ratios)) if ratios else (None, None)
    ranks, far = predictions[0].ranks, max(one.times_measured for one in predictions)
    several = len({one.environment for one in predictions}) > 1
    rows = [
        [
            f"{one.arm}{f' @ {one.environment}' if several else ''}",
            f"{significant(one.storage_rate / 1e9)}{' (this run)' if one.storage_rate == own else ''}",
            significant(one.read_bytes / 1e9),
            f"{significant(one.low_s)}{DASH}{significant(one.high_s)}",
            "nothing" if one.page_s is None else significant(one.page_s),
        ]
        for one in predictions
    ]
    heads = ["prediction", "storage, GB/s", "read from storage, GB", "predicted, s", "the document says, s"]
    words = (
        f"**A prediction**: BLOOM-176B ({size_text(BLOOM_176B.bytes)}, {len(BLOOM_176B.tensors):,} tensors) brought up by {ranks} ranks of one "
        "machine with a core for each, from the warm lines above and a storage rate that all ranks share. From the least, where loading hides "
        f"entirely behind storage, to the most, where it does not at all. A rank brings up as much as {significant(far)} times the largest "
        "checkpoint measured, and nothing is reckoned for the way to a GPU."
    )
    blocks = [place.heading("BLOOM-176B over 8 ranks, predicted", 2), words, markdown(pd.DataFrame(rows, columns=heads))]
    if ratios and lowest is not None and highest is not None:
        blocks.append(
            f"Unpickling everything over slices is so predicted at {significant(lowest)} to {significant(highest)} times, by the storage and by "
            f"how everything is read; the document's figures give {ratios[0].page:.1f}."
        )
    return [*blocks, f"In plain figures: {place.table('bloom-176b-predicted', _frame(predictions, Prediction))}"]


def _frame(rows: Sequence[Any], kind: Any) -> pd.DataFrame:
    """Return dataclasses as a frame of their own fields."""
    return pd.DataFrame([{field.name: getattr(row, field.name) for field in fields(kind)} for row in rows])
