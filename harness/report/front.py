"""The front of the reports: first the answer, then the machines, then the evidence with the runs it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.measure.sample import Sample
from harness.report.agreement import agreement_section
from harness.report.choice import choice_section
from harness.report.drawing import Drawn
from harness.report.evidence import Evidence
from harness.report.ledger import headline, judged_here, ledger_section, tests_section
from harness.report.machines import machines_section
from harness.report.place import Place
from harness.report.tables import markdown
from harness.verdicts.ledger import VERDICTS

QUESTION = "How should model checkpoints be loaded, and is what the documentation says true?"
NO_GPU = (
    "**GPU rows: not measured.** {which} has no sample taken on a GPU, so there is no such row and nothing here speaks of one; "
    "`nox -s bench-gpu` takes them on a machine that has one."
)
_HOW_TO_ADD = """
There is no reference run yet. To add one, put a run's directory (its `manifest.json` and `samples.jsonl`) into `results/reference/`
and make the reports again.
""".strip()
_THEMES = (
    ("Returned is not ready", ("returned-ready",)),
    ("Time against size", ("time-by-size",)),
    ("Against safetensors", ("ratio-forest",)),
    ("How much of what the hardware allows", ("share-of-ceiling",)),
    ("Asking for less is not reading less", ("read-ahead", "parts")),
    ("A share for each rank", ("ranks",)),
    ("Memory that a load takes", ("memory",)),
    ("Whole pipelines", ("pipeline",)),
    ("From the command line to weights", ("process-start",)),
    ("Hostile files", ("hostile-files", "scan-time")),
    ("How small a slow-down the nightly check finds", ("found", "verdicts")),
    ("Since which release", ("history",)),
)
"""What the figures are of, and how their files' names begin."""


@dataclass(frozen=True)
class Front:
    """What stands above everything else: the question, the answer in a sentence, and how many claims have each verdict."""

    question: str
    lede: str
    tally: Mapping[str, int]


def front_sections(place: Place, evidence: Sequence[Evidence], places: Mapping[str, Place]) -> tuple[Front, list[list[str]]]:
    """Return what stands above the front and its sections as blocks of Markdown; `places` are where the runs' own pages stand, by name."""
    if not evidence:
        return Front(QUESTION, "Nothing is committed that would answer.", {}), [[place.heading("No evidence"), _HOW_TO_ADD]]
    judged = judged_here(evidence)
    counts = Counter(one.verdict for one in judged)
    front = Front(QUESTION, headline(evidence), {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]})
    return front, [
        ledger_section(place, evidence),
        choice_section(place, evidence),
        machines_section(place, evidence),
        _evidence(place, evidence, places),
        agreement_section(place, evidence),
        tests_section(place, evidence),
        _runs(place, evidence),
    ]


def on_a_gpu(samples: Iterable[Sample]) -> bool:
    """Return whether any sample was taken on a GPU."""
    return any(sample.device != "cpu" for sample in samples)


def _evidence(place: Place, evidence: Sequence[Evidence], places: Mapping[str, Place]) -> list[str]:
    """Return the figures theme by theme, each from the newest run that holds at least half as much as the largest that has it."""
    blocks = [
        place.heading("The evidence"),
        "Every figure is drawn from one run, whose samples it links to. [What other loaders say of themselves](peers.md).",
    ]
    drawn_in: dict[str, list[tuple[int, str, Drawn]]] = {}
    for one in evidence:
        for drawn in places[one.name].drawings:
            drawn_in.setdefault(drawn.file, []).append((len(one.samples) + len(one.meetings), one.name, drawn))
    figures = {file: _newest(found) for file, found in drawn_in.items()}
    for title, beginnings in _THEMES:
        shown = [found for file, found in figures.items() if file.startswith(beginnings)]
        blocks += [place.heading(title, 2)] if shown else []
        for number, (run, drawn) in enumerate(shown):
            as_above = any(drawn.reading == above.reading for _, above in shown[:number])
            blocks += places[run].lines(drawn, f"[All of run {run}]({run}.md).", as_above=as_above)
    if not any(on_a_gpu(one.samples) for one in evidence):
        blocks += [place.heading("On a GPU", 2), NO_GPU.format(which="What was measured here")]
    return blocks


def _newest(found: Sequence[tuple[int, str, Drawn]]) -> tuple[str, Drawn]:
    """Return the newest run's figure of those whose runs hold at least half as much as the largest."""
    most = max(size for size, _, _ in found)
    return max(((run, drawn) for size, run, drawn in found if 2 * size >= most), key=lambda one: one[0])


def _runs(place: Place, evidence: Sequence[Evidence]) -> list[str]:
    rows = [
        [
            f"[{one.name}]({one.name}.md)",
            _held(one),
            f"{sum(sample.valid for sample in one.samples):,} of {len(one.samples):,}",
            f"{len(one.meetings):,}",
            str(len(one.checks)),
        ]
        for one in evidence
    ]
    heads = ["run", "what it weighed", "valid samples", "meetings with hostile files", "promises tested"]
    return [place.heading("The runs"), markdown(pd.DataFrame(rows, columns=heads))]


def _held(one: Evidence) -> str:
    night = (one.manifest.get("options") or {}).get("night") or {}
    together: dict[str, list[str]] = {}
    for cell in one.cells:
        if cell.samples and cell.checkpoint not in together.setdefault(cell.scenario, []):
            together[cell.scenario].append(cell.checkpoint)
    said = "; ".join(f"{scenario} of {', '.join(names)}" for scenario, names in together.items())
    return f"{night['kind']}: {said}" if night else said or "meetings and promises alone"
