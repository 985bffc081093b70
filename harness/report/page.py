"""The page: what a run says, in Markdown, with the tables and figures it is made of beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.measure.process_start import SCENARIO as PROCESS_START
from harness.measure.sample import Sample
from harness.records.checks import CHECKS
from harness.records.run_directory import BENCHMARK, MANIFEST, SAMPLES, RunDirectory
from harness.report.answer import plain_answer
from harness.report.cells import FULL_LOAD, PIPELINE_LOAD, Cell, cells_of
from harness.report.conditions import conditions_table
from harness.report.conversions import CONVERSION, conversions
from harness.report.figures import draw_full_load
from harness.report.hostile import hostile_answer, hostile_files
from harness.report.method import METHOD, NIGHT_METHOD
from harness.report.night import night_sections
from harness.report.paper import fits_of, on_paper
from harness.report.parts import PARTIAL_LOAD, partial_load
from harness.report.peers import peers_page
from harness.report.pipelines import pipeline_load
from harness.report.place import Place, course
from harness.report.process_starts import process_start
from harness.report.promises import promises_section
from harness.report.scans import SCAN, scans
from harness.report.shares import SHARDED_LOAD, sharded_load
from harness.report.tables import (
    cell_frame,
    cell_table,
    costs_frame,
    costs_table,
    first_calls_frame,
    first_calls_table,
    invalid_frame,
    invalid_table,
    markdown,
    shortfall_frame,
)
from harness.report.words import binding_text, invalid_line, size_text
from harness.verdicts.binding import MEANING
from harness.verdicts.cells import REFERENCE
from harness.verdicts.fit import Fit
from harness.verdicts.regression import VERDICTS_FILE

_READING = f"""
*returned* is when the call gave back its tensors, *ready* when every page of every tensor had been touched. Each figure is a median
with the interval that holds the true one with 95 % confidence. A ratio is to `{REFERENCE}`, taken block by block: above 1 is slower.
Every block holds ceilings too, the best plain ways to bring up the same bytes: a parallel read with the page cache (`ceiling-read`) and past
it (`ceiling-direct`), a copy in memory (`ceiling-copy`), a copy to the device. A share is of the one that bounds the cell: of each resource
the fastest, of the resources the slowest. A loader that maps a warm file copies nothing and may exceed 100 %.
MB is 10^6 bytes and GB 10^9. `insufficient`: too few valid samples for an interval; `missing`: no valid sample at all.
""".strip()
_TOLD = {FULL_LOAD, PARTIAL_LOAD, SHARDED_LOAD, PIPELINE_LOAD, PROCESS_START, CONVERSION, SCAN}
"""The scenarios that have a part of the page."""
_NO_GPU = (
    "**GPU rows: not measured.** {which} has no sample taken on a GPU, so there is no such row and nothing here speaks of one; "
    "`nox -s bench-gpu` takes them on a machine that has one."
)
_FIRST_CALLS = (
    "What each loader's first call took in a process that had imported its library but not used it yet, on a tiny checkpoint. What it pays "
    "for, imports and set-up, belongs to the process and to no load, so no figure above holds it."
)
_COSTS = (
    "Medians of what a sample took beyond its load: *process* is the fork, the rehearsal, the counters and the process going away with its "
    "memory; the *content check* compares every byte. Apart from them stand setting and proving the cache state, and touching the memory that "
    "a warm load is given, so that it does not wait for a host to back it."
)
_HOW_TO_ADD = """
There is no reference run yet. To add one, put a run's directory (its `manifest.json` and `samples.jsonl`) into `results/reference/`
and make the reports again.
""".strip()


def write_run_report(run: RunDirectory) -> Path:
    """Write `report.md`, `tables/*.csv` and `figures/*.svg` into a run's directory and return the path of the first.

    Nothing but the manifest and the samples is read, and the same two give the same bytes.
    """
    manifest, samples = run.manifest(), run.samples()
    _remove_stale(run.path / "tables", run.path / "figures")
    place = Place(run.path, "", 1)
    machine, answer, *rest = _sections(place, run, manifest, samples)
    sections = [[f"# Run {run.name}"], answer, machine, *rest, _files(place, run, Path())]
    return _written(run.path / "report.md", [block for section in sections for block in section])


def write_reports(runs: Sequence[RunDirectory], folder: Path) -> Path:
    """Write `README.md` into `folder`, with a section for each run and its tables and figures beside it, and `peers.md`; return the first's path.

    Only `README.md`, `peers.md`, `figures/*/*.svg` and `tables/*/*.csv` are ever written or removed there.
    """
    evidence = [(run, run.manifest(), run.samples()) for run in sorted(runs, key=lambda run: run.name)]
    _remove_stale(*(path for kind in ("tables", "figures") for path in sorted((folder / kind).glob("*"))))
    blocks = ["# Reports", "What the reference runs say, made from their manifests and samples and from nothing else."]
    blocks.append("\n".join(f"- [{run.name}](#run-{run.name.lower()})" for run, *_ in evidence) if evidence else _HOW_TO_ADD)
    if evidence:
        blocks.append("[What other loaders say of themselves](peers.md), beside what was found here.")
    if evidence and not any(_on_a_gpu(samples) for _, _, samples in evidence):
        blocks.append(_NO_GPU.format(which="What was measured here"))
    for run, manifest, samples in evidence:
        place = Place(folder, run.name, 2)
        sections = [
            [f"## Run {run.name}"],
            *_sections(place, run, manifest, samples),
            _files(place, run, _beside(run.path, folder)),
        ]
        blocks += [block for section in sections for block in section]
    cells = {run.name: cells_of(manifest, samples) for run, manifest, samples in evidence if not _night_of(manifest)}
    if evidence:
        _written(folder / "peers.md", peers_page(Place(folder, "peers", 1), cells))
    else:
        (folder / "peers.md").unlink(missing_ok=True)
    return _written(folder / "README.md", blocks)


def _sections(place: Place, run: RunDirectory, manifest: Mapping[str, Any], samples: Sequence[Sample]) -> list[list[str]]:
    """Return a run's sections, each as blocks of Markdown, the machine's first."""
    if _night_of(manifest):
        night = night_sections(place, manifest, samples)
        return [
            [place.heading("The machine"), markdown(conditions_table(manifest))],
            *night,
            [place.heading("How it was measured"), NIGHT_METHOD],
        ]
    meetings = run.meetings()
    cells = cells_of(manifest, samples)
    fits, not_fitted = fits_of(cells, samples)
    return [
        [place.heading("The machine"), markdown(conditions_table(manifest))],
        [place.heading("The answer"), (not _loads(cells) and hostile_answer(manifest, meetings)) or plain_answer(cells)],
        _full_load(place, [cell for cell in cells if cell.scenario == FULL_LOAD], fits),
        partial_load(place, cells, (manifest.get("storage") or {}).get("read_ahead_kb")),
        sharded_load(place, cells, (manifest.get("machine") or {}).get("cores")),
        pipeline_load(place, cells),
        process_start(place, cells),
        conversions(place, cells),
        promises_section(place, run.checks()),
        hostile_files(place, manifest, meetings),
        scans(place, manifest, meetings, cells),
        on_paper(place, cells, fits, not_fitted),
        _first_calls(place, manifest),
        _not_measured(place, manifest, samples, cells),
        [place.heading("How it was measured"), METHOD, *_costs(place, samples)],
    ]


def _night_of(manifest: Mapping[str, Any]) -> Any:
    """Return what a run of environments side by side was about, None of any other run."""
    return (manifest.get("options") or {}).get("night")


def _loads(cells: Sequence[Cell]) -> bool:
    """Return whether a run weighed any load, rather than scans and hostile files alone."""
    return any(cell.scenario != SCAN for cell in cells)


def _full_load(place: Place, cells: Sequence[Cell], fits: Sequence[Fit]) -> list[str]:
    blocks = [place.heading("Loading everything"), _READING]
    if any(cell.ceiling for cell in cells):
        blocks.append("\n".join(["What binds a load is told so:", "", *(f"- **{what}**: {meaning}." for what, meaning in MEANING.items())]))
    for drawn in draw_full_load(cells, place.folder / "figures" / place.part, fits):
        blocks += place.shown(drawn)
    for checkpoint, group in groupby(cells, key=lambda cell: cell.checkpoint):
        found = list(group)
        tensors = next((f", {cell.samples[0].tensors:,} tensors" for cell in found if cell.samples), "")
        blocks.append(place.heading(f"{checkpoint}, {size_text(found[0].bytes)}{tensors}", 2))
        for cell in found:
            blocks.append(f"**{cell.cache_state.capitalize()}, on {cell.device}**{course(cell)}")
            if cell.samples or cell.left_out:
                blocks += [markdown(cell_table(cell)), *filter(None, [binding_text(cell, fits, "**")])]
                blocks.append(f"In plain figures: {place.table(cell.name, cell_frame(cell, fits))}")
    return blocks if cells else []


def _first_calls(place: Place, manifest: Mapping[str, Any]) -> list[str]:
    frame = first_calls_frame(manifest)
    blocks = [place.heading("First calls")]
    if frame.empty:
        return [*blocks, "No first call was recorded."]
    return [*blocks, _FIRST_CALLS, markdown(first_calls_table(frame)), f"In plain figures: {place.table('first-calls', frame)}"]


def _not_measured(place: Place, manifest: Mapping[str, Any], samples: Sequence[Sample], cells: Sequence[Cell]) -> list[str]:
    blocks = [place.heading("What was not measured")]
    shortfalls = shortfall_frame(manifest, cells)
    blocks.append("Nothing was skipped, refused, left out or cut short." if shortfalls.empty else markdown(shortfalls))
    blocks.append(f"{invalid_line(samples).capitalize()}.")
    invalid = invalid_frame(samples)
    if not invalid.empty:
        blocks += [markdown(invalid_table(invalid)), f"In plain figures: {place.table('invalid-samples', invalid)}"]
    if not _on_a_gpu(samples):
        blocks.append(_NO_GPU.format(which="This run"))
    others = sorted({cell.scenario for cell in cells} - _TOLD)
    return [*blocks, f"No table is made yet of: {', '.join(others)}. Its samples are in the run's directory."] if others else blocks


def _on_a_gpu(samples: Sequence[Sample]) -> bool:
    return any(sample.device != "cpu" for sample in samples)


def _costs(place: Place, samples: Sequence[Sample]) -> list[str]:
    frame = costs_frame(samples)
    if frame.empty:
        return []
    return [_COSTS, markdown(costs_table(frame)), f"In plain figures: {place.table('sample-costs', frame)}"]


def _files(place: Place, run: RunDirectory, link: Path | None) -> list[str]:
    """Return the section that names a run's files; `link` leads to its directory, if there is a way."""
    what = {
        MANIFEST: "the machine, the versions, the settings, and how each cell ended",
        SAMPLES: "every sample, valid or not, a line each",
        CHECKS: "what came of each promise that was put to the test, a line each",
        f"{SAMPLES}.gz": "the same, packed",
        VERDICTS_FILE: "every verdict with its reason, and the exit code",
        BENCHMARK: "the valid samples as pytest-benchmark keeps them",
    }
    lines = [
        f"- [`{file}`]({(link / file).as_posix()}): {words}" if link else f"- `{file}` of run {run.name}: {words}"
        for file, words in what.items()
        if (run.path / file).exists()
    ]
    return [place.heading("Files"), "\n".join(lines)]


def _beside(run: Path, folder: Path) -> Path | None:
    """Return the way from `folder` to a run that lies beside the folder or below, else None: no other path tells a reader anything."""
    run, folder = run.resolve(), folder.resolve()
    return Path(os.path.relpath(run, folder)) if run.is_relative_to(folder.parent) else None


def _remove_stale(*folders: Path) -> None:
    """Remove the tables and figures of an earlier page, and their folders where nothing else is in them."""
    for folder in folders:
        for path in sorted(folder.glob("*.csv")) + sorted(folder.glob("*.svg")):
            path.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _written(path: Path, blocks: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("\n\n".join(blocks) + "\n", encoding="utf-8", newline="\n")
    return temporary.replace(path)
