"""The help of every command and the options of a run, from the parsers themselves.

What `argparse` prints differs between releases of Python, so the pages are written from its
arguments and not from its text.
"""

from __future__ import annotations

import argparse
import ast
import importlib
from collections.abc import Iterable
from pathlib import Path

from harness.cli import COMMANDS
from harness.documentation.tables import table
from harness.run.options import FLAGS, PROFILES


def commands() -> str:
    """Return the help of every command, one after another."""
    return "\n\n".join(_command(name, text) for name, text in COMMANDS.items())


def command_list() -> str:
    """Return a table of every command with what it does."""
    rows = [(f"[`{name}`](commands.md#{name})", text) for name, text in COMMANDS.items()]
    return table(("command", "what it does"), rows)


def options() -> str:
    """Return a table of the options of a run."""
    parser = argparse.ArgumentParser()
    for flag, keywords in FLAGS.items():
        parser.add_argument(flag, **keywords)
    return table(("option", "what it does"), _rows(_arguments(parser)))


def profiles() -> str:
    """Return a table of the profiles: what each takes on, for how long."""
    rows = [
        (f"`{name}`", profile.measures, f"{profile.total_s / 60:.0f} minutes", str(profile.blocks))
        for name, profile in PROFILES.items()
    ]
    return table(("profile", "what it measures", "about", "blocks of a cell at most"), rows)


def sessions(noxfile: Path) -> str:
    """Return a table of nox's sessions, from the functions of a noxfile."""
    tree = ast.parse(noxfile.read_text(encoding="utf-8"))
    rows = [
        (f"`nox -s {_session_name(node)}`", (ast.get_docstring(node) or "").partition("\n\n")[0])
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and _session_name(node)
    ]
    return table(("session", "what it does"), rows)


def _session_name(function: ast.FunctionDef) -> str | None:
    for decorator in function.decorator_list:
        text = ast.unparse(decorator)
        if text == "nox.session":
            return function.name
        if text.startswith("nox.session(") and isinstance(decorator, ast.Call):
            names = [word.value for word in decorator.keywords if word.arg == "name"]
            return str(ast.literal_eval(names[0])) if names else function.name
    return None


def _command(name: str, text: str) -> str:
    parser = argparse.ArgumentParser(prog=f"weighbridge {name}")
    importlib.import_module(f"harness.commands.{name}").add_arguments(parser)
    arguments = _arguments(parser)
    usage = parser.usage or " ".join([parser.prog, *map(_usage, arguments)])
    parts = [f"### {name}", f"{text[:1].upper()}{text[1:]}.", f"    {usage}"]
    if arguments:
        parts.append(table(("argument", "what it is"), _rows(arguments)))
    return "\n\n".join(parts)


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.dest != "help"]


def _rows(arguments: Iterable[argparse.Action]) -> list[tuple[str, str]]:
    return [
        (f"`{_spelt(argument)}`", (argument.help or "") % vars(argument)) for argument in arguments
    ]


def _spelt(argument: argparse.Action) -> str:
    """Return an argument as it is typed, by its first name, with what stands for its value."""
    if not argument.option_strings:
        return _value(argument)
    return " ".join(filter(None, (argument.option_strings[0], _value(argument))))


def _value(argument: argparse.Action) -> str:
    if argument.nargs == 0:
        return ""
    if argument.choices is not None:
        return "|".join(map(str, argument.choices))
    name = argument.metavar or argument.dest.upper()
    return name if isinstance(name, str) else " ".join(name)


def _usage(argument: argparse.Action) -> str:
    many = " ..." if argument.nargs in ("+", "*", argparse.REMAINDER) else ""
    needed = argument.required and argument.nargs != "*"
    text = f"{_spelt(argument)}{many}"
    return text if needed else f"[{text}]"
