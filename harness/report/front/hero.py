"""The figure of the first screen, and the facts below it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.analysis.ceilings import is_ceiling
from harness.analysis.claims import by_machine
from harness.analysis.memory_use import without_failed_tries
from harness.analysis.recorded_run import RecordedRun
from harness.analysis.run_cells import MeasuredCell, nearest_to_claim
from harness.report.format import size_text
from harness.report.front.answer import other_machines
from harness.report.front.names import family, plain
from harness.report.front.panels import Bar, Panel, figure, time_bar
from harness.report.sections.not_measured import on_a_gpu
from harness.scenarios import FULL_LOAD

_LOADERS = ("safetensors-load-file", "torch-load-mmap", "torch-load", "safetensors-pread")
"""The two formats, each mapped and read."""
_TITLES = {"warm": "From memory (loaded before)", "cold": "From disk (first load)"}


def hero(evidence: Sequence[RecordedRun], run_link: Callable[[str], str]) -> str:
    """Return the figure in HTML: both formats, mapped and read, from memory and from disk."""
    chosen = [(state, found) for state in _TITLES if (found := _cell(evidence, state)) is not None]
    if not chosen:
        return ""
    cell = chosen[0][1][1]
    loads = sorted({len(_blocks(cell)) for _, (_, cell) in chosen})
    count = f"{loads[0]}" if len(loads) == 1 else f"{loads[0]} to {loads[-1]}"
    caption = (
        f"Time until every tensor can be used: {cell.checkpoint}, {size_text(cell.bytes)}, median"
        f" of {count} loads. Thin line: 95 % interval of the median."
    )
    panels = [Panel(_TITLES[state], _bars(cell)) for state, (_, cell) in chosen]
    runs = dict.fromkeys(run.name for _, (run, _) in chosen)
    return figure(panels, caption, f"{', '.join(map(run_link, runs))}.")


def checkpoint(evidence: Sequence[RecordedRun]) -> str | None:
    """Return the checkpoint that the first screen shows, None where no load was measured."""
    machines = by_machine(evidence)
    runs = machines[0].runs if machines else ()
    return nearest_to_claim([cell for run in runs for cell in run.cells if cell.device == "cpu"])


def facts(evidence: Sequence[RecordedRun]) -> list[str]:
    """Return what makes the answer credible, a line of Markdown each."""
    machines = by_machine(evidence)
    if not machines:
        return []
    samples = without_failed_tries(sample for run in evidence for sample in run.samples)
    valid = sum(sample.valid for sample in samples)
    lines = [
        f"**{machines[0].hardware}** ({machines[0].short})",
        f"**{valid:,} of {len(samples):,}** samples are valid, each of them proved cold or warm",
        *other_machines(evidence),
    ]
    if versions := _versions(machines[0].runs[-1]):
        lines.append(versions)
    if not any(on_a_gpu(run.samples) for run in evidence):
        lines.append("GPU: **not measured yet**")
    return lines


def _versions(run: RecordedRun) -> str:
    environments = run.manifest.get("environments") or {}
    versions: Mapping[str, str] = next(
        (entry["versions"] for entry in environments.values() if entry.get("versions")), {}
    )
    return ", ".join(
        f"{name} {str(versions[name]).partition('+')[0]}"
        for name in ("torch", "safetensors")
        if name in versions
    )


def _cell(evidence: Sequence[RecordedRun], state: str) -> tuple[RecordedRun, MeasuredCell] | None:
    """Return the cell that shows most of the loaders, then has most blocks, of the machine that
    most is known of.
    """
    machines = by_machine(evidence)
    runs = machines[0].runs if machines else ()
    name = checkpoint(evidence)
    found = [
        (run, cell)
        for run in runs
        for cell in run.cells_of(FULL_LOAD)
        if (cell.checkpoint, cell.cache_state, cell.device) == (name, state, "cpu")
        and any(cell.arm(loader) for loader in _LOADERS)
    ]
    return max(
        found,
        key=lambda pair: (
            sum(pair[1].arm(loader) is not None for loader in _LOADERS),
            len(_blocks(pair[1])),
            pair[0].name,
        ),
        default=None,
    )


def _blocks(cell: MeasuredCell) -> set[int]:
    return {sample.block for sample in cell.samples if sample.valid}


def _bars(cell: MeasuredCell) -> tuple[Bar, ...]:
    arms = [arm for arm in cell.measured() if arm.loader in _LOADERS]
    if cell.ceiling:
        arms.append(cell.ceiling)
    return tuple(
        time_bar(
            _ceiling_name(cell) if is_ceiling(arm.loader) else plain(arm.loader),
            arm.ready,
            family(arm.loader),
        )
        for arm in arms
        if arm.ready
    )


def _ceiling_name(cell: MeasuredCell) -> str:
    return "the disk at its best" if cell.cache_state == "cold" else "a plain copy"
