"""The front of the reports: first the answer, then the machines, then the evidence with the runs it
comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.analysis.claims import ClaimVerdict, judged_here
from harness.analysis.recorded_run import RecordedRun
from harness.report.figures.style import Drawn
from harness.report.front.answer import lead
from harness.report.section_writer import SectionWriter
from harness.report.sections.claims import ledger_section, tests_section
from harness.report.sections.machines import machines_section
from harness.report.sections.not_measured import NO_GPU, on_a_gpu
from harness.report.sections.recommendation import choice_section
from harness.report.sections.repeatability import agreement_section
from harness.report.sections.vendor_claims import vendor_claims
from harness.report.tables import markdown
from harness.scenarios import SCENARIOS

QUESTION = "How should model checkpoints be loaded, and is what the documentation says true?"
_HOW_TO_ADD = """
There is no reference run yet. To add one, put a run's directory (its `manifest.json` and
`samples.jsonl`) into `results/reference/` and make the reports again.
""".strip()
_THEMES = (
    ("Returned is not ready", ("returned-ready",)),
    ("Time against size", ("time-by-size",)),
    ("Against safetensors", ("ratio-forest",)),
    ("How much of what the hardware allows", ("share-of-ceiling",)),
    ("Asking for less is not reading less", ("read-ahead", "parts")),
    ("Memory that a load takes", ("memory",)),
    *((scenario.title, scenario.figures) for scenario in SCENARIOS.values() if scenario.figures),
    ("How small a slow-down the regression check finds", ("found", "verdicts")),
    ("Since which release", ("history",)),
)
"""What the figures are of, and how their files' names begin."""


@dataclass(frozen=True)
class Front:
    """What stands above everything else: the question, the answer in a sentence, and how many
    claims have each verdict.
    """

    question: str
    lede: str
    tally: Mapping[str, int]


def front_sections(
    writer: SectionWriter, evidence: Sequence[RecordedRun], places: Mapping[str, SectionWriter]
) -> tuple[Front, list[list[str]]]:
    """Return what stands above the front and its sections as blocks of Markdown.

    `places` are where the runs' own pages stand, by name.
    """
    if not evidence:
        return Front(QUESTION, "Nothing is committed that would answer.", {}), [
            [writer.heading("No evidence"), _HOW_TO_ADD]
        ]
    judged = judged_here(evidence)
    counts = Counter(claim.verdict for claim in judged)
    front = Front(
        QUESTION,
        lead(evidence),
        {verdict: counts[verdict] for verdict in ClaimVerdict if counts[verdict]},
    )
    return front, [
        ledger_section(writer, evidence),
        choice_section(writer, evidence),
        machines_section(writer, evidence),
        _evidence(writer, evidence, places),
        agreement_section(writer, evidence),
        tests_section(writer, evidence),
        vendor_claims(writer, {run.name: list(run.cells) for run in evidence if not run.paired}),
        _runs(writer, evidence),
    ]


def _evidence(
    writer: SectionWriter, evidence: Sequence[RecordedRun], places: Mapping[str, SectionWriter]
) -> list[str]:
    """Return the figures theme by theme, each from the newest run that holds at least half as much
    as the largest that has it.
    """
    blocks = [
        writer.heading("The evidence"),
        "Every figure is drawn from one run, whose samples it links to.",
    ]
    drawn_in: dict[str, list[tuple[int, str, Drawn]]] = {}
    for recorded in evidence:
        for drawn in places[recorded.name].drawings:
            drawn_in.setdefault(drawn.file, []).append(
                (len(recorded.samples) + len(recorded.trials), recorded.name, drawn)
            )
    figures = {file: _newest(drawings) for file, drawings in drawn_in.items()}
    for title, beginnings in _THEMES:
        shown = [figure for file, figure in figures.items() if file.startswith(beginnings)]
        blocks += [writer.heading(title, 2)] if shown else []
        for number, (run, drawn) in enumerate(shown):
            as_above = any(drawn.reading == above.reading for _, above in shown[:number])
            blocks += places[run].lines(drawn, f"[All of run {run}]({run}.md).", as_above=as_above)
    if not any(on_a_gpu(run.samples) for run in evidence):
        blocks += [writer.heading("On a GPU", 2), NO_GPU.format(which="What was measured here")]
    return blocks


def _newest(drawings: Sequence[tuple[int, str, Drawn]]) -> tuple[str, Drawn]:
    """Return the newest run's figure of those whose runs hold at least half as much as the
    largest.
    """
    most = max(size for size, _, _ in drawings)
    return max(
        ((run, drawn) for size, run, drawn in drawings if 2 * size >= most),
        key=lambda entry: entry[0],
    )


def _runs(writer: SectionWriter, evidence: Sequence[RecordedRun]) -> list[str]:
    rows = [
        [
            f"[{run.name}]({run.name}.md)",
            _held(run),
            f"{sum(sample.valid for sample in run.samples):,} of {len(run.samples):,}",
            f"{len(run.trials):,}",
            str(len(run.checks)),
        ]
        for run in evidence
    ]
    heads = [
        "run",
        "what it measured",
        "valid samples",
        "trials of hostile files",
        "promises tested",
    ]
    return [writer.heading("The runs"), markdown(pd.DataFrame(rows, columns=heads))]


def _held(run: RecordedRun) -> str:
    paired_run = (run.manifest.get("options") or {}).get("paired_run") or {}
    together: dict[str, list[str]] = {}
    for cell in run.cells:
        if cell.samples and cell.checkpoint not in together.setdefault(cell.scenario, []):
            together[cell.scenario].append(cell.checkpoint)
    text = "; ".join(f"{scenario} of {', '.join(names)}" for scenario, names in together.items())
    return f"{paired_run['kind']}: {text}" if paired_run else text or "trials and promises alone"
