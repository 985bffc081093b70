"""The index page in Markdown, and the page of evidence behind the index page in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.analysis.recorded_run import RecordedRun
from harness.report.figures.style import Drawn
from harness.report.front.answer import NOTHING, QUESTION, lead
from harness.report.section_writer import SectionWriter
from harness.report.sections.claims import ledger_section, tests_section
from harness.report.sections.machines import machines_section
from harness.report.sections.recommendation import choice_section
from harness.report.sections.repeatability import agreement_section
from harness.report.sections.vendor_claims import vendor_claims
from harness.scenarios import SCENARIOS

_HOW_TO_ADD = """
There is no reference run yet. To add one, put a run's directory (its `manifest.json` and
`samples.jsonl`) into `results/reference/` and write the reports again.
""".strip()
_SHOWN = (
    "returned-ready",
    "ratio-forest",
    "read-ahead",
    "found",
    "verdicts",
    "history",
    *(name for scenario in SCENARIOS.values() for name in scenario.figures if name != "scan-time"),
)
"""How the file names begin of the figures that the pages of runs draw: not the largest, which
`nox -s report` writes beside them.
"""


def readme_blocks(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return `README.md` of the reports as blocks of Markdown: the answer and the claims."""
    if not evidence:
        return [f"# {QUESTION}", NOTHING, writer.heading("No evidence"), _HOW_TO_ADD]
    return [
        f"# {QUESTION}",
        lead(evidence),
        "[The index page](index.html) has every figure, and a page for each run.",
        *ledger_section(writer, evidence),
    ]


def evidence_blocks(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    """Return the page behind the index page as blocks of Markdown: every test, the machines side by
    side, how far two runs agree, and what other libraries say of themselves.
    """
    if not evidence:
        return [writer.heading("No evidence"), _HOW_TO_ADD]
    return [
        *tests_section(writer, evidence),
        *choice_section(writer, evidence),
        *machines_section(writer, evidence),
        *agreement_section(writer, evidence),
        *vendor_claims(writer, {run.name: list(run.cells) for run in evidence if not run.paired}),
    ]


def newest_drawings(
    evidence: Sequence[RecordedRun], places: Mapping[str, SectionWriter]
) -> dict[str, set[str]]:
    """Return which figures the pages of runs draw, by run: each once, from the newest run that
    holds at least half as much as the largest that has it.
    """
    drawn_in: dict[str, list[tuple[int, str, Drawn]]] = {}
    for recorded in evidence:
        for drawn in places[recorded.name].drawings:
            drawn_in.setdefault(drawn.file, []).append(
                (len(recorded.samples) + len(recorded.trials), recorded.name, drawn)
            )
    files: dict[str, set[str]] = {}
    for file, drawings in drawn_in.items():
        if file.startswith(_SHOWN):
            run, _ = _newest(drawings)
            files.setdefault(run, set()).add(f"figures/{run}/{file}")
    return files


def _newest(drawings: Sequence[tuple[int, str, Drawn]]) -> tuple[str, Drawn]:
    """Return the newest run's figure of those whose runs hold at least half as much as the
    largest.
    """
    most = max(size for size, _, _ in drawings)
    return max(
        ((run, drawn) for size, run, drawn in drawings if 2 * size >= most),
        key=lambda entry: entry[0],
    )


def run_contents(run: RecordedRun) -> str:
    """Return in words what a run measured."""
    paired_run = (run.manifest.get("options") or {}).get("paired_run") or {}
    together: dict[str, list[str]] = {}
    for cell in run.cells:
        if cell.samples and cell.checkpoint not in together.setdefault(cell.scenario, []):
            together[cell.scenario].append(cell.checkpoint)
    text = "; ".join(f"{scenario} of {', '.join(names)}" for scenario, names in together.items())
    return f"{paired_run['kind']}: {text}" if paired_run else text or "hostile files"
