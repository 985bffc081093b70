"""Environments under test: each a virtual environment with the reference's pins, but for what was
asked to be another release.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import WeighbridgeError

ROOT = Path(__file__).parents[2]
PINS, PEERS = ROOT / "requirements/reference.txt", ROOT / "requirements/loaders.txt"
UNDER_TEST = ("torch", "safetensors", "numpy", "packaging")
"""What an environment under test always holds: safetensors 0.7.0 imports packaging and does not ask
for it. A loader of another library brings the peers' pins with it.
"""

_RECEIPT = "environment.json"
_NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_GPU_BUILD = ("nvidia-", "cuda-")
_TOLD_LINES = 8


class CannotInstallError(WeighbridgeError):
    """An environment cannot be installed; the message says what pip said."""


@dataclass(frozen=True)
class EnvironmentRequest:
    """What an environment is asked to hold: requirements in place of the reference's pins, and a
    source tree to install on top.
    """

    name: str
    requirements: tuple[str, ...] = ()
    path: Path | None = None
    copy: int = 0
    """Tells apart environments that hold the same, each installed by itself."""


@dataclass(frozen=True)
class Environment:
    """An installed environment: the name it has in a run, its interpreter, and what of it is not
    the reference's.
    """

    name: str
    python: str
    requirements: tuple[str, ...] = ()
    installed: tuple[str, ...] = ()
    """Everything it was installed from that was asked for by name, the reference's pins included;
    nothing where it was not installed here.
    """


class Environments:
    """The folder that environments are installed in, each once.

    `say` is told what is being installed.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], *, peers: bool) -> None:
        self._folder, self._say, self._peers = folder, say, peers
        for pins in (PINS, PEERS):
            if not pins.is_file():
                raise WeighbridgeError(
                    f"no {pins.name} beside the harness: environments are made from its pins; run"
                    " this in a clone of the project"
                )

    def install(self, request: EnvironmentRequest) -> Environment:
        """Return an environment, installed unless it lies there already.

        Raises `CannotInstallError`.

        One that holds a source tree is installed anew every time, because the tree may have
        changed.
        """
        pins = _pins(PINS)
        requirements = tuple(
            requirement for requirement in request.requirements if requirement not in pins.values()
        )
        named = {distribution(requirement) for requirement in requirements}
        target = [*requirements, *(pins[name] for name in UNDER_TEST if name not in named)]
        peers = (
            [line for name, line in _pins(PEERS).items() if name not in named]
            if self._peers
            else []
        )
        what = [sys.version, *sorted(target), *peers, str(request.path or ""), str(request.copy)]
        digest = hashlib.sha256("\n".join(what).encode()).hexdigest()[:10]
        folder = self._folder / f"{_slug(requirements)}-{digest}"
        python = folder / "bin" / "python"
        if request.path or not (folder / _RECEIPT).exists():
            shutil.rmtree(
                folder, ignore_errors=True
            )  # without a receipt it is what an installation that failed has left
            self._say(f"installing the environment {request.name}: {', '.join(target)}")
            self._folder.mkdir(parents=True, exist_ok=True)
            _run([sys.executable, "-m", "venv", str(folder)], request.name)
            others = [
                line for name, line in pins.items() if name not in named and name not in UNDER_TEST
            ]
            constraints = folder / "constraints.txt"
            constraints.write_text(
                "" if "torch" in named else "\n".join(others) + "\n", encoding="utf-8"
            )
            _pip(python, request.name, "-c", str(constraints), *target)
            if peers:
                _pip(python, request.name, "--no-deps", "--only-binary", ":all:", *peers)
            if request.path:
                _pip(python, request.name, "--no-deps", str(request.path.resolve()))
            (folder / _RECEIPT).write_text(
                json.dumps({"requirements": target}) + "\n", encoding="utf-8"
            )
        return Environment(
            request.name, str(python), request.requirements, () if request.path else tuple(target)
        )

    def newest(self) -> tuple[tuple[str, ...], str | None]:
        """Return the newest releases of torch and safetensors as requirements, pre-releases
        included, and what was left at its pin and why.

        A torch that brings libraries of a GPU where the reference's does not is another build and
        no newer release of the same.
        """
        reasons = self._resolve(("torch", "safetensors"))
        reference = self._resolve((_pins(PINS)["torch"],))
        newest = {name: f"{name}=={reasons[name]}" for name in ("torch", "safetensors")}
        if (
            newest["torch"] != _pins(PINS)["torch"]
            and _for_gpu(reasons)
            and not _for_gpu(reference)
        ):
            left = (
                f"torch {reasons['torch']} is not used: it is a build for GPUs, and the"
                f' reference\'s is not; --candidate "torch=={reasons["torch"]}" uses it anyway'
            )
            return (newest["safetensors"],), left
        return tuple(newest.values()), None

    def _resolve(self, requirements: Sequence[str]) -> dict[str, str]:
        """Return the version of every distribution that pip would install for these
        requirements.
        """
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--pre",
            "--quiet",
            "--report",
            "-",
        ]
        self._say(f"asking which release is the newest of {', '.join(requirements)}")
        text = _run(
            [*command, "--no-input", "--disable-pip-version-check", *requirements],
            "of the newest releases",
        )
        return {
            _canonical(entry["metadata"]["name"]): entry["metadata"]["version"]
            for entry in json.loads(text)["install"]
        }


