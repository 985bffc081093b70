"""What the page promises and what came of it: a table of a run's checks, and the lines a terminal
shows of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, fields

import pandas as pd

from harness.analysis.promises import PromiseResult
from harness.analysis.recorded_run import RecordedRun
from harness.records.checks import Check
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown
from harness.report.terminal import WIDTH

_READING = (
    "Each check is one call in its own process, offline, on a tiny pipeline. Each format of that "
    "pipeline holds different content, so the loaded tensors show which file they came from. The "
    "message is the error that a user sees, or the library's warning."
)


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the section on a run's checks, nothing where it has none.

    The same rows are written as CSV.
    """
    checks = run.checks
    if not checks:
        return []
    frame = checks_frame(checks)
    return [
        writer.heading("What the page promises"),
        f"{_counted(checks).capitalize()}. {_READING}",
        markdown(checks_table(checks)),
        f"As CSV: {writer.table('promises', frame)}",
    ]


def checks_frame(checks: Sequence[Check]) -> pd.DataFrame:
    """Return one row for each check, as recorded, without what all of a run's have in common."""
    columns = [field.name for field in fields(Check) if field.name not in ("schema", "run")]
    return pd.DataFrame([asdict(check) for check in checks], columns=columns)


def checks_table(checks: Sequence[Check]) -> pd.DataFrame:
    """Return one row for each check as a person reads it."""
    heads = ["claim", "what", "promised", "what happened", "message", "outcome"]
    rows = [
        [
            check.claim,
            f"{check.subject}: {check.condition}",
            check.promised,
            check.happened,
            check.message or "none",
            check.outcome,
        ]
        for check in checks
    ]
    return pd.DataFrame(rows, columns=heads)


def promises_lines(checks: Sequence[Check]) -> list[str]:
    """Return how many promises were kept, and each that was not, as lines of a terminal.

    Nothing where there was none.
    """
    if not checks:
        return []
    broken = [
        f"{check.outcome}: {check.claim} {check.check}: promised {check.promised}; {check.happened}"
        for check in checks
        if check.outcome == PromiseResult.BROKEN
    ]
    return [
        line
        for text in [_counted(checks), *broken]
        for line in textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _counted(checks: Sequence[Check]) -> str:
    counts = [
        (outcome, sum(check.outcome == outcome for check in checks))
        for outcome in (PromiseResult.KEPT, PromiseResult.BROKEN, PromiseResult.NOT_TESTED)
    ]
    return (
        "checks of documented behaviour: "
        f"{', '.join(f'{count} {outcome}' for outcome, count in counts if count)}"
    )
