"""The page: what a run says, in Markdown, with the tables and figures it is made of beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from importlib import import_module
from pathlib import Path

from harness.analysis.recorded_run import RecordedRun, gather
from harness.atomic_write import write_text
from harness.records.checks import CHECKS
from harness.records.run_directory import BENCHMARK, MANIFEST, SAMPLES, RunDirectory
from harness.records.trials import TRIALS
from harness.records.verdicts import VERDICTS_FILE
from harness.report.figures.first_figure import first_figure
from harness.report.format import busy_line, was_busy
from harness.report.index_page import evidence_blocks, newest_drawings, readme_blocks
from harness.report.section_writer import SectionWriter
from harness.report.sections import (
    environment,
    first_calls,
    method,
    not_measured,
    promises,
    regression,
    summary,
)
from harness.scenarios import SCENARIOS

Section = Callable[[SectionWriter, RecordedRun], list[str]]
"""Writes one part of a run's page: blocks of Markdown, none where the run has nothing to say on
it.
"""


_RUN_TITLE = "# Run "


def write_run_report(run: RunDirectory) -> Path:
    """Write `report.md`, `tables/*.csv` and `figures/*.svg` into a run's directory and return the
    path of the first.

    Nothing but the manifest and the samples is read, and the same two give the same bytes.
    """
    (evidence,) = gather([run])
    _remove_stale(run.path / "tables", run.path / "figures")
    return _written(
        run.path / "report.md",
        run_blocks(SectionWriter(run.path, "", 1, _samples_of(run, Path())), evidence, Path()),
    )


def write_reports(runs: Sequence[RunDirectory], folder: Path) -> Path:
    """Write `README.md`, `index.html`, `evidence.html`, and a page for each run with its tables and
    figures.

    Return the first's path.

    `README.md` and `index.html` stand by themselves. The pages for a browser share `page.css` and
    `page.js`. Nothing else is ever written or removed in `folder` but what an earlier report wrote,
    and the figure that the project's README shows.
    """
    evidence = gather(runs)
    _remove_stale(
        *(path for kind in ("tables", "figures") for path in sorted((folder / kind).glob("*")))
    )
    for page in (*folder.glob("*.md"), *folder.glob("*.html")):
        if page.read_text(encoding="utf-8").startswith((_RUN_TITLE, _WEB_PAGE)):
            page.unlink()
    links = {run.name: _beside(run.run.path, folder) for run in evidence}
    SectionWriter(folder, "", 1).figure(lambda: first_figure(evidence))  # README shows it
    writers = {
        run.name: SectionWriter(folder, run.name, 1, _samples_of(run.run, links[run.name]))
        for run in evidence
    }
    pages = {run.name: run_blocks(writers[run.name], run, links[run.name]) for run in evidence}
    for name, blocks in pages.items():
        _written(folder / f"{name}.md", blocks)
    front = SectionWriter(folder, "front", 1)
    behind = evidence_blocks(front, evidence)
    _write_web_pages(folder, evidence, pages, behind, newest_drawings(evidence, writers))
    return _written(
        folder / "README.md",
        [*(_linked(block, links) for block in readme_blocks(front, evidence)), *_ENDING],
    )


_WEB_PAGE = "<!doctype html>"


def _write_web_pages(
    folder: Path,
    evidence: Sequence[RecordedRun],
    pages: Mapping[str, Sequence[str]],
    behind: Sequence[str],
    drawn: Mapping[str, Set[str]],
) -> None:
    """Write every page for a browser."""
    # what they are made with is not everywhere that a run is taken
    from harness.report.web.index_html import index_html
    from harness.report.web.run_html import HERE, page_html

    for name, blocks in pages.items():
        html = page_html(f"Run {name}", blocks[1:], folder, drawn.get(name, frozenset()))
        _text(folder / f"{name}.html", html)
    here = frozenset({"figures/front/machines.svg"})
    _text(folder / "evidence.html", page_html("The evidence", behind, folder, here))
    _text(folder / "index.html", index_html(evidence))
    for name in ("page.css", "page.js"):
        _text(folder / name, (HERE / name).read_text(encoding="utf-8"))


_ENDING = (
    (
        "Each verdict links to the run that it rests on. `nox -s report` also writes a page, tables"
        " and figures for every run here."
    ),
)


def _linked(block: str, links: Mapping[str, Path | None]) -> str:
    """Return a block with links to the runs themselves in place of their pages, which are built and
    not kept.
    """
    for name, link in links.items():
        if link is not None:
            block = block.replace(f"({name}.md)", f"({link.as_posix()}/{MANIFEST})")
    return block


def run_blocks(writer: SectionWriter, run: RecordedRun, link: Path | None) -> list[str]:
    """Return the page of one run as blocks of Markdown.

    `link` leads to its directory, if there is a way.
    """
    blocks = [f"{_RUN_TITLE}{run.name}", *_first_to_know(run)]
    for section in (
        (regression.section, environment.section, method.section) if run.paired else _sections()
    ):
        blocks += section(writer, run)
    return blocks + _files(writer, run.run, link)


def _sections() -> Iterator[Section]:
    """Yield the sections of a run: the answer, the machine, each scenario's own, and the rest."""
    yield from (summary.section, environment.section)
    for name in SCENARIOS:
        module = import_module(f"harness.report.sections.{name.replace('-', '_')}")
        section: Section = module.section
        yield section
    yield from (promises.section, first_calls.section, not_measured.section, method.section)


