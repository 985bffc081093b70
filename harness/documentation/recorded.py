"""Outputs of commands, recorded in `docs/outputs/`: a file each, its first line what was typed.

`python -m harness.documentation --record FOLDER` types them again in a folder that holds the files
they name.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from harness.atomic_write import write_text
from harness.errors import WeighbridgeError

OUTPUTS = Path("docs/outputs")
LINES = 3
"""How many lines of an output are kept."""
_PROMPT, _COMMAND = "$ ", "weighbridge"


def outputs(root: Path) -> dict[str, Callable[[], str]]:
    """Return what generates the block of each recorded output, `output NAME` by name."""
    return {f"output {file.stem}": partial(_block, file) for file in _files(root)}


def record(root: Path, folder: Path) -> Iterator[Path]:
    """Run every recorded command again in `folder`, and yield each file that was rewritten.

    Raises `WeighbridgeError` for a command that prints nothing.
    """
    for file in _files(root):
        typed = file.read_text(encoding="utf-8").partition("\n")[0]
        words = shlex.split(typed.removeprefix(_PROMPT))
        if words[:1] != [_COMMAND]:
            raise WeighbridgeError(f"{file}: its first line is not `{_PROMPT}{_COMMAND} ...`")
        ended = subprocess.run(
            [sys.executable, "-m", "harness", *words[1:]],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line.rstrip() for line in ended.stdout.splitlines() if line.strip()]
        if not lines:
            raise WeighbridgeError(f"{typed}: printed nothing; {ended.stderr.strip()[-200:]}")
        write_text(file, "\n".join([typed, *lines[:LINES]]) + "\n")
        yield file


def _files(root: Path) -> list[Path]:
    return sorted((root / OUTPUTS).glob("*.txt"))


def _block(file: Path) -> str:
    """Return an output as a block of code."""
    return f"```console\n{file.read_text(encoding='utf-8').rstrip()}\n```"
