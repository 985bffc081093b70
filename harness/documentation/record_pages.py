"""What a run's files hold, field by field, from the records' own definitions and docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import ModuleType

from harness.documentation.tables import table
from harness.records import checks, manifest, sample, trials
from harness.records.sample import REASONS
from harness.records.trials import Outcome
from harness.records.verdicts import MEANING

_OUTCOMES = {
    Outcome.REFUSED: "it raised an error",
    Outcome.LOADED: "it handed something back",
    Outcome.RAN: "a payload ran and left the canary",
    Outcome.CRASHED: "a signal ended its process",
    Outcome.STARVED: "it reached the memory limit",
    Outcome.HUNG: "it reached the time limit",
}


def sample_fields() -> str:
    """Return a table of the fields of a sample."""
    return _fields(sample, "Sample")


def trial_fields() -> str:
    """Return a table of the fields of a trial."""
    return _fields(trials, "Trial")


def check_fields() -> str:
    """Return a table of the fields of a check."""
    return _fields(checks, "Check")


def manifest_parts() -> str:
    """Return a table of the parts of a manifest that have fields of their own."""
    tree = ast.parse(inspect.getsource(manifest))
    rows = [
        (node.name.removesuffix("Record"), _first_line(ast.get_docstring(node)), _names(node))
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    ]
    return table(("part", "what it is", "fields"), rows)


def reasons() -> str:
    """Return a table of the reasons for which a sample is invalid."""
    return table(
        ("reason", "what it means"), [(f"`{name}`", text) for name, text in REASONS.items()]
    )


def outcomes() -> str:
    """Return a table of how a trial can end."""
    rows = [(f"`{outcome}`", _OUTCOMES[outcome]) for outcome in Outcome]
    return table(("outcome", "of a loader"), rows)


def regression_exit_codes() -> str:
    """Return a table of the exit codes of a regression check."""
    codes = {**MEANING, 2: "it cannot be done as asked"}
    return table(("exit code", "what it means"), [(str(n), codes[n]) for n in sorted(codes)])


def _fields(module: ModuleType, name: str) -> str:
    return table(("field", "type", "what it is"), list(_documented(module, name)))


def _documented(module: ModuleType, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, type and docstring of each field of a class.

    A field without a docstring of its own is left to its name.
    """
    tree = ast.parse(inspect.getsource(module))
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ast.unparse(node.annotation).replace(" | None", " or null")
            yield f"`{node.target.id}`", text, _docstring(after)


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return inspect.cleandoc(str(node.value.value))
    return ""


def _names(node: ast.ClassDef) -> str:
    return ", ".join(
        f"`{field.target.id}`"
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )


def _first_line(doc: str | None) -> str:
    return " ".join((doc or "").partition("\n\n")[0].split())
