"""The page: what a run says, in Markdown, with the tables and figures it is made of beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from harness.checkpoints.durable import write_text
from harness.measure.process_start import SCENARIO as PROCESS_START
from harness.measure.sample import BUSY, Sample
from harness.records.checks import CHECKS
from harness.records.run_directory import BENCHMARK, MANIFEST, SAMPLES, RunDirectory
from harness.report.answer import plain_answer
from harness.report.cells import FULL_LOAD, PIPELINE_LOAD, Cell
from harness.report.conditions import conditions_table
from harness.report.conversions import CONVERSION, conversions
from harness.report.evidence import Evidence, gather
from harness.report.figures import draw_full_load
from harness.report.front import NO_GPU, front_sections, on_a_gpu
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
    gpu_lines,
    invalid_frame,
    invalid_table,
    markdown,
    shortfall_frame,
)
from harness.report.words import binding_text, busy_line, invalid_line, size_text
from harness.verdicts.binding import MEANING, OWN_WORK_OR_GPU
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
_FIRST_CALLS = (
    "What each loader's first call took in a process that had imported its library but not used it yet, on a tiny checkpoint. What it pays "
    "for, imports and set-up, belongs to the process and to no load, so no figure above holds it."
)
_COSTS = (
    "Medians of what a sample took beyond its load: *process* is the fork, the rehearsal, the counters and the process going away with its "
    "memory; the *content check* compares every byte. Apart from them stand setting and proving the cache state, and touching the memory that "
    "a warm load is given, so that it does not wait for a host to back it."
)
_RUN_PAGE = re.compile(r"\d{8}T\d{6}Z-.+\.md")
"""The name of a page that was made of a run."""


def write_run_report(run: RunDirectory) -> Path:
    """Write `report.md`, `tables/*.csv` and `figures/*.svg` into a run's directory and return the path of the first.

    Nothing but the manifest and the samples is read, and the same two give the same bytes.
    """
    (evidence,) = gather([run])
    _remove_stale(run.path / "tables", run.path / "figures")
    return _written(run.path / "report.md", run_blocks(Place(run.path, "", 1, _samples_of(run, Path())), evidence, Path()))


def write_reports(runs: Sequence[RunDirectory], folder: Path) -> Path:
    """Write `README.md` and `index.html` into `folder`, a page for each run, their tables and figures, and `peers.md`; return the first's path.

    Only those, `figures/*/*.svg` and `tables/*/*.csv` are ever written or removed there.
    """
    evidence = gather(runs)
    _remove_stale(*(path for kind in ("tables", "figures") for path in sorted((folder / kind).glob("*"))))
    for page in folder.glob("*.md"):
        if _RUN_PAGE.fullmatch(page.name):
            page.unlink()
    places = {one.name: Place(folder, one.name, 1, _samples_of(one.run, _beside(one.run.path, folder))) for one in evidence}
    pages = {one.name: run_blocks(places[one.name], one, _beside(one.run.path, folder)) for one in evidence}
    for name, blocks in pages.items():
        _written(folder / f"{name}.md", blocks)
    peers = folder / "peers.md"
    if evidence:
        _written(peers, peers_page(Place(folder, "peers", 1), {one.name: list(one.cells) for one in evidence if not one.night}))
    else:
        peers.unlink(missing_ok=True)
    from harness.report.web import web_page  # what it converts with is not everywhere that a run is taken

    front, sections = front_sections(Place(folder, "front", 1), evidence, places)
    _text(folder / "index.html", web_page(front, sections, pages, folder))
    heading = [
        f"# {front.question}",
        front.lede,
        "[The same as one page for a browser](index.html), with every table in any order, light and dark.",
    ]
    return _written(folder / "README.md", [*heading, *(block for section in sections for block in section)])


def run_blocks(place: Place, evidence: Evidence, link: Path | None) -> list[str]:
    """Return the page of one run as blocks of Markdown; `link` leads to its directory, if there is a way."""
    machine, answer, *rest = _sections(place, evidence)
    sections = [[f"# Run {evidence.name}", *_first_to_know(evidence)], answer, machine, *rest, _files(place, evidence.run, link)]
    return [block for section in sections for block in section]


def _first_to_know(evidence: Evidence) -> list[str]:
    """Return, as blocks of Markdown, what limits everything below: a busy machine, and cells that the run had no time for."""
    lines = []
    if any(sample.reason == BUSY for sample in evidence.samples):
        line = busy_line(evidence.manifest, evidence.samples) or ""
        lines.append(f"**{line[:1].upper()}{line[1:]}.**")
    if cut := [cell.name for cell in evidence.cells if cell.record.get("status") == "cut"]:
        lines.append(f"**Not measured for want of time:** {', '.join(cut)}.")
    return lines


def _sections(place: Place, evidence: Evidence) -> list[list[str]]:
    """Return a run's sections, each as blocks of Markdown, the machine's first."""
    manifest, samples, cells, meetings = evidence.manifest, evidence.samples, evidence.cells, evidence.meetings
    if evidence.night:
        night = night_sections(place, manifest, samples)
        return [
            [place.heading("The machine"), markdown(conditions_table(manifest, samples))],
            *night,
            [place.heading("How it was measured"), NIGHT_METHOD],
        ]
    fits, not_fitted = fits_of(cells, samples)
    return [
        [place.heading("The machine"), markdown(conditions_table(manifest, samples))],
        [place.heading("The answer"), (not _loads(cells) and hostile_answer(manifest, meetings)) or plain_answer(cells)],
        _full_load(place, [cell for cell in cells if cell.scenario == FULL_LOAD], fits),
        partial_load(place, cells, (manifest.get("storage") or {}).get("read_ahead_kb")),
        sharded_load(place, cells, (manifest.get("machine") or {}).get("cores")),
        pipeline_load(place, cells),
        process_start(place, cells),
        conversions(place, cells),
        promises_section(place, evidence.checks),
        hostile_files(place, manifest, meetings),
        scans(place, manifest, meetings, cells),
        on_paper(place, cells, fits, not_fitted),
        _first_calls(place, manifest),
        _not_measured(place, manifest, samples, cells),
        [place.heading("How it was measured"), METHOD, *_costs(place, samples)],
    ]


def _loads(cells: Sequence[Cell]) -> bool:
    """Return whether a run weighed any load, rather than scans and hostile files alone."""
    return any(cell.scenario != SCAN for cell in cells)


def _full_load(place: Place, cells: Sequence[Cell], fits: Sequence[Fit]) -> list[str]:
    blocks = [place.heading("Loading everything"), _READING]
    on_gpu = any(cell.device != "cpu" for cell in cells)
    meanings = {what: meaning for what, meaning in MEANING.items() if on_gpu or what != OWN_WORK_OR_GPU}
    if any(cell.ceiling for cell in cells):
        blocks.append(
            "\n".join(["What binds a load is told so:", "", *(f"- **{what}**: {meaning}." for what, meaning in meanings.items())])
        )
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
                blocks += gpu_lines(cell)
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
    if not on_a_gpu(samples):
        blocks.append(NO_GPU.format(which="This run"))
    others = sorted({cell.scenario for cell in cells} - _TOLD)
    return [*blocks, f"No table is made yet of: {', '.join(others)}. Its samples are in the run's directory."] if others else blocks


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


def _samples_of(run: RunDirectory, link: Path | None) -> str | None:
    """Return the way to a run's samples, None where there is none."""
    names = [name for name in (SAMPLES, f"{SAMPLES}.gz") if (run.path / name).exists()]
    return (link / names[0]).as_posix() if link is not None and names else None


def _remove_stale(*folders: Path) -> None:
    """Remove the tables and figures of an earlier page, and their folders where nothing else is in them."""
    for folder in folders:
        for path in sorted(folder.glob("*.csv")) + sorted(folder.glob("*.svg")):
            path.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _written(path: Path, blocks: Sequence[str]) -> Path:
    return _text(path, "\n\n".join(blocks) + "\n")


def _text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, content)
    return path