def refuse_other_versions(environment: Environment, versions: Mapping[str, str | None]) -> None:
    """Raise `WeighbridgeError` where a process of an environment has imported another release than
    was installed in it.
    """
    for requirement in environment.installed:
        name, exact, version = requirement.partition("==")
        reason = versions.get(distribution(name))
        if exact and reason and reason.partition("+")[0] != version.partition("+")[0].strip():
            raise WeighbridgeError(
                f"the environment {environment.name} was to hold {requirement}, and what is"
                f" imported in it is {reason}: something else comes first in its path; look at"
                " PYTHONPATH"
            )


def distribution(requirement: str) -> str:
    """Return the canonical name of the distribution that a requirement is about.

    Raises `WeighbridgeError` where it names none.
    """
    named = _NAME.match(requirement)
    if named is None:
        raise WeighbridgeError(
            f"{requirement!r} is not a requirement; write it as for pip, such as safetensors==0.7.0"
        )
    return _canonical(named[1])


def requirements_of(text: str) -> tuple[str, ...]:
    """Return the requirements of a text that holds one or more, by blanks or commas:
    `safetensors==0.7.0 torch==2.12.0`.

    A part that begins with a version or an operator belongs to the one before:
    `safetensors==0.7.0,0.8.0` is not one, `torch>=2,<3` is.
    """
    names: list[str] = []
    for part in re.split(r"[\s,]+", text.strip()):
        if part and part[0] in "<>=!~" and names:
            names[-1] += f",{part}" if any(sign in names[-1] for sign in "<>=!~") else part
        elif part:
            distribution(part)
            names.append(part)
    if not names:
        raise WeighbridgeError(
            "no requirement is named; write it as for pip, such as safetensors==0.7.0"
        )
    return tuple(names)


def _pins(path: Path) -> dict[str, str]:
    """Return each pin of a requirements file by its distribution's name."""
    lines = (
        line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()
    )
    return {distribution(line): line for line in lines if line}


def _for_gpu(versions: Iterable[str]) -> bool:
    return any(name.startswith(_GPU_BUILD) for name in versions)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _slug(requirements: Sequence[str]) -> str:
    words = "-".join(requirements) or "reference"
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:60]


def _pip(python: Path, name: str, *arguments: str) -> None:
    _run(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            *arguments,
        ],
        name,
    )


def _run(command: Sequence[str], name: str) -> str:
    """Return what a command printed.

    Raises `CannotInstallError` with the end of what it said where it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        errors = [
            line
            for line in done.stderr.splitlines()
            if line.strip() and not line.startswith("WARNING")
        ]
        message = "\n".join(errors[-_TOLD_LINES:])
        raise CannotInstallError(
            f"the environment {name} cannot be installed; pip says:\n{message}"
        )
    return done.stdout
