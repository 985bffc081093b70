"""The part of a page about conversion: what it costs to make safetensors of a torch file, and after
how many loads that is paid back.
"""

from __future__ import annotations

from itertools import groupby

import pandas as pd

from harness.analysis.arms import ArmSummary
from harness.analysis.payback import PAIR, payback_frame
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate
from harness.report.format import megabytes, ratio_text, significant, size_text, spread, time_text
from harness.report.section_writer import SectionWriter, course
from harness.report.tables import arm_table, cell_frame, markdown
from harness.scenarios import CONVERSION

_ARMS = {
    "file-copy": (
        "the torch file is copied and written to disk. Any conversion takes at least as long as "
        "this"
    ),
    "convert": (
        "`weighbridge convert`: the file is scanned, read with `weights_only=True`, streamed to "
        "safetensors and written to disk"
    ),
    "convert-and-verify": (
        "the same, and then every tensor of the two files is compared, as `weighbridge verify` does"
    ),
    "convert-legacy": "`convert` of a file of the older torch format",
}
_READING = """
The cost of one conversion. The new file is read back, checked like every load, and removed; no
clock runs meanwhile. *growth* is how far the process's memory rose at its peak. Its bound is the
largest tensor plus 200 MB.
""".strip()
_PAYS_BACK = f"""
The saving of a load is the time to *ready* of `{PAIR.compared}` minus that of `{PAIR.reference}`.
It is taken within the blocks of this run's full loads. The number of loads that pay back a
conversion is its cost divided by that saving. Where the interval of the saving reaches 0, it is not
known whether a conversion saves any time.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about conversion, none where there is no such cell."""
    cells = run.cells_of(CONVERSION)
    if not cells:
        return []
    loaders = [
        loader
        for loader in _ARMS
        if any(arm.loader == loader for cell in cells for arm in cell.arms)
    ]
    blocks = [
        writer.title(CONVERSION),
        _READING,
        "\n".join(f"- `{loader}`: {_ARMS[loader]}" for loader in loaders),
    ]
    for checkpoint, group in groupby(cells, key=lambda cell: cell.checkpoint):
        of_checkpoint = list(group)
        blocks.append(
            writer.heading(f"{checkpoint}, {size_text(of_checkpoint[0].bytes)}, to another file", 2)
        )
        for cell in of_checkpoint:
            blocks.append(f"**{cell.cache_state.capitalize()}**{course(cell)}")
            if cell.samples or cell.left_out:
                blocks += [
                    markdown(_table(cell)),
                    f"As CSV: {writer.table(cell.name, cell_frame(cell))}",
                ]
    frame = payback_frame(run.cells)
    if not frame.empty:
        blocks += [
            writer.heading("Number of loads that pay back the conversion", 2),
            _PAYS_BACK,
            markdown(_payback_table(frame)),
        ]
        blocks.append(f"As CSV: {writer.table('conversion-payback', frame)}")
    return blocks


def _payback_table(frame: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for line in frame.to_dict("records"):
        low, high = (
            None if pd.isna(line[bound]) else line[bound]
            for bound in ("saving_low_s", "saving_high_s")
        )
        saving = Estimate(median=line["saving_s"], low=low, high=high, count=line["pairs"])
        loads = [
            "not known to" if pd.isna(line[which]) else f"{line[which]:,.0f}"
            for which in ("loads_to_pay_conversion", "loads_to_pay_both")
        ]
        times = [
            "missing" if pd.isna(line[which]) else time_text(line[which])
            for which in ("convert_s", "convert_and_verify_s")
        ]
        rows.append(
            [
                line["checkpoint"],
                line["cache_state"],
                spread(saving, "no pairs", 1e3),
                *times,
                *loads,
            ]
        )
    heads = [
        "checkpoint",
        "cache",
        "a load saves, ms",
        "convert",
        "convert and verify",
        "loads that pay the conversion",
        "loads that pay both",
    ]
    return pd.DataFrame(rows, columns=heads)


def _table(cell: MeasuredCell) -> pd.DataFrame:
    def words(arm: ArmSummary) -> list[str]:
        rate, sizes = (
            significant((arm.rate or 0.0) / 1e6),
            [megabytes(size) for size in (arm.peak_growth_bytes, arm.storage_read_bytes)],
        )
        return [spread(arm.ready, "missing"), ratio_text(cell, arm, arm.ratio_ready), rate, *sizes]

    return arm_table(
        cell, ["ready, s", "ratio to the copy", "MB/s", "growth, MB", "storage read, MB"], words
    )
