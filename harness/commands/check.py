"""`weighbridge check`: a run, or this machine before a run, against the rules for evidence."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import __version__
from harness.analysis.run_rules import (
    RULES,
    Evidence,
    Rule,
    RuleOutcome,
    RuleResult,
    rules_before,
    rules_named,
)
from harness.checkpoints.store_location import default_store
from harness.console import say
from harness.errors import WeighbridgeError
from harness.loaders import distributions
from harness.machine.busy import Meter
from harness.machine.description import packages
from harness.machine.proof import capability
from harness.records.packing import packed_contents, size_of, text_of
from harness.records.run_directory import RunDirectory
from harness.report.rules_text import result_lines, result_table, rules_block
from harness.run.new_manifest import git_here
from harness.workers.code_digest import code_digest

_BEFORE = "this machine, before a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help=(
            "a run's directory, or its name in the results; without one, this machine is checked"
            " before a run"
        ),
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        default=Path("results"),
        help="where runs are looked for by name (default: results)",
    )
    parser.add_argument(
        "--all", action="store_true", help="check every run directly in the results folder"
    )
    parser.add_argument(
        "--only",
        metavar="A,B",
        help=f"check only these rules: {', '.join(rule.name for rule in RULES)}",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="before a run: the storage to examine (default: where checkpoints are kept)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--rules", action="store_true", help="print every rule, as CONTRIBUTING.md lists them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what became of each rule; return 0 where all are kept and 1 for an issue.

    Raises `WeighbridgeError` where there is no such run or rule.
    """
    if arguments.rules:
        say(rules_block(RULES))
        return 0
    names = arguments.only.split(",") if arguments.only is not None else None
    rules = rules_named(names)
    runs = [RunDirectory.existing(arguments.results, name) for name in arguments.runs]
    if arguments.all:
        runs += RunDirectory.all_in(arguments.results)
        if not runs:
            raise WeighbridgeError(f"no run in {arguments.results}; name another with --results")
    results: dict[str, list[RuleResult]]
    if runs:
        results = {str(one.path): judged(one, rules) for one in runs}
    else:
        here = conditions_before(arguments.store or default_store())
        results = {
            _BEFORE: [rule.result(here, before=True) for rule in rules_before() if rule in rules]
        }
    if arguments.json:
        say(json.dumps([_as_json(name, of_run) for name, of_run in results.items()], indent=2))
    else:
        _show(results)
    broken = [result for of_run in results.values() for result in of_run if result.issues]
    return 1 if broken else 0


def judged(run: RunDirectory, rules: Sequence[Rule] = RULES) -> list[RuleResult]:
    """Return what becomes of each rule for a run, every text in its directory examined."""
    files = {
        str(path.relative_to(run.path)): path.read_bytes()
        for path in sorted(run.path.rglob("*"))
        if path.is_file()
    }
    evidence = evidence_of(run, packed_contents(run), files)
    return [rule.result(evidence) for rule in rules]


def evidence_of(
    run: RunDirectory, packed: dict[str, bytes], files: Mapping[str, bytes] | None = None
) -> Evidence:
    """Return what a run is judged by, `packed` being its files as contributed.

    `files` are those whose text is examined, if others than those. Raises `WeighbridgeError` where
    it cannot be read.
    """
    texts = packed if files is None else files
    return Evidence(
        run.manifest(),
        run.samples(),
        run.trials(),
        {name: text_of(name, content) for name, content in texts.items()},
        size_of(packed),
    )


def conditions_before(store: Path) -> Evidence:
    """Return what can be known of a run before it: proof on this storage, code, libraries, and how
    busy the machine is for half a second.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeighbridgeError(
            f"--store {store}: cannot be written to ({error.strerror}); name a folder you may"
            " write to"
        ) from None
    manifest: dict[str, Any] = {
        "version": __version__,
        "page_cache": asdict(capability(store)),
        "packages": packages(distributions()),
        "git": git_here(),
        "code": code_digest(),
    }
    meter = Meter()
    meter.begin()
    return Evidence(manifest, busy_share=meter.end().share)


def _show(results: Mapping[str, Sequence[RuleResult]]) -> None:
    console = Console()
    for name, of_run in results.items():
        broken = sum(bool(result.issues) for result in of_run)
        kept = sum(result.outcome == RuleOutcome.KEPT for result in of_run)
        say(f"{name}: {kept} of {len(of_run)} rules kept, {broken} broken")
        if console.is_terminal:
            console.print(result_table(of_run))
        else:
            for line in result_lines(of_run):
                say(f"  {line}")
        sys.stdout.flush()


def _as_json(name: str, results: Sequence[RuleResult]) -> dict[str, Any]:
    return {"run": None if name == _BEFORE else name, "rules": [asdict(one) for one in results]}
