"""The plan of the house: who may import whom."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tests.helpers import ROOT

GROUND = ("errors", "console", "atomic_write", "scenarios", "records")
"""Plain data and what it is written with; every room may read it."""
READ = (*GROUND, "analysis", "report")
"""The tower that reads records, from the ground up."""
MADE_BY = (
    "machine",
    "checkpoints",
    "hostile",
    "loaders",
    "workers",
    "measure",
    "run",
    "regression",
    "selftest",
)
"""The tower that makes records, from the ground up."""
MAKE = (*GROUND, "analysis", *MADE_BY)
"""It may ask `analysis`, which is pure functions over records: a run stops when its ratios are
known.
"""

ALL = (*GROUND, "analysis", "report", *MADE_BY, "commands", "cli", "documentation")
HEAVY = {"torch", "safetensors"}


def imports_of(module: Path) -> set[str]:
    """Return what a module imports, wherever in it, by full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: import by full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules_of(room: str, harness: Path) -> list[Path]:
    """Return the modules of a room, which is a folder or a file."""
    return sorted((harness / room).rglob("*.py")) or [harness / f"{room}.py"]


def rooms_of(module: Path) -> set[str]:
    """Return the rooms that a module imports from."""
    return {name.split(".")[1] for name in imports_of(module) if name.startswith("harness.")}


def forbidden(room: str, harness: Path) -> dict[str, set[str]]:
    """Return what a room's modules import from a room that they may not, by module."""
    order = READ if room in READ else MAKE if room in MAKE else ALL
    allowed = set(order[: order.index(room) + 1])
    if room == "commands":
        allowed.add("cli")  # the version that a command tells
    wrong = {
        module.name: rooms_of(module) & set(ALL) - allowed for module in modules_of(room, harness)
    }
    return {name: rooms for name, rooms in wrong.items() if rooms}


def cycles(harness: Path) -> list[str]:
    """Return the modules that import themselves by way of others when they are imported."""
    arrows = {
        ".".join(module.relative_to(harness.parent).with_suffix("").parts): module
        for module in harness.rglob("*.py")
    }
    reach: dict[str, set[str]] = {}
    for name, module in arrows.items():
        top = ast.Module(
            [n for n in ast.parse(module.read_text()).body if isinstance(n, ast.ImportFrom)], []
        )
        targets = {
            f"{n.module}.{a.name}"
            for n in top.body
            if isinstance(n, ast.ImportFrom)
            for a in n.names
        }
        reach[name] = {t if t in arrows else t.rpartition(".")[0] for t in targets} & set(arrows)
    for middle in reach:
        for start in reach:
            if middle in reach[start]:
                reach[start] |= reach[middle]
    return [name for name in reach if name in reach[name]]


@pytest.mark.parametrize("room", ALL)
def test_a_room_imports_nothing_from_above(room: str) -> None:
    assert forbidden(room, ROOT / "harness") == {}


@pytest.mark.parametrize("room", ["records", "analysis", "report"])
def test_the_reading_tower_needs_no_torch(room: str) -> None:
    imported = {
        name.split(".")[0]
        for module in modules_of(room, ROOT / "harness")
        for name in imports_of(module)
    }
    assert imported & HEAVY == set()


def test_every_room_has_its_place() -> None:
    there = {
        path.stem for path in (ROOT / "harness").iterdir() if path.suffix == ".py" or path.is_dir()
    }
    assert there - {"__init__", "__main__", "__pycache__"} == set(ALL)


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert cycles(ROOT / "harness") == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("records/sample.py", "from harness.measure.blocks import Limits"),
        ("analysis/arms.py", "from harness.loaders import all_loaders"),
        ("report/format.py", "from harness.machine.busy import Meter"),
        ("workers/client.py", "from harness.run.options import parse"),
        ("machine/lock.py", "from harness.report.format import spread"),
    ],
)
def test_a_injected_import_from_above_is_found(module: str, line: str, tmp_path: Path) -> None:
    harness = tmp_path / "harness"
    shutil.copytree(ROOT / "harness", harness, ignore=shutil.ignore_patterns("__pycache__"))
    injected = harness / module
    injected.write_text(f"{injected.read_text()}\n\ndef _planted() -> None:\n    {line}\n")
    assert forbidden(module.split("/")[0], harness)
