"""The part of a page about conversion: what it costs to make safetensors of a torch file, and after how many loads that is paid back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import pandas as pd

from harness.report.cells import FULL_LOAD, Cell, pair_ratio
from harness.report.place import Place, course
from harness.report.tables import arm_table, cell_frame, markdown
from harness.report.words import megabytes, ratio_text, significant, size_text, spread, time_text
from harness.verdicts.cells import REFERENCE, ArmSummary
from harness.verdicts.statistics import Estimate

CONVERSION = "conversion"
_PICKLE = "torch-load"
_ARMS = {
    "file-copy": "the torch file copied, and on the disk: what any way to make another file of it has to take",
    "convert": "`weighbridge convert`: scanned, read with `weights_only=True`, streamed to safetensors, and on the disk",
    "convert-and-verify": "the same, and every tensor of the two files held against each other, as `weighbridge verify` does",
    "convert-legacy": "`convert` of a file of the older torch format",
}
_READING = """
What a conversion costs, once. What was made is read back and checked like every load, and removed, while no clock runs. *growth* is how far
the process's memory rose at its highest; the bound is the largest tensor and 200 MB.
""".strip()
_PAYS_BACK = f"""
What it saves is the difference of `{_PICKLE}` and `{REFERENCE}` to *ready*, from the full loads of this run; a conversion is paid back after
its cost over that many loads. Where the ratio of the two is not told from 1, or pickle is the faster, it never is by time alone.
""".strip()


def conversions(place: Place, cells: Sequence[Cell]) -> list[str]:
    """Return the blocks of Markdown about conversion, none where there is no such cell."""
    found = [cell for cell in cells if cell.scenario == CONVERSION]
    if not found:
        return []
    loaders = [loader for loader in _ARMS if any(arm.loader == loader for cell in found for arm in cell.arms)]
    blocks = [place.heading("Conversion"), _READING, "\n".join(f"- `{loader}`: {_ARMS[loader]}" for loader in loaders)]
    for checkpoint, group in groupby(found, key=lambda cell: cell.checkpoint):
        of_checkpoint = list(group)
        blocks.append(place.heading(f"{checkpoint}, {size_text(of_checkpoint[0].bytes)}, to another file", 2))
        for cell in of_checkpoint:
            blocks.append(f"**{cell.cache_state.capitalize()}**{course(cell)}")
            if cell.samples or cell.left_out:
                blocks += [markdown(_table(cell)), f"In plain figures: {place.table(cell.name, cell_frame(cell))}"]
    frame = payback_frame(cells)
    if not frame.empty:
        blocks += [place.heading("After how many loads it is paid back", 2), _PAYS_BACK, markdown(_payback_table(frame))]
        blocks.append(f"In plain figures: {place.table('conversion-payback', frame)}")
    return blocks


def payback_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return a row for each checkpoint and cache state whose conversion and full load were both measured: costs and saving in s, numbers of loads.

    `ratio` is pickle over safetensors within blocks. A number of loads is None where a conversion is never paid back.
    """
    rows = []
    loads = {(cell.checkpoint, cell.cache_state): cell for cell in cells if cell.scenario == FULL_LOAD and cell.device == "cpu"}
    for cell in (cell for cell in cells if cell.scenario == CONVERSION):
        load = loads.get((cell.checkpoint, cell.cache_state))
        convert, both = cell.arm("convert"), cell.arm("convert-and-verify")
        pickle, safetensors = (load.arm(_PICKLE), load.arm(REFERENCE)) if load else (None, None)
        if not load or not convert or not convert.ready or not pickle or not pickle.ready or not safetensors or not safetensors.ready:
            continue
        ratio = pair_ratio(load, _PICKLE, REFERENCE, lambda sample: sample.ready_s)
        saving = pickle.ready.median - safetensors.ready.median if _slower(ratio) else None
        costs = {"convert_s": convert.ready.median, "convert_and_verify_s": both.ready.median if both and both.ready else None}
        rows.append(
            {
                "checkpoint": cell.checkpoint,
                "cache_state": cell.cache_state,
                **costs,
                "torch_load_s": pickle.ready.median,
                "safetensors_s": safetensors.ready.median,
                "ratio": ratio.median if ratio else None,
                "ratio_low": ratio.low if ratio else None,
                "ratio_high": ratio.high if ratio else None,
                "loads_to_pay_conversion": _number(costs["convert_s"], saving),
                "loads_to_pay_both": _number(costs["convert_and_verify_s"], saving),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: "Int64" for name in frame.columns if name.startswith("loads_")})


def _slower(ratio: Estimate | None) -> bool:
    """Return whether pickle is told to be slower."""
    return ratio is not None and ratio.low is not None and ratio.low > 1.0


def _number(cost: float | None, saving: float | None) -> int | None:
    return math.ceil(cost / saving) if cost is not None and saving is not None and saving > 0 else None


def _payback_table(frame: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for line in frame.to_dict("records"):
        low, high = (None if pd.isna(line[bound]) else line[bound] for bound in ("ratio_low", "ratio_high"))
        ratio = Estimate(median=line["ratio"], low=low, high=high, count=0)
        loads = ["never" if pd.isna(line[which]) else f"{line[which]:,.0f}" for which in ("loads_to_pay_conversion", "loads_to_pay_both")]
        times = [
            "missing" if pd.isna(line[which]) else time_text(line[which])
            for which in ("torch_load_s", "safetensors_s", "convert_s", "convert_and_verify_s")
        ]
        rows.append([line["checkpoint"], line["cache_state"], *times, spread(ratio, "no pairs"), *loads])
    heads = [
        "checkpoint",
        "cache",
        _PICKLE,
        REFERENCE,
        "convert",
        "convert and verify",
        "pickle over safetensors",
        "loads that pay the conversion",
        "loads that pay both",
    ]
    return pd.DataFrame(rows, columns=heads)


def _table(cell: Cell) -> pd.DataFrame:
    def words(arm: ArmSummary) -> list[str]:
        rate, sizes = significant((arm.rate or 0.0) / 1e6), [megabytes(size) for size in (arm.peak_growth_bytes, arm.storage_read_bytes)]
        return [spread(arm.ready, "missing"), ratio_text(cell, arm, arm.ratio_ready), rate, *sizes]

    return arm_table(cell, ["ready, s", "ratio to the copy", "MB/s", "growth, MB", "storage read, MB"], words)
