"""Rewrite the generated blocks of README and docs; `--check` only says where they have drifted.

Exit code 0 where every block is as it is generated, 1 where one is not, 2 where one cannot be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from harness.atomic_write import write_text
from harness.console import complain, say
from harness.documentation.blocks import Drift, Generate, by_name, documents, filled
from harness.documentation.recorded import record
from harness.documentation.stand_ins import stand_in_for_missing
from harness.errors import USAGE_EXIT, WeighbridgeError

ROOT = Path(__file__).parents[2]


def generators(root: Path) -> Mapping[str, Generate]:
    """Return what generates each kind of block; `root` holds the reference runs."""
    from harness.documentation import (
        code_pages,
        help_pages,
        memory_tables,
        record_pages,
        recorded,
    )
    from harness.documentation.quotes import ReferenceRuns

    runs = ReferenceRuns(root)
    blocks: dict[str, Callable[[], str]] = {
        "commands": help_pages.commands,
        "command-list": help_pages.command_list,
        "options": help_pages.options,
        "profiles": help_pages.profiles,
        "sessions": partial(help_pages.sessions, root / "noxfile.py"),
        "loaders": code_pages.loaders,
        "part-loaders": code_pages.part_loaders,
        "tools": code_pages.tools,
        "ceilings": code_pages.ceilings,
        "checkpoints": code_pages.checkpoints,
        "storages": code_pages.storages,
        "hostile-families": code_pages.families,
        "injected-faults": code_pages.faults,
        "sample-fields": record_pages.sample_fields,
        "trial-fields": record_pages.trial_fields,
        "check-fields": record_pages.check_fields,
        "manifest-parts": record_pages.manifest_parts,
        "reasons": record_pages.reasons,
        "outcomes": record_pages.outcomes,
        "regression-exit-codes": record_pages.regression_exit_codes,
        "figures": runs.figures_table,
        "hostile-outcomes": runs.hostile_outcomes,
        "scanner-results": runs.scanner_results,
        "regression-rules": runs.regression_rules,
        "storage-grid": runs.storage_grid,
        "storage-two-boots": runs.two_boots,
        "memory-limits": lambda: memory_tables.limits(runs.runs),
        "memory-slowdowns": lambda: memory_tables.slowdowns(runs.runs),
        "memory-whole-processes": lambda: memory_tables.whole_processes(runs.runs),
        "memory-stays": lambda: memory_tables.stays(runs.runs),
        "memory-workers": lambda: memory_tables.workers(runs.runs),
    }
    blocks |= recorded.outputs(root)
    counts: dict[str, Callable[[], str]] = {
        "hostile-file-count": code_pages.hostile_files,
        "hostile-family-count": code_pages.hostile_families,
        "fault-count": code_pages.fault_count,
        "claim-verdicts": runs.claims,
        "payload-count": runs.payloads,
        "tenth-found-quiet": runs.tenth_found_first,
        "hash-tower-bytes": partial(runs.bytes_of, "hash-tower.bin"),
        "bytearray-bytes": partial(runs.bytes_of, "bytearray.bin"),
        "hostile-run": runs.hostile_run,
        "pickle-load-ran": partial(runs.ran, "pickle-load"),
        "torch-load-ran": partial(runs.ran, "torch-load"),
        "torch-load-unsafe-ran": partial(runs.ran, "torch-load-unsafe"),
        "torch-dcp-ran": partial(runs.ran, "torch-dcp"),
    }

    numbers = code_pages.numbers()

    def figure(name: str) -> str:
        if name in counts:
            return counts[name]()
        return numbers[name] if name in numbers else runs.text(name)

    return {"generated": by_name(blocks), "figure": figure}


def drifts(
    documents_in: Path, known: Mapping[str, Generate]
) -> tuple[dict[Path, str], list[Drift]]:
    """Return the text that each file should have, and every block that differs."""
    texts: dict[Path, str] = {}
    differing: list[Drift] = []
    for path in documents(documents_in):
        file = path.relative_to(documents_in).as_posix()
        texts[path], of_file = filled(path.read_text(encoding="utf-8"), file, known)
        differing += of_file
    return texts, differing


def main() -> int:
    """Rewrite or check the documents and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.documentation", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 for a drift")
    parser.add_argument(
        "--documents", type=Path, default=ROOT, metavar="DIR", help="the folder of README and docs"
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="DIR",
        help="first run the commands of docs/outputs again, in the folder that holds their files",
    )
    given = parser.parse_args()
    try:
        for file in record(ROOT, given.record) if given.record else ():
            say(f"recorded {file.name}")
        stand_in_for_missing()
        texts, differing = drifts(given.documents, generators(ROOT))
    except WeighbridgeError as error:
        return complain(error, USAGE_EXIT)
    if given.check:
        for drift in differing:
            say(str(drift))
        return 1 if differing else 0
    for path in dict.fromkeys(given.documents / drift.file for drift in differing):
        write_text(path, texts[path])
        say(f"rewrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
