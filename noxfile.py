#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""The ways in, one session per habit."""

from __future__ import annotations

from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

GPU = (Path("/proc/driver/nvidia/gpus"), Path("/dev/nvidia0"))


DOCUMENTATION = ("msgspec", "numpy", "pandas", "rich")
"""What generates README's and docs' blocks needs no more, and above all no torch."""
UNCOMPILED = "--no-compile"
"""pip option for sessions that report neither memory nor first-call times.

It halves the installation. Modules are then compiled on import, which leaves freed memory in the
process that a load could reuse, so memory growth would be understated.
"""


def install_reference(session: nox.Session, *options: str) -> None:
    """Install the reference environment and this project into it."""
    session.install(*options, "-r", "requirements/reference.txt")
    session.install("--no-deps", "--no-build-isolation", "-e", ".")


def install_loaders(session: nox.Session, *options: str) -> None:
    """Install the other libraries that there are loaders for, without whatever else they would
    bring for storage elsewhere.
    """
    session.install(
        *options, "--no-deps", "--only-binary", ":all:", "-r", "requirements/loaders.txt"
    )


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests that take less than ten seconds each; `-- -m long` runs the others. Arguments
    after -- go to pytest.
    """
    install_reference(session)
    install_loaders(session)
    pins = ("-c", "requirements/reference.txt", "-c", "requirements/tools.txt")
    session.install(UNCOMPILED, *pins, "selenium", "pytest-xdist")
    # in the order of their names: by number of tests, the files with few long ones would come last
    side_by_side = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    session.run(
        *("python", "-m", "pytest", *side_by_side, *(session.posargs or ("-m", "not long"))),
        env={"WEIGHBRIDGE_ALL_LOADERS": "1"},
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style of all code; workflows, action and citation against their schemas; and
    that the generated blocks of README and docs are what code and reference runs give.
    """
    session.install("-c", "requirements/tools.txt", "ruff", "check-jsonschema")
    session.install("-c", "requirements/reference.txt", *DOCUMENTATION)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run(
        "check-jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *map(str, sorted(Path(".github/workflows").glob("*.yml"))),
    )
    citation = ("--builtin-schema", "vendor.citation-file-format", "CITATION.cff")
    session.run("check-jsonschema", *citation)
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml")
    session.run("python", "-m", "harness.documentation", "--check")


