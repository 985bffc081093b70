"""`weighbridge weigh`: any command weighed with files cold and warm, alone or against another."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.analysis.regression import Thresholds, Verdict
from harness.analysis.regression_verdicts import ArmVerdict, exit_code, verdicts_row
from harness.analysis.weighing import (
    calibrated_share,
    command_bottleneck,
    command_thresholds,
    command_verdict,
    estimates,
    first_change,
    ratio_of,
)
from harness.checkpoints.store_location import default_store
from harness.console import publish, say
from harness.errors import USAGE_EXIT
from harness.machine import page_cache
from harness.machine.lock import only_run
from harness.measure.weigh import StateHere, state_here, warm_up, weighings
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.thresholds import FILE, ThresholdsFile
from harness.records.verdicts import INVALID, MEANING, NOTHING, REGRESSION
from harness.records.weighing import Weighing
from harness.report.weighing import answer, bottleneck_words, comparison, table, warnings
from harness.run.weigh_options import WeighRequest, weigh_request
from harness.run.weigh_options import add_arguments as add_arguments
from harness.workers.cache_state import let_go

SCHEMA = 1
"""Version of the JSON document."""


def run(arguments: argparse.Namespace) -> int:
    """Weigh the command after `--` and return 0; against another the verdict's exit code.

    3 where a state has no valid run, 2 where one cannot be had here. Raises `WeighbridgeError`.
    """
    request = weigh_request(arguments)
    load = request.load
    measured: dict[str, list[Weighing]] = {}
    with only_run(Path("weigh")):
        try:
            here = [state_here(load.files, state) for state in request.states]
            able = [state for state in here if state.refusal is None]
            for state in here:
                if state.refusal:
                    sys.stderr.write(f"weighbridge: {state.state} refused: {state.refusal}\n")
            if not able:
                return USAGE_EXIT
            thresholds: dict[str, Thresholds] = {
                state.state: _thresholds(request, state) for state in able
            }
            warm_up(load, able[0])
            for state in able:
                samples = list(weighings(load, state, request.limits))
                if request.paired:
                    samples += _confirmation(request, state, samples, thresholds[state.state])
                measured[state.state] = samples
        finally:
            let_go()
            page_cache.let_go()
    verdicts = (
        [command_verdict(samples, thresholds[state]) for state, samples in measured.items()]
        if request.paired
        else []
    )
    code = _code(measured, verdicts, refused=len(able) < len(here))
    if arguments.json:
        document = _document(request, here, measured, verdicts, thresholds, code)
        say(json.dumps(document, indent=1))
    else:
        publish(_text(request, measured, verdicts, thresholds))
    return code


def _thresholds(request: WeighRequest, here: StateHere) -> Thresholds:
    """Return what the command is held to in a state: as asked for, as this machine's calibration
    found, or safe.
    """
    share = request.fail_over
    if request.paired and share is None and (path := default_store() / FILE).is_file():
        from harness.run.new_manifest import fingerprint_here  # slow to import, and rarely needed

        calibrated = ThresholdsFile.read(path)
        if dict(calibrated.machine) == fingerprint_here(default_store()):
            share = calibrated_share(calibrated.cells, here.state)
    return command_thresholds(share, facts_only=request.facts_only)


def _confirmation(
    request: WeighRequest, here: StateHere, samples: Sequence[Weighing], thresholds: Thresholds
) -> list[Weighing]:
    """Return the weighings of fresh blocks, taken only where the first ones say slower."""
    if first_change(samples, thresholds).verdict != Verdict.SLOWER:
        return []
    taken = 1 + max(weighing.block for weighing in samples)
    limits = replace(request.limits, blocks=max(MINIMUM_BLOCKS, taken // 2))
    return list(weighings(request.load, here, limits, taken, fresh=True))


def _code(
    measured: Mapping[str, Sequence[Weighing]], verdicts: Sequence[ArmVerdict], *, refused: bool
) -> int:
    """Return the exit code: a regression outweighs what could not be measured."""
    code = exit_code(verdicts) if verdicts else NOTHING
    if not verdicts and not all(any(run.valid for run in runs) for runs in measured.values()):
        code = INVALID
    return USAGE_EXIT if refused and code != REGRESSION else code


def _columns(measured: Mapping[str, Sequence[Weighing]]) -> dict[str, list[Weighing]]:
    """Return the weighings of each column of the table: a state, or a command in a state."""
    columns: dict[str, list[Weighing]] = {}
    for state, samples in measured.items():
        arms = {sample.arm for sample in samples}
        for arm in ("against", "command"):
            if arm in arms:
                name = f"{state}, {arm}" if len(arms) > 1 else state
                columns[name] = [sample for sample in samples if sample.arm == arm]
    return columns


def _of_command(measured: Mapping[str, Sequence[Weighing]]) -> dict[str, list[Weighing]]:
    return {
        state: [sample for sample in samples if sample.arm == "command"]
        for state, samples in measured.items()
    }


def _text(
    request: WeighRequest,
    measured: Mapping[str, Sequence[Weighing]],
    verdicts: Sequence[ArmVerdict],
    thresholds: Mapping[str, Thresholds],
) -> str:
    """Return what is printed: the answer first, then the table, then what to know of it."""
    command = _of_command(measured)
    lines = [
        comparison(measured[verdict.cell], verdict, thresholds[verdict.cell].clocks["time_s"])
        for verdict in verdicts
    ]
    lines += [answer(command, _cores()), "", table(_columns(measured))]
    return "\n".join([*lines, *warnings(command, request.load.file_bytes)])


def _document(
    request: WeighRequest,
    here: Sequence[StateHere],
    measured: Mapping[str, Sequence[Weighing]],
    verdicts: Sequence[ArmVerdict],
    thresholds: Mapping[str, Thresholds],
    code: int,
) -> dict[str, Any]:
    """Return everything as one document: what was asked, estimates, verdicts, every weighing."""
    load, columns, command = request.load, _columns(measured), _of_command(measured)
    bottlenecks = {
        state: found
        for state, samples in command.items()
        if (found := command_bottleneck(samples, _cores()))
    }
    return {
        "schema": SCHEMA,
        "created_at": load.run,
        "answer": answer(command, _cores()),
        "files": [{"name": file.name, "bytes": file.stat().st_size} for file in load.files],
        "command": list(load.commands["command"]),
        "against": list(load.commands.get("against", ())) or None,
        "since": load.options.since,
        "until": load.options.until,
        "seed": load.seed,
        "cores": _cores(),
        "busy_at_most": load.busy_at_most,
        "cache_states": [asdict(state) for state in here],
        "bottlenecks": {
            state: asdict(bottleneck) | {"words": bottleneck_words(bottleneck)}
            for state, bottleneck in bottlenecks.items()
        },
        "estimates": {
            name: {
                figure: asdict(estimate) if estimate else None
                for figure, estimate in estimates(samples).items()
            }
            for name, samples in columns.items()
        },
        "verdicts": [
            {
                "cache_state": row["cell"],
                "threshold": _finite(thresholds[row["cell"]].clocks["time_s"]),
                **{name: row[name] for name in _VERDICT_FIELDS},
                "ratio_time": asdict(ratio)
                if (ratio := ratio_of(measured[row["cell"]], "time_s"))
                else None,
            }
            for row in map(verdicts_row, verdicts)
        ],
        "exit_code": code,
        "meaning": MEANING[code] if verdicts and code in MEANING else None,
        "weighings": [sample.as_json() for samples in measured.values() for sample in samples],
    }


_VERDICT_FIELDS = ("verdict", "reason", "metric", "pairs", "first_verdict", "fresh_verdict")


def _finite(share: float) -> float | None:
    return None if math.isinf(share) else share


def _cores() -> int:
    return len(os.sched_getaffinity(0))
