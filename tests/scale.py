"""How long a report of very many samples takes, and how much memory: samples made up for the
purpose, which no run ever took.

`python -m tests.scale [SAMPLES]` writes them to a temporary folder, makes their report in a fresh
process, and leaves nothing behind. Exit 1 where that takes more than `SECONDS` or `BYTES`.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.records.run_directory import SAMPLES, RunDirectory
from harness.records.sample import SCHEMA
from tests.helpers import ROOT, make_sample

SECONDS, BYTES = 60.0, 2_000_000_000
NAME = "20250101T000000Z-made-up"
CHECKPOINTS = {
    "lora-1000": (4_096_000, 2000),
    "gpt2": (497_759_232, 148),
    "llama-3.2-1b": (2_471_645_184, 146),
}
LOADERS = {
    "ceiling-read": 0.2,
    "ceiling-copy": 0.1,
    "safetensors-load-file": 0.12,
    "safetensors-pread": 0.25,
    "safetensors-safe-open": 0.13,
    "safetensors-load-bytes": 0.4,
    "torch-load": 0.45,
    "torch-load-mmap": 0.14,
    "pickle-load": 0.9,
    "fastsafetensors": 0.3,
}
"""Each loader's s per GB, warm; cold, every one of them waits for the same storage as well."""
_REPORT = (
    "import sys; from pathlib import Path; from harness.records.run_directory import RunDirectory;"
    " from harness.report.run_page import write_run_report;"
    " write_run_report(RunDirectory(Path(sys.argv[1])))"
)


def lines(count: int) -> Iterator[str]:
    """Give the lines of `count` made-up samples, block by block of each cell, a few of them
    invalid.
    """

    source = random.Random(0)
    form = make_sample(run=NAME, scenario="full-load").as_json()
    cells = list(itertools.product(CHECKPOINTS, ("cold", "warm")))
    blocks = -(-count // (len(cells) * len(LOADERS)))
    made = ((*cell, block) for cell in cells for block in range(blocks))
    for checkpoint, state, block in itertools.islice(made, -(-count // len(LOADERS))):
        size, tensors = CHECKPOINTS[checkpoint]
        for position, loader in enumerate(source.sample(list(LOADERS), len(LOADERS))):
            per_gb = LOADERS[loader] + (0.5 if state == "cold" else 0.0)
            ready = (1e-3 + 2e-6 * tensors + size / 1e9 * per_gb) * source.lognormvariate(0, 0.05)
            valid = source.random() > 0.002
            line = form | {
                "checkpoint": checkpoint,
                "bytes": size,
                "tensors": tensors,
                "loader": loader,
                "cache_state": state,
                "block": block,
                "position": position,
                "returned_s": ready * source.uniform(0.2, 0.9),
                "ready_s": ready,
                "cpu_s": ready * 0.8,
                "touch_s": size / 1e9 * 0.01,
                "check_s": size / 1e9 * 0.3,
                "prepare_s": source.uniform(0.2, 0.3),
                "sample_s": ready * 3 + 0.1,
                "resident_before": float(state == "warm"),
                "storage_read_bytes": size if state == "cold" else 0,
                "minor_faults": source.randrange(10_000),
                "major_faults": source.randrange(10),
                "peak_rss_bytes": size + source.randrange(10**8),
                "peak_growth_bytes": size + source.randrange(10**7),
                "anonymous_bytes": size + source.randrange(10**7),
                "mapped_bytes": source.randrange(10**7),
                "valid": valid,
                "reason": None if valid else "storage-read",
                "started_at": f"2025-01-{1 + block % 28:02}T{position:02}:00:00.000+00:00",
            }
            yield json.dumps(line)


def main(count: int) -> int:
    """Measure, print what was found, and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-scale-") as folder:
        run = RunDirectory(Path(folder, NAME))
        run.make()
        run.write_manifest(
            {
                "schema": SCHEMA,
                "run": NAME,
                "note": "made up to measure the report; nothing was measured",
            }
        )
        with (run.path / SAMPLES).open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in itertools.islice(lines(count), count))
        begun = time.perf_counter()
        ended = subprocess.run([sys.executable, "-c", _REPORT, run.path], cwd=ROOT, check=False)
        seconds = time.perf_counter() - begun
        figures = sum(path.stat().st_size for path in run.path.rglob("*.svg"))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak, worked = spent.ru_maxrss * 1024, spent.ru_utime + spent.ru_stime
    print(
        f"{count:,} made-up samples: {seconds:.1f} s of {SECONDS:.0f}, {worked:.1f} s of them the"
        f" processor's; {peak / 1e9:.2f} GB of {BYTES / 1e9:.0f}; figures of {figures / 1e6:.1f} MB"
    )
    return 1 if ended.returncode or seconds > SECONDS or peak > BYTES else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
