"""A table in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.records.run_directory import REFERENCE


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; what a cell holds is put on one line and its bars are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def run_link(run: str) -> str:
    """Return a link from a page of docs to a run's manifest."""
    return f"[{run}](../{REFERENCE.as_posix()}/{run}/manifest.json)"


def code(names: Iterable[str]) -> str:
    """Return names as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))
