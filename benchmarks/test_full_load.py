"""Full load: every tensor of a checkpoint brought up by every loader, cold and warm, across
sizes.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import Arm, replay
from harness.loaders import all_loaders
from harness.records.cell import Cell
from harness.run.options import Options, flat

SCENARIO = "full-load"
CHECKPOINTS = {
    "smoke": ("lora-1000", "all-minilm-l6-v2"),
    "default": ("lora-1000", "all-minilm-l6-v2", "gpt2", "bloom-560m"),
    "full": (
        "lora-1000",
        "all-minilm-l6-v2",
        "gpt2",
        "bloom-560m",
        "llama-3.2-1b",
        "mistral-7b-v0.1",
    ),
    "gpu-short": ("gpt2", "llama-3.2-1b", "bloom-560m"),
}
_PAIRS = ("torch-load", "torch-load-mmap", "safetensors-load-file", "safetensors-pread")
_PEERS = (
    "fastsafetensors",
    "fastsafetensors-buffered",
    "runai-model-streamer",
    "runai-model-streamer-buffered",
    "tensorizer",
    "gguf-reader",
)
STRAIGHT_AND_BY_THE_CPU = (
    "torch-load",
    "torch-load-then-to",
    "safetensors-load-file",
    "safetensors-load-file-then-to",
)
"""What the claim about GPUs is judged by: each format straight to the device, and by way of the
processor's memory.
"""

_OTHER_WAYS = (
    "safetensors-pinned",
    "safetensors-staged",
    "safetensors-eager-then-to",
    "safetensors-prefetch",
)
GPU_SHORT_ARMS = {
    "gpt2": (*STRAIGHT_AND_BY_THE_CPU, *_OTHER_WAYS),
    "llama-3.2-1b": (*STRAIGHT_AND_BY_THE_CPU, *_OTHER_WAYS),
    "bloom-560m": (
        "torch-load",
        "safetensors-load-file",
        *_PEERS,
        "instanttensor",
        "instanttensor-buffered",
    ),
}
"""The profile of a short loan of a GPU: the claim and the other ways at two sizes, then the other
libraries at a third.
"""

FEWER_ARMS = {
    ("default", "lora-1000"): (*_PAIRS, "safetensors-safe-open", "safetensors-load-bytes"),
    ("default", "gpt2"): (*_PAIRS, *_PEERS),
    ("default", "bloom-560m"): _PAIRS,
    **{("smoke", name): _PAIRS for name in CHECKPOINTS["smoke"]},
}
"""Where a profile's time would not reach for every loader on the CPU: the two formats, each mapped
and read, and at the claim's size other libraries.
"""


def plan(options: Options) -> dict[Cell, tuple[str, ...]]:
    """Return the cells of this scenario with their arms, smallest checkpoint first."""
    named = (
        options.checkpoints
        if options.checkpoints is not None
        else CHECKPOINTS.get(options.profile, ())
    )
    cells = {
        Cell(SCENARIO, checkpoint, cache_state, device, **conditions): options.arms(
            all_loaders(), device, cache_state, _usual(options.profile, checkpoint, device)
        )
        for device in options.devices()
        for checkpoint in (*flat(named), *options.model_names())
        for cache_state, conditions in options.states()
    }
    return {cell: arms for cell, arms in cells.items() if arms}


def _usual(profile: str, checkpoint: str, device: str) -> tuple[str, ...] | None:
    """Return the loaders that a cell has where the person names none; None for all there are."""
    if profile == "gpu-short":
        return GPU_SHORT_ARMS.get(checkpoint)
    return FEWER_ARMS.get((profile, checkpoint)) if device == "cpu" else None


def test_full_load(arm: Arm, benchmark: BenchmarkFixture) -> None:
    replay(arm, benchmark)
