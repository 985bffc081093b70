"""pytest's side of a run: options, one test per arm, progress, and the report at the end.

A scenario is a test module with a function `plan(options)`, which returns its cells with their
arms, and a test that asks for `arm`. Checks are a test module with a function `promises(options)`,
which returns what is put to the test, and a test that asks for `promise`. Trials with hostile files
are a test module with a function `loaders_under_test(options)`, and a test that asks for
`loader_under_test`. A module is marked for the GPU where its cells are on one, for `SESSION` where
it names one, and for the CPU otherwise.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import pytest

from benchmarks.replay import Arm
from harness.analysis.promises import Promise
from harness.errors import USAGE_EXIT, WeighbridgeError
from harness.records.cell import Cell
from harness.records.checks import Check
from harness.records.run_directory import BENCHMARK, RunDirectory
from harness.records.sample import Sample
from harness.records.trials import Trial
from harness.report.progress import RunProgress
from harness.run.options import FLAGS, Options, parse
from harness.run.plan import in_order

if TYPE_CHECKING:
    from harness.run.run import Run

_OPTIONS = pytest.StashKey[Options]()
_RUN: pytest.StashKey[Run] = pytest.StashKey()
_PROGRESS = pytest.StashKey[RunProgress]()
_NOT_RECORDED = pytest.StashKey[str]()
"""Why pytest-benchmark recorded nothing."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("weighbridge", "weighbridge: what is measured, and for how long")
    for flag, keywords in FLAGS.items():
        group.addoption(flag, **keywords)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu: loads to the CPU")
    config.addinivalue_line("markers", "gpu: loads to a GPU")
    config.addinivalue_line("markers", "safety: hostile files, and the cost of scanning for them")
    config.option.benchmark_quiet = (
        True  # its table would compare times across cells; the run's own tables stand in its place
    )
    given = {flag.strip("-").replace("-", "_"): config.getoption(flag) for flag in FLAGS}
    try:
        recorded = (
            RunDirectory.existing(Path(given["results"] or "results"), given["resume"]).manifest()[
                "options"
            ]
            if given["resume"]
            else None
        )
        config.stash[_OPTIONS] = parse(given, recorded)
        for scenario in (
            _scenarios()
        ):  # before anything is collected, so that what cannot be had is answered in one line
            scenario.plan(config.stash[_OPTIONS])
    except WeighbridgeError as error:
        pytest.exit(str(error), returncode=USAGE_EXIT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "promise" in metafunc.fixturenames:
        promises: Sequence[Promise] = metafunc.module.promises(metafunc.config.stash[_OPTIONS])
        metafunc.parametrize(
            "promise",
            [pytest.param(promise, id=promise.name, marks=pytest.mark.cpu) for promise in promises],
        )
    if "loader_under_test" in metafunc.fixturenames:
        names: Sequence[str] = metafunc.module.loaders_under_test(metafunc.config.stash[_OPTIONS])
        metafunc.parametrize(
            "loader_under_test",
            [pytest.param(name, id=name, marks=pytest.mark.safety) for name in names],
        )
    if "arm" not in metafunc.fixturenames:
        return
    plan: dict[Cell, tuple[str, ...]] = metafunc.module.plan(metafunc.config.stash[_OPTIONS])
    metafunc.parametrize(
        "arm",
        [
            pytest.param(
                (cell, loader),
                id=f"{cell.what}/{loader}".replace("/", "-"),
                marks=_mark(metafunc.module, cell),
            )
            for cell, arms in plan.items()
            for loader in arms
        ],
        indirect=True,
        scope="session",
    )


def _scenarios() -> list[ModuleType]:
    """Return this folder's modules that hold a plan."""
    modules_here = pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}.")
    modules = [
        importlib.import_module(module.name) for module in modules_here if ".test_" in module.name
    ]
    return [module for module in modules if hasattr(module, "plan")]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the cells in the order they are taken in, whatever file they come from, after the checks:
    cells share what time is left.
    """
    plan = _plan_of(items)
    place = {cell: number for number, cell in enumerate(in_order(plan, config.stash[_OPTIONS]))}
    items.sort(key=lambda item: place[selected[0]] if (selected := _selected(item)) else -1)


def _plan_of(items: Iterable[pytest.Item]) -> dict[Cell, tuple[str, ...]]:
    plan: dict[Cell, tuple[str, ...]] = {}
    for cell, loader in filter(None, map(_selected, items)):
        plan[cell] = (*plan.get(cell, ()), loader)
    return plan


def _mark(module: ModuleType, cell: Cell) -> pytest.MarkDecorator:
    session: str = getattr(module, "SESSION", "cpu" if cell.device == "cpu" else "gpu")
    mark: pytest.MarkDecorator = getattr(pytest.mark, session)
    return mark


def pytest_collection_finish(session: pytest.Session) -> None:
    """Open the run once it is known what was selected: the cells, arms and promises left after `-m`
    and `-k` are its plan.
    """
    plan, promises, tested = (
        _plan_of(session.items),
        _asked(session.items, "promise"),
        _asked(session.items, "loader_under_test"),
    )
    if not (plan or promises or tested) or session.config.option.collectonly:
        return
    from harness.run.run import (
        Run,
    )  # only here, for it brings torch: what cannot be had is answered at once

    config = session.config
    verbose = config.get_verbosity() > 0
    progress = RunProgress(_terminal(), len(plan), tables=verbose)
    command = ["pytest", *config.invocation_params.args]
    run = Run(
        config.stash[_OPTIONS],
        plan,
        [str(argument) for argument in command],
        progress.say,
        lambda _: None,
        promises,
        tested,
    )
    try:
        run.__enter__()
    except WeighbridgeError as error:
        pytest.exit(str(error), returncode=USAGE_EXIT)
    config.stash[_RUN], config.stash[_PROGRESS] = run, progress


def _selected(item: pytest.Item) -> tuple[Cell, str] | None:
    """Return the (cell, loader) of an item, None for a test that measures nothing."""
    callspec = getattr(item, "callspec", None)
    selected: tuple[Cell, str] | None = callspec.params.get("arm") if callspec else None
    return selected


def _asked(items: Iterable[pytest.Item], fixture: str) -> list[Any]:
    """Return what the items that ask for a fixture are about, in their order."""
    callspecs = (getattr(item, "callspec", None) for item in items)
    return [
        callspec.params[fixture]
        for callspec in callspecs
        if callspec and fixture in callspec.params
    ]


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """The run that was opened for what was selected."""
    return request.config.stash[_RUN]


@pytest.fixture(scope="session")
def arm(request: pytest.FixtureRequest) -> Arm:
    """The arm that a test is about; the first test of a cell measures the whole cell."""
    cell, loader = request.param
    stash = request.config.stash
    try:
        result = stash[_RUN].measure(cell)
    except WeighbridgeError as error:
        pytest.exit(str(error), returncode=USAGE_EXIT)
    stash[_PROGRESS].cell_done(cell.name, result.samples, result.reason)
    return Arm(loader, result)


@pytest.fixture
def benchmark(request: pytest.FixtureRequest) -> Any:
    """pytest-benchmark's own fixture, or None where the installed release cannot work under the
    installed pytest.

    Samples and report do not depend on it: the run goes on, and its end says why there is no
    `benchmark.json`.
    """
    try:
        recorder = request.getfixturevalue("benchmark")
    except Exception as error:  # releases before 5.2 raise an AttributeError under pytest 9
        if not recorder_failed(error):
            raise
        request.config.stash[_NOT_RECORDED] = f"{type(error).__name__}: {error}"
        recorder = None
    return recorder


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    run = session.config.stash.get(_RUN, None)
    if run:
        session.config.stash[_PROGRESS].pause()
        run.__exit__(None, None, None)
        if run.measured_nothing and session.exitstatus == 0:
            session.exitstatus = USAGE_EXIT
        recorder = getattr(session.config, "_benchmarksession", None)
        if recorder is not None and recorder.benchmarks and not recorder.json:
            recorder.json = _recorder_target(run.directory.path / BENCHMARK)
    try:
        yield
    except (
        Exception
    ) as error:  # the samples are on disk by now, and the report is not the recorder's
        if not (run and recorder_failed(error)):
            raise
        session.config.stash[_NOT_RECORDED] = f"{type(error).__name__}: {error}"


def _recorder_target(path: Path) -> Path | BinaryIO:
    """Return what the installed pytest-benchmark takes as `json`: a path since 5.3, an open binary
    file before.
    """
    release = tuple(int(part) for part in version("pytest-benchmark").split(".")[:2])
    return path if release >= (5, 3) else path.open("wb")


def recorder_failed(error: BaseException) -> bool:
    """Return whether an error was raised inside pytest-benchmark."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(
        str(frame.f_globals.get("__name__", "")).startswith("pytest_benchmark")
        for frame, _ in frames
    )


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """Stand in for the recorder's own description, which holds the host's name."""
    run = config.stash.get(_RUN, None)
    return dict(run.manifest["machine"]) if run else {}


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    """Stand in for the recorder's own, which may hold an address of the repository."""
    run = config.stash.get(_RUN, None)
    return dict(run.manifest["git"] or {}) if run else {}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    run = config.stash.get(_RUN, None)
    if run is None:
        return
    from harness.report.answer import answer
    from harness.report.run_page import write_run_report

    console = config.stash[_PROGRESS].console
    page = write_run_report(run.directory)
    terminalreporter.section("what to use")
    terminalreporter.flush()
    if run.measured_nothing:
        console.print(
            f"Nothing could be measured: {run.measured_nothing}. Name other storage with --store.",
            markup=False,
        )
    samples, checks, trials = (
        run.directory.samples(),
        run.directory.checks(),
        run.directory.trials(),
    )
    for line in answer(run.manifest, samples, checks, trials):
        console.print(line, markup=False)
    if config.get_verbosity() > 0:
        _show_details(terminalreporter, run, samples, checks, trials)
    if failure := config.stash.get(_NOT_RECORDED, None):
        release, words = (
            version("pytest-benchmark"),
            f"it raised {failure} under pytest {pytest.__version__}",
        )
        terminalreporter.write_line(
            f"{BENCHMARK} is missing or incomplete: pytest-benchmark {release} failed ({words});"
            " 5.3.1 works"
        )
    terminalreporter.write_line(f"\nreport: {page}")


def _show_details(
    reporter: pytest.TerminalReporter,
    run: Run,
    samples: Sequence[Sample],
    checks: Sequence[Check],
    trials: Sequence[Trial],
) -> None:
    """Write what `-v` shows beside the answer: a line for each cell, check that differs and loader
    that met hostile files.
    """
    from harness.report.sections.hostile_files import trials_lines
    from harness.report.sections.promises import promises_lines
    from harness.report.terminal import run_summary

    reporter.section("what was measured")
    reporter.write_line(run_summary(run.manifest, samples))
    for line in (*promises_lines(checks), *trials_lines(run.manifest, trials)):
        reporter.write_line(line)


def _terminal() -> TextIO:
    """Return the terminal or pipe that this process was started with, past pytest's capture of what
    tests print.
    """
    try:
        return os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    except OSError:  # whoever started this closed it
        return sys.stdout
