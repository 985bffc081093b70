"""Output of commands, recorded in `docs/outputs/`: a file for each, its first line what was typed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

OUTPUTS = Path("docs/outputs")


def outputs(root: Path) -> dict[str, Callable[[], str]]:
    """Return what generates the block of each recorded output, `output NAME` by name."""
    files = sorted((root / OUTPUTS).glob("*.txt"))
    return {f"output {file.stem}": partial(_block, file) for file in files}


def _block(file: Path) -> str:
    """Return an output as a block of code."""
    return f"```console\n{file.read_text(encoding='utf-8').rstrip()}\n```"
