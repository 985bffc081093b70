"""The verdicts file of a regression run, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import WeighbridgeError

NOTHING, REGRESSION, INVALID, NO_BASELINE = 0, 1, 3, 4
"""Exit codes of a check: nothing confirmed, a confirmed regression, cells missing or not measured
well enough, nothing to compare with. 2 is usage.
"""


MEANING = {
    NOTHING: "no confirmed regression",
    REGRESSION: "a confirmed regression",
    INVALID: "cells are missing or were not measured well enough, which is no pass",
    NO_BASELINE: "no comparable baseline",
}


VERDICTS_FILE = "verdicts.json"
"""The file in a run's directory that holds its verdicts and their exit code."""


def read_code(path: Path) -> int:
    """Return the exit code that a run's verdicts hold.

    Raises `WeighbridgeError` where they hold none.
    """
    try:
        code: int = json.loads(path.read_text(encoding="utf-8"))["exit_code"]
        if code not in MEANING:
            raise ValueError(f"exit code {code}")
        return code
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeighbridgeError(
            f"{path}: no verdicts ({error}); `weighbridge regression` writes them"
        ) from None


def write_verdicts(folder: Path, rows: Sequence[Mapping[str, Any]], code: int) -> None:
    """Write `verdicts.json` into a run's directory: the exit code, and every verdict with its
    reason.
    """
    content = {"exit_code": code, "meaning": MEANING[code], "verdicts": [dict(row) for row in rows]}
    (folder / VERDICTS_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
