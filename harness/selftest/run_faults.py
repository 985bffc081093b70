"""Faults about what is compared: blocks, cells, runs, workers and environments.

Each is told to the harness as it is shipped.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from harness.analysis.regression import BASELINE_GONE, Verdict, change
from harness.analysis.regression_verdicts import exit_code, judged, safe_thresholds
from harness.analysis.stored_runs import not_comparable
from harness.records.cell import Cell
from harness.records.run_directory import SAMPLES, RunDirectory
from harness.records.verdicts import INVALID
from harness.regression.environments import Environment, refuse_other_versions
from harness.selftest.fixture import Fixture, InjectedFault, NotCaughtError, made_up, refused
from harness.workers.client import Server


def fixed_order(fixture: Fixture) -> str:
    """The baseline comes first in every block while the machine gets slower."""
    base = [
        replace(made_up(fixture), block=block, position=0, ready_s=1.0, environment="a")
        for block in range(20)
    ]
    drifted = [
        replace(sample, position=1, ready_s=1.3, returned_s=1.3, environment="b") for sample in base
    ]
    outcome = change(base, drifted)
    if outcome.verdict != Verdict.INSUFFICIENT or "first in every block" not in outcome.reason:
        raise NotCaughtError(f"it was called {outcome.verdict}: {outcome.reason}")
    return f"{outcome.verdict}: {outcome.reason}"


def missing_cell(fixture: Fixture) -> str:
    """A result lacks a cell that the baseline has."""
    base = [replace(made_up(fixture), block=block, environment="a") for block in range(20)]
    verdicts = judged(
        [{"name": Cell.of(base[0]).name, "arms": ["honest"]}], base, "a", "b", safe_thresholds
    )
    if exit_code(verdicts) != INVALID or verdicts[0].change.verdict != Verdict.MISSING:
        raise NotCaughtError(f"it was called {verdicts[0].change.verdict}")
    return f"{Verdict.MISSING}, exit code {INVALID}: {verdicts[0].change.reason}"


def other_machine(fixture: Fixture) -> str:
    """The baseline comes from another machine."""
    other = fixture.manifest | {
        "machine": fixture.manifest["machine"] | {"cpu": "a faster one"},
        "run": "elsewhere",
    }
    if not (reason := not_comparable(other, fixture.manifest)):
        raise NotCaughtError("the two were compared")
    return reason


def truncated_samples(fixture: Fixture) -> str:
    """A file of samples lacks the middle of a line."""
    run = RunDirectory(fixture.folder / "truncated")
    run.path.mkdir()
    for block in range(3):
        run.append(replace(made_up(fixture), block=block))
    path = run.path / SAMPLES
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 40 :])
    return refused(fixture, lambda: run.samples())


def shortened_samples(fixture: Fixture) -> str:
    """A file of samples ends too early, so that a cell has fewer pairs than recorded."""
    run = RunDirectory(fixture.folder / "shortened")
    run.path.mkdir()
    samples = [
        replace(made_up(fixture), block=block, environment=side)
        for block in range(6)
        for side in ("a", "b")
    ]
    for sample in samples:
        run.append(sample)
    path = run.path / SAMPLES
    path.write_bytes(path.read_bytes()[:-10])
    verdicts = judged(
        [{"name": Cell.of(samples[0]).name, "arms": ["honest"]}],
        run.samples(),
        "a",
        "b",
        safe_thresholds,
    )
    if verdicts[0].change.verdict != Verdict.INSUFFICIENT:
        raise NotCaughtError(f"it was called {verdicts[0].change.verdict}")
    return f"{Verdict.INSUFFICIENT}, exit code {exit_code(verdicts)}: {verdicts[0].change.reason}"


def other_worker(fixture: Fixture) -> str:
    """The worker runs other measuring code than the process that asks it."""
    python = fixture.folder / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\nfor line in sys.stdin:\n   "
        " print(json.dumps({'code': 'an-older-one', 'absent': {}}), flush=True)\n"
    )
    python.chmod(0o755)

    def start() -> None:
        with Server({}, [], str(python)):
            pass

    return refused(fixture, start)


def other_library(fixture: Fixture) -> str:
    """An environment is asked for one release, and what comes first in its path is another."""
    environment = Environment(
        "candidate", sys.executable, ("safetensors==0.0.1",), ("safetensors==0.0.1",)
    )
    with Server({}, ["safetensors"], sys.executable) as server:
        return refused(
            fixture, lambda: refuse_other_versions(environment, server.environment["versions"])
        )


def no_baseline(fixture: Fixture) -> str:
    """The baseline has no valid sample, so that anything would pass."""
    new = [replace(made_up(fixture), block=block, environment="b") for block in range(20)]
    verdicts = judged(
        [{"name": Cell.of(new[0]).name, "arms": ["honest"]}], new, "a", "b", safe_thresholds
    )
    if verdicts[0].change.metric != BASELINE_GONE:
        raise NotCaughtError(f"it was called {verdicts[0].change.verdict}")
    return f"{Verdict.MISSING}, exit code {exit_code(verdicts)}: {verdicts[0].change.reason}"


FAULTS: tuple[InjectedFault, ...] = (
    fixed_order,
    missing_cell,
    other_machine,
    truncated_samples,
    shortened_samples,
    other_worker,
    other_library,
    no_baseline,
)
