"""The part of a page about scanners: what they saw in hostile files, and how long they take over clean ones beside a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.records.meetings import HOSTILE_SCAN, Meeting
from harness.report.cells import Cell
from harness.report.drawing import Drawn, heading, line, panels_by_size, plain_log, style_of
from harness.report.place import Place, course
from harness.report.tables import arm_table, cell_frame, markdown
from harness.report.words import megabytes, ratio_text, size_text, spread, time_text
from harness.verdicts.cells import ArmSummary
from harness.verdicts.hostile import (
    BROKE,
    FALSE_ALARM,
    FOUND,
    MISSED,
    PASSED,
    SILENT,
    File,
    accounts,
    files_of,
    guests_of,
    scanned,
    seen_by_scanner,
)

SCAN = "scan"
_SCANNING = """
The same files given to scanners, which unpickle nothing. *found* and *missed* are of files with a payload, whatever hides it; *false alarm* and
*passed* of harmless ones. Of all other files, which lie, are broken or ask for much but run nothing, a scanner may well find or pass any.
*could not tell*: an error, or a file that it did not look at; *broke*: it crashed, hung or ran out of memory, as any loader here could.
""".strip()
_BESIDE = """
How long a scanner takes over a clean torch file of seeded content, warm, beside the time that loading the same tensors takes. A ratio is to
`torch-load` to *ready*. That the file is the checkpoint's own is checked after the clocks have stopped, and a scanner that says anything but
that it is clean has no figure.
""".strip()


def scans(place: Place, manifest: Mapping[str, Any], meetings: Sequence[Meeting], cells: Sequence[Cell]) -> list[str]:
    """Return the blocks of Markdown about scanners, none where none was asked; every row is written as CSV."""
    blocks = _seen(place, manifest, meetings)
    timed = [cell for cell in cells if cell.scenario == SCAN]
    if timed:
        blocks += [place.heading("Scan time beside load time"), _BESIDE, *place.figure(lambda: _draw(timed))]
    for cell in timed:
        blocks.append(f"**{cell.checkpoint}, {size_text(cell.bytes)}**{course(cell)}")
        if cell.samples or cell.left_out:
            blocks += [markdown(_table(cell)), f"In plain figures: {place.table(cell.name, cell_frame(cell))}"]
    return blocks


def _seen(place: Place, manifest: Mapping[str, Any], meetings: Sequence[Meeting]) -> list[str]:
    files = files_of(manifest)
    counts = scanned(meetings, files)
    if not counts:
        return []
    slowest = {one.loader: one.slowest for one in accounts(meetings, guests_of(manifest), HOSTILE_SCAN)}
    heads = [
        "scanner",
        FOUND,
        MISSED,
        SILENT,
        BROKE,
        f"harmless: {PASSED}",
        FALSE_ALARM,
        "neither",
        "others: found",
        PASSED,
        "neither ",
        "longest",
    ]
    found = []
    for name, groups in counts.items():
        code, harmless, other = groups["code"], groups["harmless"], groups["other"]
        longest = slowest[name]
        found.append(
            [
                name,
                *(code[word] for word in (FOUND, MISSED, SILENT, BROKE)),
                *(harmless[word] for word in (PASSED, FALSE_ALARM)),
                harmless[SILENT] + harmless[BROKE],
                *(other[word] for word in (FOUND, PASSED)),
                other[SILENT] + other[BROKE],
                f"{time_text(longest.seconds)}, {longest.file}" if longest else "unknown",
            ]
        )
    return [
        place.heading("What scanners saw"),
        _SCANNING,
        markdown(pd.DataFrame(found, columns=heads)),
        f"In plain figures, file by file: {place.table('scanners', scanners_frame(meetings, files))}",
    ]


def scanners_frame(meetings: Sequence[Meeting], files: Mapping[str, File]) -> pd.DataFrame:
    """Return one row for each file, what is wrong with it, and in a column for each scanner what that made of it."""
    by_file: dict[str, dict[str, str]] = {}
    for meeting in meetings:
        if meeting.scenario == HOSTILE_SCAN:
            by_file.setdefault(meeting.file, {})[meeting.loader] = seen_by_scanner(meeting, files[meeting.file])
    return pd.DataFrame(
        [{"file": name, "family": files[name].family, "harm": files[name].harm} | seen for name, seen in sorted(by_file.items())]
    )


def _table(cell: Cell) -> pd.DataFrame:
    def words(arm: ArmSummary) -> list[str]:
        return [spread(arm.ready, "missing", 1e3), ratio_text(cell, arm, arm.ratio_ready), megabytes(arm.peak_growth_bytes)]

    return arm_table(cell, ["ready, ms", "ratio to torch-load", "growth, MB"], words)


def _draw(cells: Sequence[Cell]) -> tuple[Figure, Drawn] | None:
    """Draw the time of every scanner and load against the size of the tensors."""
    points: dict[str, list[tuple[int, Any]]] = {}
    for cell in cells:
        for arm in cell.arms:
            if arm.ready:
                points.setdefault(arm.loader, []).append((arm.bytes, arm.ready))
    sizes = [size for found in points.values() for size, _ in found]
    if len(set(sizes)) < 2:
        return None
    figure, (axes,) = panels_by_size(["warm"], sizes, "time, ms (logarithmic)")
    times = [found.median * 1e3 for of_arm in points.values() for _, found in of_arm]
    axes.set_ylim(min(times) / 1.6, max(times) * 1.6)
    plain_log(axes.yaxis)
    handles = [line(axes, found, style_of(loader), 1e3) for loader, found in points.items()]
    figure.legend(handles, list(points), loc="outside right center", fontsize=8)
    heading(figure, "Scanning a clean file, beside loading it")
    return figure, Drawn(
        "scan-time.svg",
        f"Time against size of {', '.join(points)}, warm, for files of {size_text(min(sizes))} to {size_text(max(sizes))}",
        "a line is a scanner or a loader, a point its median with its interval. A flat line looks at the pickle alone and not at the tensors; one "
        "that rises with the size reads them all. How many tensors there are counts as well.",
    )
