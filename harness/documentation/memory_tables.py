"""Tables of docs/memory.md, from the reference runs: the smallest limits, what stays after a load,
and what processes share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.analysis.memory_use import (
    STAGES,
    LoaderLimits,
    limits_of,
    proportional_in_all,
    stages_of,
)
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell
from harness.documentation.tables import run_link, table
from harness.errors import WeighbridgeError
from harness.report.format import DASH, MEGABYTE, significant, time_text
from harness.scenarios import LIMIT, MEMORY_LIMIT, MODEL_STAYS, STAYS, WHOLE_PROCESS, WORKERS


def limits(runs: Sequence[RecordedRun]) -> str:
    """Return a table of the smallest limits of a load, loaders with the same one in one row."""
    run, (cell,) = _newest(runs, LIMIT)
    groups: dict[tuple[int, str], list[LoaderLimits]] = {}
    for of_loader in limits_of(cell):
        if of_loader.floor:
            key = (of_loader.floor.limit_bytes, of_loader.floor.outcome or "not tried")
            groups.setdefault(key, []).append(of_loader)
    rows = [
        (
            ", ".join(sorted(f"`{of_loader.loader}`" for of_loader in group)),
            _megabytes(limit),
            f"{limit / group[0].size:.2f}",
            outcome,
        )
        for (limit, outcome), group in groups.items()
    ]
    heads = ("loaders", "smallest limit, MB", "of the checkpoint", "with one step less")
    return _of(run, table(heads, rows))


def slowdowns(runs: Sequence[RecordedRun]) -> str:
    """Return a table of how many times as long a mapped load took with little memory."""
    run, (cell,) = _newest(runs, LIMIT)
    rows = [
        (
            f"`{of_loader.loader}`",
            *(
                significant(times) if times else DASH
                for times in (of_loader.slowdown(0.5), of_loader.slowdown_at_floor)
            ),
        )
        for of_loader in limits_of(cell)
        if of_loader.maps and of_loader.slowdown_at_floor
    ]
    heads = ("mapped loader", "under half its size", "under its smallest limit")
    return _of(run, table(heads, rows))


def whole_processes(runs: Sequence[RecordedRun]) -> str:
    """Return a table of the smallest limits of a whole process beside those of the load alone."""
    run, cells = _newest(runs, WHOLE_PROCESS)
    _, (alone,) = _newest(runs, LIMIT)
    load = {row.loader: row.floor for row in limits_of(alone)}
    rows = []
    for cell in cells:
        for row in limits_of(cell):
            beside = load.get(row.loader) if cell.checkpoint == alone.checkpoint else None
            if row.floor:
                rows.append(
                    (
                        cell.checkpoint,
                        f"`{row.loader}`",
                        _megabytes(row.floor.limit_bytes),
                        _megabytes(beside.limit_bytes if beside else None),
                    )
                )
    heads = ("checkpoint", "loader", "whole process, MB", "the load alone, MB")
    return _of(run, table(heads, rows))


def stays(runs: Sequence[RecordedRun]) -> str:
    """Return a table of the memory at each stage after a load, of tensors and of models."""
    lines, names = [], []
    for part in (STAYS, MODEL_STAYS):
        run, cells = _newest(runs, part)
        names.append(run.name)
        for cell in cells:
            for loader in sorted({sample.loader for sample in cell.samples}):
                of_loader = [sample for sample in cell.samples if sample.loader == loader]
                stages = stages_of(of_loader)
                if stages:
                    lines.append(
                        (
                            cell.checkpoint,
                            f"`{loader}`",
                            *(
                                " / ".join(
                                    map(
                                        _megabytes,
                                        (
                                            stages[stage].anonymous_bytes,
                                            stages[stage].mapped_bytes,
                                            stages[stage].page_cache_bytes,
                                        ),
                                    )
                                )
                                if stage in stages
                                else "read-only"
                                for stage in STAGES
                            ),
                        )
                    )
    heads = ("checkpoint", "load", "loaded", "in use", "written", "deleted")
    return _of(run, table(heads, lines), *dict.fromkeys(names))


def workers(runs: Sequence[RecordedRun]) -> str:
    """Return a table of the memory of several processes that load the same file, and their time."""
    run, cells = _newest(runs, WORKERS)
    counts = sorted({cell.key.ranks or 0 for cell in cells})
    loaders = dict.fromkeys(sample.loader for cell in cells for sample in cell.samples)
    rows = [
        (
            f"`{loader}`",
            *(
                _worked([cell for cell in cells if cell.key.ranks == count], loader)
                for count in counts
            ),
        )
        for loader in sorted(loaders)
    ]
    heads = ("loader", *(f"{count} process{'es' if count > 1 else ''}" for count in counts))
    return _of(run, table(heads, rows))


def _worked(cells: Sequence[MeasuredCell], loader: str) -> str:
    for cell in cells:
        arm = cell.arm(loader)
        if arm and arm.ready:
            in_all = proportional_in_all(cell.valid(arm))
            return f"{_megabytes(in_all)} MB, {time_text(arm.ready.median)}"
    return DASH


def _newest(runs: Sequence[RecordedRun], part: str) -> tuple[RecordedRun, list[MeasuredCell]]:
    """Return the run that tried most loaders in a part, of as many the newest, and its cells of it.

    Raises `WeighbridgeError` where no run has the part.
    """
    known = [
        (run, cells)
        for run in runs
        if (
            cells := [
                cell
                for cell in run.cells_of(MEMORY_LIMIT)
                if cell.key.part == part and cell.samples
            ]
        )
    ]
    if not known:
        raise WeighbridgeError(
            f"no reference run measured {part}; `nox -s bench-cpu -- -k memory_limit --parts"
            f" {part}` does"
        )
    return max(known, key=lambda entry: (_loaders(entry[1]), entry[0].name))


def _cells(run: RecordedRun, part: str) -> list[MeasuredCell]:
    cells = run.cells_of(MEMORY_LIMIT)
    return [cell for cell in cells if cell.key.part == part and cell.samples]


def _loaders(cells: Iterable[MeasuredCell]) -> int:
    return len({(sample.loader, cell.name) for cell in cells for sample in cell.samples})


def _megabytes(size: float | None) -> str:
    return DASH if size is None else f"{size / MEGABYTE:,.0f}"


def _of(run: RecordedRun, text: str, *names: str) -> str:
    links = " and ".join(map(run_link, names or (run.name,)))
    return f"{text}\n\nOf run {links}."
