"""The index page in HTML: one file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from harness.analysis.arms import REFERENCE
from harness.analysis.machines import machines_of
from harness.analysis.memory_use import without_failed_tries
from harness.analysis.recorded_run import RecordedRun
from harness.records.late_storage import LATE_LOADS, LATE_SHARE_AT_MOST
from harness.records.sample import FAILURES, LATE, WRONG
from harness.report.front import answer, cards, chooser, hero
from harness.report.front.checks_topics import regression, safety
from harness.report.front.names import CALLS
from harness.report.front.panels import figure
from harness.report.front.topic import Topic
from harness.report.front.topics import topics
from harness.report.index_page import run_contents
from harness.report.sections.environment import conditions_table
from harness.report.web.run_html import HERE, inline_html, stacked_table, templates
from harness.scenarios import SCENARIOS

_MEASURE = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s bench-cpu"
_COMMANDS = (
    ("Load a safetensors file", CALLS[REFERENCE]),
    ("Measure your machine, on Linux, in a clone", _MEASURE),
    (
        "Ask about a file of yours, after pip install . in the clone",
        "weighbridge advise model.safetensors",
    ),
)
_CLAIMS_NOTE = (
    "C: a claim of the documentation. J: common knowledge about it. F: a claim from bug reports. "
    "A card names its machine if it is not {}."
)
_MACHINE = ("processor", "memory", "GPU", "storage", "readahead")
"""The conditions that belong to a machine, not to a run."""
_SCRIPTS = ("page.js", "run.js", "chooser.js")


def index_html(evidence: Sequence[RecordedRun]) -> str:
    """Return the index page of these runs."""
    deck = cards.deck(evidence)
    cases = chooser.cases(evidence)
    shown = [_topic(topic) for topic in (*topics(evidence), *_checks(evidence))]
    choosing = {
        "count": len(cases),
        "table": chooser.table(cases, run_link).replace("<table>", '<table class="stack">'),
        "data": chooser.data(cases, hero.checkpoint(evidence)),
    }
    contents = [
        ("claims", "Claims"),
        *([("chooser", "Which loader")] if cases else []),
        ("open-my-run", "Open my run"),
        *((topic["anchor"], topic["title"]) for topic in shown),
        ("machines", "Machines"),
        ("runs", "Runs"),
    ]
    return (
        templates()
        .get_template("index.html.jinja")
        .render(
            question=answer.QUESTION,
            what_it_is=answer.WHAT_IT_IS,
            lead=inline_html(answer.lead(evidence)),
            background=inline_html(answer.background(evidence)) if evidence else "",
            commands=_COMMANDS,
            hero=hero.hero(evidence, lambda run: run_link(run, "Its run")),
            facts=[inline_html(fact) for fact in hero.facts(evidence)],
            tally=[(verdict, cards.KINDS[verdict], count) for verdict, count in deck.tally.items()],
            claims_note=_CLAIMS_NOTE.format(deck.machine),
            cards=cards.cards(deck, inline_html, run_link),
            chooser=choosing if cases else None,
            topics=shown,
            machines=stacked_table(_machines(evidence)),
            runs=stacked_table(_runs(evidence), run_link),
            run_count=len(evidence),
            contents=contents,
            references=_references(),
            rules=_rules(),
            style=(HERE / "page.css").read_text(encoding="utf-8"),
            script="\n".join((HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        )
    )


def run_link(run: str, words: str | None = None) -> str:
    """Return a link to the page of a run, in HTML."""
    return f'<a href="{escape(run)}.html">{escape(words or run)}</a>'


def _checks(evidence: Sequence[RecordedRun]) -> list[Topic]:
    return [topic for topic in (safety(evidence), regression(evidence)) if topic]


def _topic(topic: Topic) -> dict[str, Any]:
    link = f"{run_link(topic.run, 'Its run')}." if topic.run else ""
    return {
        "anchor": topic.title.lower().replace(" ", "-"),
        "title": topic.title,
        "figure": figure(topic.panels, topic.caption, link),
        "sentences": [inline_html(sentence) for sentence in topic.sentences],
        "table": stacked_table(topic.table) if topic.table is not None else None,
        "rows": 0 if topic.table is None else len(topic.table),
    }


def _machines(evidence: Sequence[RecordedRun]) -> pd.DataFrame:
    """Return a row for each machine, by its newest run."""
    rows = []
    for machine in machines_of(evidence):
        table = conditions_table(machine.runs[-1].manifest)
        conditions = dict(zip(table["condition"], table["found"], strict=True))
        rows.append(
            [machine.short, *(conditions[what] for what in _MACHINE), str(len(machine.runs))]
        )
    return pd.DataFrame(rows, columns=["machine", *_MACHINE, "runs"])


def _runs(evidence: Sequence[RecordedRun]) -> pd.DataFrame:
    owner = {run.name: machine.short for machine in machines_of(evidence) for run in machine.runs}
    rows = [
        [
            run_contents(run),
            owner.get(run.name, "unknown"),
            _valid(run),
            f"{len(run.trials):,}",
            run.name,
        ]
        for run in evidence
    ]
    heads = ["what it measured", "machine", "valid samples", "trials of hostile files", "run"]
    return pd.DataFrame(rows, columns=heads)


def _valid(run: RecordedRun) -> str:
    """Return how many of a run's samples are valid, tries that were expected to fail aside."""
    samples = without_failed_tries(run.samples)
    return f"{sum(sample.valid for sample in samples):,} of {len(samples):,}"


def _rules() -> str:
    """Return as JSON by which invalid samples a loader has no figure: the reasons of wrong tensors,
    and the one of late storage with its numbers. And by which reasons a try under a memory limit
    may fail without being an invalid sample.
    """
    late = {"reason": LATE, "loads": LATE_LOADS, "share": LATE_SHARE_AT_MOST}
    return json.dumps({"wrong": WRONG, "late": late, "failures": FAILURES}, separators=(",", ":"))


def _references() -> str:
    """Return as JSON which loader the ratios of each scenario are taken to."""
    return json.dumps(
        {
            name: [
                scenario.pair.reference,
                {checkpoint: pair.reference for checkpoint, pair in scenario.pair_of.items()},
            ]
            for name, scenario in SCENARIOS.items()
        },
        separators=(",", ":"),
    )
