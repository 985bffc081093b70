"""The thresholds file: by how much a clock or a counter of each arm may grow on one machine, as its
calibration found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.atomic_write import write_text
from harness.errors import WeighbridgeError

FILE = "thresholds.json"
SCHEMA = 1


@dataclass(frozen=True)
class ThresholdsFile:
    """What a calibration left: the machine it is of, the run it rests on, and by cell and loader
    the share that each clock may grow by.
    """

    machine: Mapping[str, Any]
    run: str
    cells: Mapping[str, Mapping[str, Mapping[str, float]]]

    def write(self, path: Path) -> None:
        """Write it, all of it or nothing."""
        content = {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "run": self.run,
            "cells": self.cells,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> ThresholdsFile:
        """Return the file's content; raises `WeighbridgeError` where it is no such file."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise WeighbridgeError(
                    f"{path}: schema {content['schema']}, this release reads {SCHEMA}; calibrate"
                    " again"
                )
            return cls(content["machine"], content["run"], content["cells"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeighbridgeError(
                f"{path}: no thresholds file ({error}); `nox -s calibrate` writes one"
            ) from None
