"""The rules for a run, and what became of them, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from harness.analysis.run_rules import CONTRIBUTED, Rule, RuleOutcome, RuleResult

_STYLES = {
    RuleOutcome.KEPT: "green",
    RuleOutcome.BROKEN: "bold red",
    RuleOutcome.NOT_RECORDED: "yellow",
}


def rules_block(rules: Iterable[Rule]) -> str:
    """Return the rules as a Markdown list, as CONTRIBUTING holds it."""
    return "\n".join(
        f"- **{rule.name}**: {rule.sentence}"
        f"{' It is known before a run too.' if rule.foresee else ''}"
        f"{' `pack` demands it.' if rule.name in CONTRIBUTED else ''}"
        for rule in rules
    )


def result_lines(results: Sequence[RuleResult]) -> list[str]:
    """Return one plain line for each rule, however long, for a pipe or a log."""
    return [": ".join((result.rule, result.outcome, _explained(result))) for result in results]


def result_table(results: Sequence[RuleResult]) -> Table:
    """Return a row for each rule, for a terminal."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column()
    for result in results:
        outcome = Text(result.outcome, style=_STYLES[result.outcome])
        table.add_row(Text(result.rule), outcome, Text(_explained(result)))
    return table


def _explained(result: RuleResult) -> str:
    """Return what was expected and found, and of an issue what it is and what to do about it."""
    text = f"expected {result.expected}; found {result.found}"
    messages = [issue.message for issue in result.issues if issue.message != result.found]
    if messages:
        text += f" ({'; '.join(messages)})"
    return f"{text}. To do: {result.issues[0].to_do}." if result.issues else f"{text}."
