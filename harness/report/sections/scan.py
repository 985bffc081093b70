"""The part of a page about scanners: what they saw in hostile files, and how long they take over
clean ones beside a load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.arms import ArmSummary
from harness.analysis.hostile import (
    File,
    ScannerResult,
    accounts,
    files_of,
    loaders_of,
    scanned,
    seen_by_scanner,
)
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.records.trials import Trial
from harness.report.figures.style import Drawn, heading, line, panels_by_size, plain_log, style_of
from harness.report.format import megabytes, ratio_text, size_text, spread, time_text
from harness.report.section_writer import SectionWriter, course
from harness.report.tables import arm_table, cell_frame, markdown
from harness.scenarios import HOSTILE_SCAN, SCAN

_SCANNING = """
Scanners get the same files and unpickle nothing. *found* and *missed* count files with a payload,
hidden or not. *false alarm* and *passed* count harmless files. All other files lie, are broken or
ask for much, but run no code. A scanner may flag or pass those. *could not tell* means an error, or
a file that it did not look at. *broke* means that it crashed, hung or ran out of memory.
""".strip()
_BESIDE = """
Time that a scanner takes for a clean torch file, warm, compared with the time to load the same
tensors. A ratio is to `torch-load` until *ready*. The content of the file is checked after the
clocks have stopped. A scanner that does not call the file clean has no figure.
""".strip()


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the blocks of Markdown about scanners, none where none was asked.

    Every row is written as CSV.
    """
    blocks = _seen(writer, run.manifest, run.trials)
    timed = run.cells_of(SCAN)
    if timed:
        blocks += [
            writer.heading("Scan time beside load time"),
            _BESIDE,
            *writer.figure(lambda: _draw(timed)),
        ]
    for cell in timed:
        blocks.append(f"**{cell.checkpoint}, {size_text(cell.bytes)}**{course(cell)}")
        if cell.samples or cell.left_out:
            blocks += [
                markdown(_table(cell)),
                f"As CSV: {writer.table(cell.name, cell_frame(cell))}",
            ]
    return blocks


def _seen(writer: SectionWriter, manifest: Mapping[str, Any], trials: Sequence[Trial]) -> list[str]:
    files = files_of(manifest)
    counts = scanned(trials, files)
    if not counts:
        return []
    slowest = {
        account.loader: account.slowest
        for account in accounts(trials, loaders_of(manifest), HOSTILE_SCAN)
    }
    heads = [
        "scanner",
        ScannerResult.FOUND,
        ScannerResult.MISSED,
        ScannerResult.SILENT,
        ScannerResult.BROKE,
        f"harmless: {ScannerResult.PASSED}",
        ScannerResult.FALSE_ALARM,
        "neither",
        "others: found",
        ScannerResult.PASSED,
        "neither ",
        "longest",
    ]
    results = []
    for name, groups in counts.items():
        code, harmless, other = groups["code"], groups["harmless"], groups["other"]
        longest = slowest[name]
        results.append(
            [
                name,
                *(
                    code[word]
                    for word in (
                        ScannerResult.FOUND,
                        ScannerResult.MISSED,
                        ScannerResult.SILENT,
                        ScannerResult.BROKE,
                    )
                ),
                *(harmless[word] for word in (ScannerResult.PASSED, ScannerResult.FALSE_ALARM)),
                harmless[ScannerResult.SILENT] + harmless[ScannerResult.BROKE],
                *(other[word] for word in (ScannerResult.FOUND, ScannerResult.PASSED)),
                other[ScannerResult.SILENT] + other[ScannerResult.BROKE],
                f"{time_text(longest.seconds)}, {longest.file}" if longest else "unknown",
            ]
        )
    return [
        writer.heading("What scanners saw"),
        _SCANNING,
        markdown(pd.DataFrame(results, columns=heads)),
        (f"As CSV, file by file: {writer.table('scanners', scanners_frame(trials, files))}"),
    ]


def scanners_frame(trials: Sequence[Trial], files: Mapping[str, File]) -> pd.DataFrame:
    """Return one row for each file, what is wrong with it, and in a column for each scanner what
    that made of it.
    """
    by_file: dict[str, dict[str, str]] = {}
    for trial in trials:
        if trial.scenario == HOSTILE_SCAN:
            by_file.setdefault(trial.file, {})[trial.loader] = seen_by_scanner(
                trial, files[trial.file]
            )
    return pd.DataFrame(
        [
            {"file": name, "family": files[name].family, "harm": files[name].harm} | seen
            for name, seen in sorted(by_file.items())
        ]
    )


def _table(cell: MeasuredCell) -> pd.DataFrame:
    def words(arm: ArmSummary) -> list[str]:
        return [
            spread(arm.ready, "missing", 1e3),
            ratio_text(cell, arm, arm.ratio_ready),
            megabytes(arm.peak_growth_bytes),
        ]

    return arm_table(cell, ["ready, ms", "ratio to torch-load", "growth, MB"], words)


def _draw(cells: Sequence[MeasuredCell]) -> tuple[Figure, Drawn] | None:
    """Draw the time of every scanner and load against the size of the tensors."""
    points: dict[str, list[tuple[int, Any]]] = {}
    for cell in cells:
        for arm in cell.arms:
            if arm.ready:
                points.setdefault(arm.loader, []).append((arm.bytes, arm.ready))
    sizes = [size for of_loader in points.values() for size, _ in of_loader]
    if len(set(sizes)) < 2:
        return None
    figure, (axes,) = panels_by_size(["warm"], sizes, "time, ms (logarithmic)")
    times = [estimate.median * 1e3 for of_arm in points.values() for _, estimate in of_arm]
    axes.set_ylim(min(times) / 1.6, max(times) * 1.6)
    plain_log(axes.yaxis)
    handles = [line(axes, of_loader, style_of(loader), 1e3) for loader, of_loader in points.items()]
    figure.legend(handles, list(points), loc="outside right center", fontsize=8)
    heading(figure, "Scanning a clean file, beside loading it")
    return figure, Drawn(
        "scan-time.svg",
        f"Time against size of {', '.join(points)}, warm, for files of {size_text(min(sizes))} to"
        f" {size_text(max(sizes))}",
        "a line is a scanner or a loader, and a point is its median with its interval. A scanner "
        "with a flat line reads only the pickle. One that rises with the size reads all tensors. "
        "The number of tensors also counts",
    )
