"""The section on what other loaders say of themselves, beside what was measured here under a proved
cache state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from harness.analysis.arms import paired_ratios
from harness.analysis.run_cells import MeasuredCell
from harness.analysis.statistics import Estimate, estimate
from harness.records.sample import Sample
from harness.report.format import size_text, spread, time_text
from harness.report.section_writer import SectionWriter
from harness.report.tables import markdown
from harness.scenarios import FULL_LOAD


@dataclass(frozen=True)
class Headline:
    """A figure that a loader's makers lead with."""

    peer: str
    claim: str
    source: str
    over: str | None
    """The loader it is compared with; None where the figure is of nothing that is measured here."""
    under: tuple[str, ...]
    """The peer's own loaders here."""
    times: tuple[float, float] | None
    """How many times as long `over` is said to take, least and most."""
    device: str | None
    """The device it was said of, None where that is not told."""
    conditions: str
    """Those it was said under, and what they leave open."""


HEADLINES = (
    Headline(
        "fastsafetensors",
        "4.8 to 7.5 times as fast as safetensors, at up to 26.4 GB/s",
        "its README and arXiv 2505.23072",
        "safetensors-load-file",
        ("fastsafetensors", "fastsafetensors-buffered", "fastsafetensors-gds"),
        (4.8, 7.5),
        "cuda",
        "GPUs; its own benchmark evicts files without fsync and does not verify the eviction. "
        "Its documents write GB but mean GiB",
    ),
    Headline(
        "fastsafetensors",
        "GPT-2 at 2.62 GB/s against 1.01 GB/s by mapping",
        "its docs/amd-perf.md",
        "safetensors-load-file",
        ("fastsafetensors", "fastsafetensors-buffered"),
        (2.62 / 1.01, 2.62 / 1.01),
        "cuda",
        "one run of each, on an AMD GPU. In its own table, a cold read (1.24 GB/s) is faster "
        "than a warm mapped load (1.01 GB/s)",
    ),
    Headline(
        "runai-model-streamer",
        "Llama-3-8B (15 GB) in 14.34 s with 16 threads, against 47.99 s by safetensors, from one"
        " cloud disk",
        "its docs/src/benchmarks.md",
        "safetensors-load-file",
        ("runai-model-streamer", "runai-model-streamer-buffered"),
        (47.99 / 14.34, 47.99 / 14.34),
        "cuda",
        "an A10G and one cloud disk; single figures. It does not say how the cold start was made",
    ),
    Headline(
        "runai-model-streamer",
        "the same in 14.34 s against 16.11 s by tensorizer",
        "its docs/src/benchmarks.md",
        "tensorizer",
        ("runai-model-streamer", "runai-model-streamer-buffered"),
        (16.11 / 14.34, 16.11 / 14.34),
        "cuda",
        "as above",
    ),
    Headline(
        "tensorizer",
        "2.25 GiB/s (4.6 in plaid mode) from a local file, against 1.875 to 2.0 GiB/s by"
        " torch.load",
        "its README",
        "torch-load",
        ("tensorizer",),
        (2.25 / 2.0, 4.6 / 1.875),
        "cuda",
        "medians of release 2.5.0; the cache state was not controlled. Plaid mode was for GPUs "
        "and has no effect in the release measured here",
    ),
    Headline(
        "instanttensor",
        "Qwen3-30B in 1.77 s against 57.4 s by safetensors, 32.4 times",
        "its docs/benchmark.md",
        "safetensors-load-file",
        ("instanttensor", "instanttensor-buffered"),
        (32.4, 32.4),
        "cuda",
        "one H200 and storage of 50 GB/s; it does not say how many repetitions. From memory "
        "(tmpfs), the same document shows other fast loaders slower than safetensors",
    ),
    Headline(
        "torch.distributed.checkpoint",
        "no figure for loading. Its predecessor torchsnapshot claims to save 20 GB in 3.38 s "
        "instead of 32 s on 8 GPUs",
        "torchsnapshot's benchmarks/ddp/README",
        None,
        ("torch-dcp",),
        None,
        None,
        "saving is not measured here",
    ),
    Headline(
        "GGUF's reader",
        "no figure for the Python reader. llama.cpp itself claims 168 s instead of 512 s for a "
        "cold load through pinned memory",
        "llama.cpp's pull request 28223",
        None,
        ("gguf-reader",),
        None,
        None,
        "another reader of the same format, in another language, onto a GPU",
    ),
    Headline(
        "NumPy's .npz and mapped .npy",
        "no figure: the plain baselines",
        "none",
        None,
        ("numpy-npz", "numpy-npy-mmap"),
        None,
        None,
        "none",
    ),
)

_INTRODUCTION = """
The headline figures of other loaders' makers, and what was measured here. Every time below is a
median to *ready*. The cache state of each sample was proved before the load, and its content was
checked after it. A ratio is taken within blocks, with its 95 % interval. A difference does not make
the maker's figure wrong: storage, device and sizes differ, and each table says how.
""".strip()
_BASELINE = "safetensors-load-file"
_HEADS = [
    "checkpoint",
    "state",
    "on",
    "loader",
    "takes",
    "the other",
    "times as long",
    "compared with the claim",
    "run",
]


