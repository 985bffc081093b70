"""Tables of what the code knows: loaders, checkpoints, storage, hostile files, injected faults."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec

from harness.analysis.regression import SAFE_COLD, SAFE_SHAPED, SAFE_WARM
from harness.analysis.simulated_runs import LEAST
from harness.checkpoints.layouts import LAYOUTS
from harness.documentation.tables import code, table
from harness.hostile import corpus, family_names
from harness.loaders import (
    CONVERTER,
    EVERYTHING,
    MODEL,
    PART,
    SCANNER,
    SHARE,
    Contract,
    all_loaders,
)
from harness.loaders.contracts import DEVICES
from harness.machine.confinement import Limits
from harness.machine.shapes import EXAMPLE, SHAPES
from harness.records.cell import MINIMUM_BLOCKS
from harness.records.limits import BUSY_AT_MOST
from harness.scenarios import AS_IS, CACHE_STATES
from harness.selftest import run_faults, sample_faults, storage_faults
from harness.workers.sandbox_client import TIMEOUT_S

_DESCRIPTIONS = Path(__file__).with_name("loaders.toml")
FAULTS = (*sample_faults.FAULTS, *run_faults.FAULTS, *storage_faults.FAULTS)


def loaders() -> str:
    """Return a table of the loaders of whole checkpoints and of models."""
    return _loaders((EVERYTHING, MODEL))


def part_loaders() -> str:
    """Return a table of the loaders of parts and of one rank's share."""
    return _loaders((PART, SHARE))


def tools() -> str:
    """Return a table of the converters and scanners, which are no loaders."""
    return _loaders((CONVERTER, SCANNER))


def ceilings() -> str:
    """Return a table of the ceilings of whole checkpoints."""
    rows = [
        (f"`{loader.name}`", _calls(loader, module))
        for module, loader in all_loaders(EVERYTHING).values()
        if loader.ceiling
    ]
    return table(("ceiling", "what it does"), rows)


def checkpoints() -> str:
    """Return a table of the built-in checkpoints, smallest first."""
    layouts = sorted((make() for make in LAYOUTS.values()), key=lambda layout: layout.bytes)
    rows = [
        (f"`{layout.name}`", f"{layout.bytes / 1e6:,.0f} MB", f"{len(layout.tensors):,}")
        for layout in layouts
    ]
    return table(("checkpoint", "size", "tensors"), rows)


def storages() -> str:
    """Return a table of the storage that `--storage` names."""
    rows = [(f"`{AS_IS}`", "the file system as it is (the default)")]
    rows += [(f"`{name}`", shape.words) for name, shape in SHAPES.items()]
    rows.append(("your own", f"`{EXAMPLE}`, or `requests=300,rate=125MB/s`"))
    return table(("name", "what it is"), rows)


def families() -> str:
    """Return a table of the families of hostile files."""
    files = corpus()
    counts = Counter(file.family for file in files)
    first = {file.family: file for file in reversed(files)}
    rows = [
        (f"`{name}`", str(counts[name]), first[name].harm, first[name].says)
        for name in family_names()
    ]
    return table(("family", "files", "harm", "the first of them"), rows)


def faults() -> str:
    """Return a table of the injected faults that the self-test must detect."""
    rows = [
        (f"`{fault.__name__.replace('_', '-')}`", (inspect.getdoc(fault) or "").split("\n\n")[0])
        for fault in FAULTS
    ]
    return table(("fault", "what is wrong"), rows)


def numbers() -> dict[str, str]:
    """Return limits and defaults that pages quote, by name."""
    limits = Limits()
    return {
        "sandbox-memory": f"{limits.memory >> 20} MiB",
        "sandbox-time": f"{TIMEOUT_S:g} s",
        "least-threshold": f"{100 * LEAST:.0f} %",
        "safe-warm": f"{100 * SAFE_WARM:.0f} %",
        "safe-cold": f"{100 * SAFE_COLD:.0f} %",
        "safe-shaped": f"{100 * SAFE_SHAPED:.0f} %",
        "busy-at-most": f"{100 * BUSY_AT_MOST:.0f} %",
        "minimum-blocks": str(MINIMUM_BLOCKS),
    }


def hostile_files() -> str:
    """Return how many hostile files there are."""
    return str(len(corpus()))


def hostile_families() -> str:
    """Return how many families of hostile files there are."""
    return str(len(family_names()))


def fault_count() -> str:
    """Return how many faults are injected."""
    return str(len(FAULTS))


def _loaders(kinds: Iterable[str]) -> str:
    """Return a table of loaders: those that are described first, in the order of their file."""
    place = {name: number for number, name in enumerate(_descriptions())}
    entries = [entry for kind in kinds for entry in all_loaders(kind).values()]
    entries.sort(key=lambda entry: place.get(entry[1].name, len(place)))
    rows = [
        (
            f"`{loader.name}`",
            _calls(loader, module),
            loader.format,
            _where(loader),
            code([loader.extra]) if loader.extra else "",
        )
        for module, loader in entries
        if not loader.ceiling
    ]
    return table(("loader", "what it calls", "format", "where", "extra"), rows)


@cache
def _descriptions() -> dict[str, str]:
    return msgspec.convert(tomllib.loads(_DESCRIPTIONS.read_text("utf-8")), dict[str, str])


def _calls(loader: Contract, module: str) -> str:
    """Return what a loader calls; of one that is not described, what its module says of itself."""
    doc = inspect.getdoc(importlib.import_module(module)) or ""
    return _descriptions().get(loader.name) or doc.partition("\n\n")[0]


def _where(loader: Contract) -> str:
    """Return the devices and cache states of a loader that does not take part everywhere."""
    devices = [] if loader.devices == DEVICES else [*loader.devices]
    states = [] if loader.cache_states == CACHE_STATES else [*loader.cache_states]
    only = [{"cuda": "GPU", "cpu": "CPU"}.get(name, name) for name in (*devices, *states)]
    return f"{', '.join(only)} only" if only else ""
