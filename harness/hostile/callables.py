"""Bare pickles that call something: every kind of callable that scanners list, and other dangerous
ones. One row is one file.
"""

from __future__ import annotations

from typing import Any

from harness.hostile import CANARY, Family
from harness.hostile.opcodes import PROTO_2, PROTO_4, Call, Global, pickled
from harness.records.trials import Harm

SHELL = f": > {CANARY}"
SOURCE = f"open({CANARY!r}, 'w').close()"
_TOUCH = ["touch", CANARY]


def _of(module: str) -> Any:
    return Global("importlib", "import_module")(module)


def _attribute(of: Any, name: str) -> Call:
    return Global("builtins", "getattr")(of, name)


callables = Family("callables", "pickle", Harm.CODE)

PLAIN: dict[str, Any] = {
    "os-system": Global("os", "system")(SHELL),
    "posix-system": Global("posix", "system")(SHELL),
    "os-popen": Global("os", "popen")(SHELL),
    "subprocess-run": Global("subprocess", "run")(_TOUCH),
    "subprocess-popen": Global("subprocess", "Popen")(_TOUCH),
    "builtins-exec": Global("builtins", "exec")(SOURCE),
    "builtins-eval": Global("builtins", "eval")(SOURCE),
    "builtins-open": Global("builtins", "open")(CANARY, "w"),
    "runpy-run-code": Global("runpy", "_run_code")(SOURCE, {}),
}
"""Calls that every unpickler without a filter runs, on every system."""

OTHERS: dict[str, Any] = {
    "old-commands-getoutput": Global("commands", "getoutput")(SHELL),
    "os-execvp": Global("os", "execvp")("touch", _TOUCH),
    "importlib-import-module": _attribute(_of("os"), "system")(SHELL),
    "pkgutil-resolve-name": Global("pkgutil", "resolve_name")("os:system")(SHELL),
    "ctypes-cdll": _attribute(Global("ctypes", "CDLL")(None), "system")(SHELL.encode()),
    "code-interpreter": Global("code", "InteractiveInterpreter.runsource")(
        Global("code", "InteractiveInterpreter")(), SOURCE
    ),
    "bdb-run": Global("bdb", "Bdb.run")(Global("bdb", "Bdb")(), SOURCE),
    "cprofile-run": Global("cProfile", "run")(SOURCE),
    "timeit-timeit": Global("timeit", "timeit")(SOURCE, "", Global("time", "perf_counter"), 1),
    "pydoc-pipepager": Global("pydoc", "pipepager")("", SHELL),
    "pty-spawn": Global("pty", "spawn")(_TOUCH),
    "webbrowser": _attribute(Global("webbrowser", "GenericBrowser")("touch"), "open")(CANARY),
    "asyncio-subprocess": Global("asyncio", "run")(
        Global("asyncio", "create_subprocess_shell")(SHELL)
    ),
    "functools-partial": Global("functools", "partial")(Global("os", "system"), SHELL)(),
    "operator-attrgetter": Global("operator", "attrgetter")("system")(_of("os"))(SHELL),
    "io-fileio": Global("_io", "FileIO")(CANARY, "w"),
    "logging-filehandler": Global("logging", "FileHandler")(CANARY),
    "socket-bind": _attribute(Global("socket", "socket")(1, 1), "bind")(CANARY),
    "urllib-urlretrieve": Global("urllib.request", "urlretrieve")("file:///dev/null", CANARY),
    "imaplib-stream": Global("imaplib", "IMAP4_stream")(SHELL),
    "osx-support-read": Global("_osx_support", "_read_output")(SHELL),
    "venv-create": Global("venv", "EnvBuilder.create_configuration")(
        Global("venv", "EnvBuilder")(),
        Global("venv", "EnvBuilder.ensure_directories")(Global("venv", "EnvBuilder")(), CANARY),
    ),
    "idlelib-calltip": Global("idlelib.calltip", "get_entity")(SOURCE),
    "numpy-f2py-eval": Global("numpy.f2py.crackfortran", "myeval")(
        SOURCE, {"open": Global("builtins", "open")}
    ),
    "torch-save": Global("torch", "save")(0, CANARY),
    "torch-storage-from-file": Global("torch", "UntypedStorage.from_file")(CANARY, True, 8),
    "torch-exec-wrapper": Global("torch.jit.unsupported_tensor_ops", "execWrapper")(SOURCE, {}, {}),
    "torch-shape-env": Global(
        "torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression"
    )(None, SOURCE, []),
    "torch-basichandlers": Global("torch.utils.data.datapipes.utils.decoder", "basichandlers")(
        "pickle", pickled(Global("os", "system")(SHELL))
    ),
}


def _enter(name: str, value: Any, plain: bool) -> None:
    protocol = PROTO_4 if name in _ATTRIBUTES else PROTO_2
    callables.add(
        f"{name}.pkl",
        f"unpickling calls {name.replace('-', ' ')}",
        lambda _: pickled(value, protocol),
        plain=plain,
    )


def _dotted(value: Any) -> bool:
    """Return whether a value names an attribute of a module's attribute, for which protocol 4 is
    needed.
    """
    match value:
        case Global():
            return "." in value.name
        case Call():
            return _dotted(value.callable) or any(map(_dotted, value.arguments))
        case list() | tuple():
            return any(map(_dotted, value))
    return False


_ATTRIBUTES = {name for name, value in OTHERS.items() if _dotted(value)}
for _name, _value in (PLAIN | OTHERS).items():
    _enter(_name, _value, _name in PLAIN)


@callables.hostile_file("run-path.pkl")
def _run_path(_: object) -> dict[str, bytes]:
    """Unpickling runs a script in the same folder with runpy.run_path."""
    return {
        "run-path.pkl": pickled(Global("runpy", "run_path")("case/beside.py")),
        "beside.py": SOURCE.encode(),
    }


@callables.hostile_file("import-beside.pkl")
def _import_beside(_: object) -> dict[str, bytes]:
    """Unpickling adds the file's folder to the import path and imports a module from it."""
    path = Global("sys", "path.insert")(0, "case")
    return {
        "import-beside.pkl": pickled((path, _of("beside_it")), PROTO_4),
        "beside_it.py": SOURCE.encode(),
    }


@callables.hostile_file("pickle-loads.pkl")
def _pickle_loads(_: object) -> bytes:
    """Unpickling unpickles a second pickle, which the file holds as bytes."""
    return pickled(Global("pickle", "loads")(pickled(Global("os", "system")(SHELL))))
