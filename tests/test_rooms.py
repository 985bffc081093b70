"""The house's plan: data moves one way, and a lower room never imports a higher one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers import ROOT

ROOMS = ("errors", "machine", "checkpoints", "hostile", "loaders", "measure", "records", "verdicts", "report")
"""From the ground up; what is in none of them is above all."""


def _imported(module: Path) -> set[str]:
    """Return the rooms that a module imports from, wherever in it."""
    imports = [node for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {(node.module or "").split(".")[1] for node in imports if (node.module or "").startswith("harness.")}


@pytest.mark.parametrize("room", ROOMS[1:])
def test_a_room_imports_nothing_from_above_it(room: str) -> None:
    below = set(ROOMS[: ROOMS.index(room) + 1])
    modules = sorted((ROOT / "harness" / room).glob("**/*.py"))
    assert modules
    assert {module.name: found - below for module in modules if (found := _imported(module)) - below} == {}
