"""The section about everything that a run does not say, and why."""

from __future__ import annotations

from collections.abc import Iterable

from harness.analysis.memory_use import without_failed_tries
from harness.analysis.recorded_run import RecordedRun
from harness.records.sample import Sample
from harness.report.format import invalid_line
from harness.report.section_writer import SectionWriter
from harness.report.tables import invalid_frame, invalid_table, markdown, shortfall_frame
from harness.scenarios import SCENARIOS

NO_GPU = (
    "**GPU rows: not measured.** {which} has no sample taken on a GPU, so no row here is about one"
)
_IN_A_CHECKOUT = "; `nox -s bench-gpu` takes them on a machine that has one."


def on_a_gpu(samples: Iterable[Sample]) -> bool:
    """Return whether any sample was taken on a GPU."""
    return any(sample.device != "cpu" for sample in samples)


def no_gpu(which: str, *, in_a_checkout: bool = True) -> str:
    """Return that nothing was taken on a GPU and, where the reader has a checkout, how to."""
    return NO_GPU.format(which=which) + (_IN_A_CHECKOUT if in_a_checkout else ".")


def _by_advise(run: RecordedRun) -> bool:
    """Return whether `weighbridge advise` took the run: an installed wheel has it, and no nox."""
    return str(run.manifest.get("command") or "").startswith("weighbridge advise ")


def section(writer: SectionWriter, run: RecordedRun) -> list[str]:
    """Return the section about what was not measured."""
    blocks = [writer.heading("What was not measured")]
    shortfalls = shortfall_frame(run.manifest, run.cells)
    blocks.append(
        "Everything was measured: nothing was skipped, refused or cut short."
        if shortfalls.empty
        else markdown(shortfalls)
    )
    samples = without_failed_tries(run.samples)
    blocks.append(f"{invalid_line(samples).capitalize()}.")
    invalid = invalid_frame(samples)
    if not invalid.empty:
        blocks += [
            markdown(invalid_table(invalid)),
            f"As CSV: {writer.table('invalid-samples', invalid)}",
        ]
    if not on_a_gpu(run.samples):
        blocks.append(no_gpu("This run", in_a_checkout=not _by_advise(run)))
    others = sorted({cell.scenario for cell in run.cells} - set(SCENARIOS))
    if others:
        blocks.append(
            f"These scenarios have no table yet: {', '.join(others)}. Their samples are in "
            "the run's directory."
        )
    return blocks
