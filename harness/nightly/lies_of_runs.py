"""Lies about what is compared: blocks, cells, runs, workers and environments. Each is told to the harness as it is shipped."""

from __future__ import annotations

import sys
from dataclasses import replace

from harness.measure.cell import Cell
from harness.measure.client import Server
from harness.nightly.court import Court, Lie, NotCaughtError, made_up, refused
from harness.nightly.environments import Environment, refuse_other_versions
from harness.records.run_directory import SAMPLES, RunDirectory
from harness.verdicts.regression import BASELINE_GONE, INSUFFICIENT, INVALID, MISSING, change, exit_code, judged, safe_thresholds
from harness.verdicts.stored import not_comparable


def fixed_order(court: Court) -> str:
    """The baseline is taken first in every block, and everything slows down meanwhile."""
    base = [replace(made_up(court), block=block, position=0, ready_s=1.0, environment="a") for block in range(20)]
    drifted = [replace(sample, position=1, ready_s=1.3, returned_s=1.3, environment="b") for sample in base]
    found = change(base, drifted)
    if found.verdict != INSUFFICIENT or "first in every block" not in found.reason:
        raise NotCaughtError(f"it was called {found.verdict}: {found.reason}")
    return f"{found.verdict}: {found.reason}"


def missing_cell(court: Court) -> str:
    """A result lacks a cell that the baseline has."""
    base = [replace(made_up(court), block=block, environment="a") for block in range(20)]
    found = judged([{"name": Cell.of(base[0]).name, "arms": ["honest"]}], base, "a", "b", safe_thresholds)
    if exit_code(found) != INVALID or found[0].change.verdict != MISSING:
        raise NotCaughtError(f"it was called {found[0].change.verdict}")
    return f"{MISSING}, exit code {INVALID}: {found[0].change.reason}"


def other_machine(court: Court) -> str:
    """The baseline is another machine's."""
    other = court.manifest | {"machine": court.manifest["machine"] | {"cpu": "a faster one"}, "run": "elsewhere"}
    if not (reason := not_comparable(other, court.manifest)):
        raise NotCaughtError("the two were compared")
    return reason


def truncated_samples(court: Court) -> str:
    """A file of samples has lost the middle of a line."""
    run = RunDirectory(court.folder / "truncated")
    run.path.mkdir()
    for block in range(3):
        run.append(replace(made_up(court), block=block))
    path = run.path / SAMPLES
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 40 :])
    return refused(court, lambda: run.samples())


def shortened_samples(court: Court) -> str:
    """A file of samples ends too early, so that a cell has fewer pairs than it says."""
    run = RunDirectory(court.folder / "shortened")
    run.path.mkdir()
    made = [replace(made_up(court), block=block, environment=side) for block in range(6) for side in ("a", "b")]
    for sample in made:
        run.append(sample)
    path = run.path / SAMPLES
    path.write_bytes(path.read_bytes()[:-10])
    found = judged([{"name": Cell.of(made[0]).name, "arms": ["honest"]}], run.samples(), "a", "b", safe_thresholds)
    if found[0].change.verdict != INSUFFICIENT:
        raise NotCaughtError(f"it was called {found[0].change.verdict}")
    return f"{INSUFFICIENT}, exit code {exit_code(found)}: {found[0].change.reason}"


def other_worker(court: Court) -> str:
    """The worker that answers runs other measuring code than the one that asks."""
    python = court.folder / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\nfor line in sys.stdin:\n    print(json.dumps({{'code': 'an-older-one', 'absent': {{}}}}), flush=True)\n"
    )
    python.chmod(0o755)

    def start() -> None:
        with Server({}, [], str(python)):
            pass

    return refused(court, start)


def other_library(court: Court) -> str:
    """An environment is asked for one release, and what comes first in its path is another."""
    environment = Environment("candidate", sys.executable, ("safetensors==0.0.1",), ("safetensors==0.0.1",))
    with Server({}, ["safetensors"], sys.executable) as server:
        return refused(court, lambda: refuse_other_versions(environment, server.environment["versions"]))


def no_baseline(court: Court) -> str:
    """The baseline has no valid sample, so that anything would be as good."""
    new = [replace(made_up(court), block=block, environment="b") for block in range(20)]
    found = judged([{"name": Cell.of(new[0]).name, "arms": ["honest"]}], new, "a", "b", safe_thresholds)
    if found[0].change.witness != BASELINE_GONE:
        raise NotCaughtError(f"it was called {found[0].change.verdict}")
    return f"{MISSING}, exit code {exit_code(found)}: {found[0].change.reason}"


LIES: tuple[Lie, ...] = (
    fixed_order,
    missing_cell,
    other_machine,
    truncated_samples,
    shortened_samples,
    other_worker,
    other_library,
    no_baseline,
)