@dataclass(frozen=True)
class _Comparison:
    """One comparison of a peer with what it is compared with, in one cell; times in s."""

    run: str
    cell: MeasuredCell
    loader: str
    over: str
    takes: Estimate
    other: Estimate
    times: Estimate


def vendor_claims(writer: SectionWriter, runs: Mapping[str, Sequence[MeasuredCell]]) -> list[str]:
    """Return the page's blocks of Markdown.

    `runs` are the cells of each run, by its name, the latest last.
    """
    blocks = [writer.heading("What other loaders claim"), _INTRODUCTION]
    for peer in dict.fromkeys(headline.peer for headline in HEADLINES):
        blocks.append(writer.heading(peer, 2))
        for number, headline in enumerate(
            (headline for headline in HEADLINES if headline.peer == peer), 1
        ):
            blocks += _headline(writer, f"{peer}-{number}", headline, runs)
    return blocks


def _headline(
    writer: SectionWriter, name: str, headline: Headline, runs: Mapping[str, Sequence[MeasuredCell]]
) -> list[str]:
    over = headline.over or _BASELINE
    comparisons = [
        comparison for loader in headline.under for comparison in _newest(runs, loader, over)
    ]
    blocks = [f"**Said**: {headline.claim} ({headline.source}). **Under**: {headline.conditions}."]
    if not comparisons:
        names = " or ".join(headline.under)
        return [
            *blocks,
            (f"**Found here**: nothing. No run here has {names} together with {over}."),
        ]
    rows = [_row(comparison, headline) for comparison in comparisons]
    differing = (
        sorted({comparison.cell.device for comparison in comparisons} - {headline.device})
        if headline.device
        else []
    )
    where = (
        f" The claim is for {headline.device}; these figures are for {', '.join(differing)}."
        if differing
        else ""
    )
    file = writer.table(name, _frame(comparisons))
    return [
        *blocks,
        f"**Found here**, against {over}:{where}",
        markdown(pd.DataFrame(rows, columns=_HEADS)),
        f"As CSV: {file}",
    ]


def _newest(
    runs: Mapping[str, Sequence[MeasuredCell]], loader: str, over: str
) -> Iterator[_Comparison]:
    """Give the comparison of each cell from the newest run that has it, in the order of that run's
    cells.
    """
    newest: dict[str, _Comparison] = {}
    for run, cells in runs.items():
        newest |= {
            cell.name: comparison
            for cell in cells
            if cell.scenario == FULL_LOAD and (comparison := _compared(run, cell, loader, over))
        }
    yield from sorted(
        newest.values(),
        key=lambda entry: (
            entry.cell.device,
            entry.cell.bytes or 0,
            entry.cell.checkpoint,
            entry.cell.cache_state,
        ),
    )


def _compared(run: str, cell: MeasuredCell, loader: str, over: str) -> _Comparison | None:
    arm, other = cell.arm(loader), cell.arm(over)
    if not arm or not other or not arm.ready or not other.ready:
        return None
    above, below = (
        [sample for sample in cell.samples if _is(sample, name, arm.environment)]
        for name in (over, loader)
    )
    times = estimate(paired_ratios(above, below, lambda sample: sample.ready_s))
    return _Comparison(run, cell, loader, over, arm.ready, other.ready, times) if times else None


def _is(sample: Sample, loader: str, environment: str) -> bool:
    return (sample.loader, sample.environment) == (loader, environment)


def _row(comparison: _Comparison, headline: Headline) -> list[str]:
    cell = comparison.cell
    return [
        f"{cell.checkpoint}, {size_text(cell.bytes)}",
        cell.cache_state,
        cell.device,
        comparison.loader,
        time_text(comparison.takes.median),
        time_text(comparison.other.median),
        spread(comparison.times, "no pairs"),
        _beside(comparison.times, headline.times),
        comparison.run,
    ]


def _beside(estimate: Estimate, claimed: tuple[float, float] | None) -> str:
    """Return where an interval lies beside what is said."""
    if claimed is None:
        return "nothing is said"
    if estimate.low is None or estimate.high is None:
        return "insufficient"
    if estimate.high < claimed[0]:
        return "less" if estimate.high >= 1 else "slower than the other"
    return (
        "more"
        if estimate.low > claimed[1]
        else (
            "as said"
            if estimate.low >= claimed[0] and estimate.high <= claimed[1]
            else "not significantly different"
        )
    )


def _frame(comparisons: Sequence[_Comparison]) -> pd.DataFrame:
    """Return one row for each comparison: medians in s, the ratio with its interval and its number
    of pairs.
    """
    return pd.DataFrame(
        [
            {
                "run": comparison.run,
                "cell": comparison.cell.name,
                "bytes": comparison.cell.bytes,
                "loader": comparison.loader,
                "over": comparison.over,
                "ready_s": comparison.takes.median,
                "over_ready_s": comparison.other.median,
                "times": comparison.times.median,
                "times_low": comparison.times.low,
                "times_high": comparison.times.high,
                "pairs": comparison.times.count,
            }
            for comparison in comparisons
        ]
    )
