"""Each scenario once: what a run asks of its loaders, and how pages and tables speak of it.

A new scenario is an entry here, a plan in `benchmarks/`, and a module in `harness/report/sections/`
named after it, whose `section` writes its part of a run's page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

CacheState = Literal["cold", "warm"]
"""Whether a checkpoint's pages are in the page cache when its load begins: none, or all."""
CACHE_STATES: tuple[CacheState, ...] = get_args(CacheState)
AS_IS = "as-is"
"""The storage of a cell that is not shaped: the file system as it is."""

FULL_LOAD, PARTIAL_LOAD, SHARDED_LOAD, PIPELINE_LOAD = (
    "full-load",
    "partial-load",
    "sharded-load",
    "pipeline-load",
)
PROCESS_START, CONVERSION, SCAN = "process-start", "conversion", "scan"
STORAGE = "storage"
MEMORY_LIMIT = "memory-limit"
PARTS = ("one-tensor", "one-layer", "every-8th-tensor", "eighth-rows", "eighth-columns")
"""What a partial load asks for, in the order of its tables."""
LIMIT, WHOLE_PROCESS, STAYS, MODEL_STAYS, WORKERS = MEMORY_PARTS = (
    "limit",
    "whole-process",
    "what-stays",
    "what-a-model-leaves",
    "workers",
)
"""What is asked about memory: the smallest limit that a load needs, and a whole process; what stays
after a load, of tensors and of a model; and what processes that each load everything share.
"""
SEARCHED = (LIMIT, WHOLE_PROCESS)
"""Those whose samples are tries under a limit."""
STAYS_PARTS = (STAYS, MODEL_STAYS)
"""Those whose samples tell what a load leaves."""
HOSTILE_FILES, HOSTILE_SCAN = HOSTILE_SCENARIOS = ("hostile-files", "hostile-scan")
"""The scenarios of a trial: a hostile file given to a loader, and to a scanner."""


@dataclass(frozen=True)
class Pair:
    """The two loaders that stand for a scenario where only one ratio is shown."""

    reference: str
    """Every ratio of the scenario is taken to this loader."""
    compared: str


@dataclass(frozen=True)
class Scenario:
    """One question that a run asks."""

    name: str
    title: str
    """The heading of its section."""
    pair: Pair
    pair_of: Mapping[str, Pair] = field(default_factory=dict)
    """The pair of a checkpoint that has another than its scenario."""
    situation: str | None = None
    """How the recommendation names it, None where it recommends nothing."""
    shows_returned: bool = False
    """Whether the summary also shows the ratio of `returned`: only where it can differ from
    `ready`.
    """

    figures: tuple[str, ...] = ()
    """How the file names of its figures begin on the index page, under its title."""

    def pair_for(self, checkpoint: str) -> Pair:
        """Return the pair that stands for a checkpoint's cells."""
        return self.pair_of.get(checkpoint, self.pair)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            FULL_LOAD,
            "Loading everything",
            Pair("safetensors-load-file", "torch-load"),
            situation="all of it",
            shows_returned=True,
        ),
        Scenario(
            PARTIAL_LOAD,
            "Loading a part",
            Pair("safetensors-get-slice", "torch-load"),
            situation="a part of it",
        ),
        Scenario(
            SHARDED_LOAD,
            "One share per rank",
            Pair("safetensors-get-slice", "torch-load"),
            situation="each rank its share",
            figures=("ranks",),
        ),
        Scenario(
            PIPELINE_LOAD,
            "Whole pipelines and models",
            Pair("diffusers-safetensors", "diffusers-bin"),
            pair_of={"gpt2": Pair("transformers-safetensors", "transformers-bin")},
            situation="a whole pipeline",
            figures=("pipeline",),
        ),
        Scenario(
            PROCESS_START,
            "From the command line to weights",
            Pair("safetensors-load-file", "torch-load"),
            figures=("process-start",),
        ),
        Scenario(
            STORAGE,
            "Storage",
            Pair("safetensors-load-file", "safetensors-pread"),
            figures=("storage",),
        ),
        Scenario(
            MEMORY_LIMIT,
            "Memory",
            Pair("safetensors-load-file", "torch-load"),
            figures=("memory-limit",),
        ),
        Scenario(CONVERSION, "Conversion", Pair("file-copy", "convert")),
        Scenario(
            HOSTILE_FILES,
            "Hostile files",
            Pair("safetensors-load-file", "torch-load"),
            figures=("hostile-files", "scan-time"),
        ),
        Scenario(SCAN, "Scanners", Pair("torch-load", "picklescan")),
    )
}
"""Every scenario by name, in the order of a page's sections."""


def pair_for(scenario: str, checkpoint: str) -> Pair:
    """Return the pair that stands for a cell.

    A scenario that is not listed has that of the full load.
    """
    return SCENARIOS.get(scenario, SCENARIOS[FULL_LOAD]).pair_for(checkpoint)