@nox.session
def docs(session: nox.Session) -> None:
    """Rewrite the generated blocks of README and docs: tables, help pages and quoted figures."""
    session.install("-c", "requirements/reference.txt", *DOCUMENTATION)
    session.run("python", "-m", "harness.documentation", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, tests and this file included."""
    session.install(
        "-c",
        "requirements/reference.txt",
        "-c",
        "requirements/tools.txt",
        "mypy",
        "nox",
        "pytest",
        "numpy",
        "matplotlib",
        "markdown-it-py",
        "msgspec",
        "jinja2",
        "rich",
    )
    session.run("mypy", *session.posargs)


@nox.session(name="bench-cpu")
def bench_cpu(session: nox.Session) -> None:
    """Measure every loader on the CPU, cold and warm; options of a run go after --."""
    install_reference(session)
    install_loaders(session)
    session.run("python", "-m", "pytest", "benchmarks", "-m", "cpu", *session.posargs)


@nox.session(name="bench-storage")
def bench_storage(session: nox.Session) -> None:
    """Measure cold loads on shaped storage: by latency, by requests a second, by readahead."""
    install_reference(session)
    install_loaders(session)
    arguments = ("-m", "cpu", "-k", "storage", "--profile", "storage")
    session.run("python", "-m", "pytest", "benchmarks", *arguments, *session.posargs)


@nox.session(name="bench-gpu")
def bench_gpu(session: nox.Session) -> None:
    """Measure every loader on an NVIDIA GPU; skipped where there is none."""
    if not any(path.exists() for path in GPU):
        session.skip(f"no NVIDIA GPU: looked for {' and '.join(map(str, GPU))}")
    install_reference(session)
    install_loaders(session)
    gated(session, "preflight", "--device", "cuda", "--formats-only", posargs=False)
    session.run("python", "-m", "pytest", "benchmarks", "-m", "gpu", *session.posargs)


@nox.session(name="bench-gpu-prefetch")
def bench_gpu_prefetch(session: nox.Session) -> None:
    """Measure safetensors' prefetch to an NVIDIA GPU, which only its release candidate 0.9 has."""
    if not any(path.exists() for path in GPU):
        session.skip(f"no NVIDIA GPU: looked for {' and '.join(map(str, GPU))}")
    install_reference(session)
    session.install("--no-deps", "nvidia-ml-py", "-c", "requirements/loaders.txt")
    session.install("--no-deps", "--pre", "safetensors==0.9.0rc1")
    loaders = "torch-load,safetensors-load-file,safetensors-load-file-then-to"
    loaders += ",safetensors-pinned,safetensors-prefetch"
    arguments = (
        "-m",
        "gpu",
        "-k",
        "full_load",
        "--profile",
        "gpu-short",
        "--checkpoints",
        "gpt2,llama-3.2-1b",
        "--loaders",
        loaders,
    )
    session.run("python", "-m", "pytest", "benchmarks", *arguments, *session.posargs)


@nox.session(name="bench-safety")
def bench_safety(session: nox.Session) -> None:
    """Give every hostile file to every loader and every scanner, each in a sandboxed process."""
    install_reference(session, UNCOMPILED)
    install_loaders(session, UNCOMPILED)
    session.run(
        "python", "-m", "pytest", "benchmarks", "-m", "safety", "--budget", "13", *session.posargs
    )


def gated(session: nox.Session, *command: str, posargs: bool = True) -> None:
    """Run a command of the project.

    End nox with its own exit code where it is another than 0, which CI and people tell apart.
    """
    try:
        session.run("weighbridge", *command, *(session.posargs if posargs else ()))
    except CommandFailed as failed:
        raise SystemExit(getattr(failed, "return_code", None) or 1) from None


@nox.session
def regression(session: nox.Session) -> None:
    """Compare a candidate with a baseline, two environments in one run; exit 1 for a confirmed
    regression.
    """
    install_reference(session)
    gated(session, "regression")


@nox.session
def gate(session: nox.Session) -> None:
    """Return the exit code of the regression runs in results/, after publishing them."""
    session.install("-c", "requirements/reference.txt", "setuptools")
    session.install("--no-deps", "--no-build-isolation", "-e", ".")
    gated(session, "gate")


@nox.session
def check(session: nox.Session) -> None:
    """Check runs against the rules for evidence; without a run, check this machine before one."""
    install_reference(session, UNCOMPILED)
    gated(session, "check")


@nox.session
def calibrate(session: nox.Session) -> None:
    """Measure how much this machine differs from itself, and write the thresholds that the
    regression check uses.
    """
    install_reference(session)
    gated(session, "calibrate")


@nox.session
def selftest(session: nox.Session) -> None:
    """Test the harness itself: it must detect every injected fault and find an injected
    slow-down.
    """
    install_reference(session, UNCOMPILED)
    gated(session, "selftest")


@nox.session
def claims(session: nox.Session) -> None:
    """Judge every claim of the documentation under test, and measure first what is missing; --only
    C3,C5 takes some.
    """
    install_reference(session)
    install_loaders(session)
    gated(session, "claims", "--measure")


@nox.session
def report(session: nox.Session) -> None:
    """Write reports/ from the runs in results/reference/."""
    install_reference(session, UNCOMPILED)
    session.run("weighbridge", "report", *session.posargs)


@nox.session
def scale(session: nox.Session) -> None:
    """Make the report of 1,000,000 made-up samples; exit 1 over 60 s or 2 GB of memory."""
    install_reference(session)
    session.run("python", "-m", "tests.scale", *session.posargs)


if __name__ == "__main__":
    nox.main()