def _first_to_know(evidence: RecordedRun) -> list[str]:
    """Return, as blocks of Markdown, what limits everything below: a busy machine, and cells that
    the run had no time for.
    """
    lines = []
    if was_busy(evidence.samples):
        line = busy_line(evidence.manifest, evidence.samples) or ""
        lines.append(f"**{line[:1].upper()}{line[1:]}.**")
    if cut := [cell.name for cell in evidence.cells if cell.record.get("status") == "cut"]:
        lines.append(f"**Not measured, because the time was spent:** {', '.join(cut)}.")
    return lines


def _files(writer: SectionWriter, run: RunDirectory, link: Path | None) -> list[str]:
    """Return the section that names a run's files.

    `link` leads to its directory, if there is a way.
    """
    what = {
        MANIFEST: "the machine, the versions, the settings, and how each cell ended",
        SAMPLES: "every sample, valid or not, one per line",
        CHECKS: "the result of each check of documented behaviour, one per line",
        f"{SAMPLES}.gz": "every sample, packed",
        TRIALS: "every trial of a hostile file, one per line",
        f"{TRIALS}.gz": "every trial, packed",
        VERDICTS_FILE: "every verdict with its reason, and the exit code",
        BENCHMARK: "the valid samples as pytest-benchmark keeps them",
    }
    lines = [
        (
            f"- [`{file}`]({(link / file).as_posix()}): {words}"
            if link
            else f"- `{file}` of run {run.name}: {words}"
        )
        for file, words in what.items()
        if (run.path / file).exists()
    ]
    return [writer.heading("Files"), "\n".join(lines)]


def _beside(run: Path, folder: Path) -> Path | None:
    """Return the way from `folder` to a run that lies beside the folder or below, else None: no
    other path tells a reader anything.
    """
    run, folder = run.resolve(), folder.resolve()
    return Path(os.path.relpath(run, folder)) if run.is_relative_to(folder.parent) else None


def _samples_of(run: RunDirectory, link: Path | None) -> str | None:
    """Return the way to a run's samples, None where there is none."""
    names = [name for name in (SAMPLES, f"{SAMPLES}.gz") if (run.path / name).exists()]
    return (link / names[0]).as_posix() if link is not None and names else None


def _remove_stale(*folders: Path) -> None:
    """Remove the tables and figures of an earlier page, and their folders where nothing else is in
    them.
    """
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
