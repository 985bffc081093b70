"""How a child ended, and what it said: one JSON line on a pipe, or nothing before it was gone."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import Any

from harness.checkpoints.refusals import without_advice
from harness.records.privacy import without_paths

Answer = dict[str, Any]


def read_until_closed(pipe: int, deadline: float) -> bytes | None:
    """Return what the child wrote until it closed the pipe or ended its line; None once the deadline has passed."""
    output = b""
    while not output.endswith(b"\n"):
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return None
        piece = os.read(pipe, 1 << 16)
        if not piece:
            break
        output += piece
    return output


def outcome(output: bytes | None, code: int, timeout_s: float) -> Answer:
    """Return what a child said, or how it failed, from its line (None: none in time) and its exit code, the negative of a signal."""
    if output is None:
        return {"failure": "hung", "detail": f"no result within {timeout_s:.0f} s; the process was killed"}
    if output.endswith(b"\n"):
        answer: Answer = json.loads(output)
        if "raised" not in answer:
            return answer
        return {
            "failure": "raised",
            "detail": without_paths(_of_the_error(answer["raised"])),
            "traceback": without_paths(answer.get("traceback", "")),
        }
    if code < 0:
        return {"failure": "killed", "detail": f"by signal {-code} ({signal.Signals(-code).name})"}
    return {"failure": "exited", "detail": f"with status {code} before it gave a result"}


def _of_the_error(raised: str) -> str:
    """Return the kind and the words of an error, less torch's advice to switch its protection off."""
    kind, colon, words = raised.partition(": ")
    return f"{kind}{colon}{without_advice(words)}" if "weights_only" in words or "safe_globals" in words else raised
