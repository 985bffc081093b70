"""Several machines, and several runs of one: what agrees is counted, what does not is named, and
machines are never mixed up.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.arms import summarise
from harness.analysis.claims import judged_here
from harness.analysis.machines import machines_of
from harness.analysis.recorded_run import gather
from harness.analysis.repeatability import overlap, shared_ratios
from harness.analysis.statistics import Estimate
from harness.records.sample import Sample
from harness.report.front.answer import NOTHING, lead, other_machines
from harness.report.section_writer import SectionWriter
from harness.report.sections.claims import ledger_section
from harness.report.sections.machines import machines_section
from harness.report.sections.repeatability import agreement_section
from tests.test_report import ARMS, cell_samples, make_run

MACHINE = {
    "cpu": "A Processor",
    "cpu_model": "model 1",
    "cores": 2,
    "memory_bytes": 25_000_000_000,
    "kernel": "6.1",
    "gpus": [],
}
STORAGE = {"device": "vda", "file_system": "ext4"}
HERE: dict[str, Any] = {"machine": MACHINE, "storage": STORAGE}
THERE: dict[str, Any] = {"machine": MACHINE | {"cpu": "Another", "cores": 8}, "storage": STORAGE}
SLOWER = ARMS | {"torch-load": (500.0, 600.0)}


def place(folder: Path) -> SectionWriter:
    return SectionWriter(folder, "", 1)


def runs(folder: Path, *taken: tuple[str, Mapping[str, Any], list[Sample]]) -> list[Any]:
    """Return the evidence of made-up runs, each of a day."""
    made = [
        make_run(
            folder,
            samples,
            f"{day.replace('-', '')}T000000Z-{number}",
            created_at=f"{day}T00:00:00+00:00",
            **manifest,
        )
        for number, (day, manifest, samples) in enumerate(taken)
    ]
    return gather(made)


# Two runs of one machine


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ((1, 2), (2, 3), True),
        ((1, 4), (2, 3), True),
        ((1, 2), (2.1, 3), False),
        ((5, 6), (1, 2), False),
        ((None, None), (1, 2), False),
    ],
)
def test_two_intervals_agree_where_they_have_a_value_in_common(a: Any, b: Any, alike: bool) -> None:
    first, second = (Estimate(1.0, ends[0], ends[1], 6) for ends in (a, b))
    assert overlap(first, second) is overlap(second, first) is alike


def test_ratios_are_shared_by_cell_loader_environment_and_clock() -> None:
    a = summarise(cell_samples())
    assert [(one.loader, one.clock) for one in shared_ratios(a, a)] == [
        (loader, clock)
        for loader in ("torch-load-mmap", "torch-load")
        for clock in ("returned", "ready")
    ]
    assert all(one.agree and one.a == one.b for one in shared_ratios(a, a))
    for other in (
        {"environment": "older"},
        {"cache_state": "cold"},
        {"device": "cuda"},
        {"blocks": 5},
    ):
        assert shared_ratios(a, summarise(cell_samples(**other))) == []


def test_the_ratios_that_disagree_are_counted(tmp_path: Path) -> None:
    evidence = runs(
        tmp_path,
        ("2025-01-01", HERE, cell_samples()),
        ("2025-01-02", HERE, cell_samples(arms=SLOWER)),
    )
    text = "\n\n".join(agreement_section(place(tmp_path), evidence))
    assert "Of 4 ratios that both runs measured with an interval, **2 agree** (50.0 %)" in text
    assert (
        "were taken on the same machine (machine 1: 2-core A, ext4), on 2025-01-01 00:00"
        " and on 2025-01-02 00:00 (UTC)" in text
    )
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in text.splitlines()
        if "| full-load/" in line
    ]
    assert [row[2:5] for row in rows] == [
        ["full-load/gpt2/warm/cpu", "torch-load", clock] for clock in ("returned", "ready")
    ]
    with (tmp_path / "tables/agreement.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(line["loader"], line["agree"]) for line in lines} == {
        ("torch-load", "False"),
        ("torch-load-mmap", "True"),
    }


def test_runs_of_different_days_are_preferred(
    tmp_path: Path,
) -> None:
    both = [*cell_samples(), *cell_samples(cache_state="cold")]
    evidence = runs(
        tmp_path,
        ("2025-01-01", HERE, both),
        ("2025-01-01", HERE, both),
        ("2025-01-02", HERE, cell_samples()),
        ("2025-01-02", THERE, both),
        ("2025-01-03", HERE | {"options": {"paired_run": {"baseline": "a"}}}, both),
    )
    text = "\n\n".join(agreement_section(place(tmp_path), evidence))
    assert "Of 4 ratios" in text
    assert (
        "[20250101T000000Z-1](20250101T000000Z-1.md) and"
        " [20250102T000000Z-2](20250102T000000Z-2.md)" in text
    )


@pytest.mark.parametrize(
    "other",
    [
        THERE,
        {},
        HERE | {"checkpoints": {"gpt2": {"digest": "other"}}},
        HERE | {"machine": MACHINE | {"cores": 4}},
    ],
    ids=["machine", "untold", "content", "cores"],
)
def test_without_two_runs_the_page_says_what_is_missing(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    first = HERE | {"checkpoints": {"gpt2": {"digest": "one"}}}
    evidence = runs(
        tmp_path, ("2025-01-01", first, cell_samples()), ("2025-01-02", other, cell_samples())
    )
    blocks = agreement_section(place(tmp_path), evidence)
    assert len(blocks) == 2 and "A second run" in blocks[1]
    assert not (tmp_path / "figures").exists()


# Several machines


def test_the_claims_ratio_of_two_machines_stands_side_by_side(tmp_path: Path) -> None:
    here = [*cell_samples(), *cell_samples(checkpoint="lora-1000")]
    evidence = runs(
        tmp_path,
        ("2025-01-01", HERE, here),
        ("2025-01-02", THERE, cell_samples(arms=SLOWER)),
        ("2025-01-03", HERE, here),
    )
    text = "\n\n".join(machines_section(place(tmp_path), evidence))
    names = "machine 1: 2-core A, ext4", "machine 2: 8-core Another, ext4"
    assert f"| checkpoint | cache state | clock | {names[0]} | {names[1]} |" in text
    found = [line for line in text.splitlines() if line.startswith("| gpt2 |")]
    assert [line.split(" | ")[1:3] for line in found] == [["warm", "returned"], ["warm", "ready"]]
    ratios = [line.strip("|").split(" | ")[3:] for line in found]
    assert [[cell.partition(" ")[0] for cell in row] for row in ratios] == [
        ["48.8", "122"],
        ["11.7", "29.3"],
    ]
    assert "| lora-1000 |" not in text, "only one machine measured it"
    with (tmp_path / "tables/machines.csv").open() as file:
        assert {line["run"] for line in csv.DictReader(file)} == {
            "20250103T000000Z-2",
            "20250102T000000Z-1",
        }, "the newest run speaks"
    assert (tmp_path / "figures/machines.svg").is_file()


def test_the_best_known_figure_is_told_of_each_machine(
    tmp_path: Path,
) -> None:
    both = [*cell_samples(), *cell_samples(cache_state="cold")]
    one = runs(tmp_path, ("2025-01-01", HERE, cell_samples()), ("2025-01-02", THERE, both))
    assert other_machines(one) == [], "a machine without a first load tells only half of it"
    two = runs(tmp_path / "two", ("2025-01-01", HERE, both), ("2025-01-02", THERE, both))
    assert re.search(r"file is \*\*[\d.]+ times as fast\*\* as `torch.load`; on a first", lead(two))
    (other,) = other_machines(two)
    assert re.match(
        r"On machine 2 \(8-core Another, ext4\): [\d.]+ times as fast from memory", other
    )
    assert lead([]) == NOTHING


def test_another_verdict_of_another_machine_is_named(tmp_path: Path) -> None:
    fast = {"safetensors-load-file": (4.0, 5.0), "torch-load": (200.0, 240.0)}
    both = [*cell_samples(arms=fast), *cell_samples(arms=fast, cache_state="cold")]
    slow = cell_samples(arms=fast | {"torch-load": (8.0, 9.0)})
    evidence = runs(tmp_path, ("2025-01-01", HERE, both), ("2025-01-02", THERE, slow))
    text = "\n\n".join(ledger_section(place(tmp_path), evidence))
    assert "A row that names no machine was measured on machine 1: 2-core A, ext4." in text
    assert "- J2 on machine 2: 8-core Another, ext4: " not in text, "not tested there"
    assert re.search(r"- C3 on machine 2: 8-core Another, ext4: does not hold\. Until", text)


def test_a_claim_is_judged_on_the_machine_that_can_test_it(tmp_path: Path) -> None:
    """C4 needs a GPU: its verdict comes from the machine that has one, beside the others of a
    machine of which more is known.
    """

    with_gpu = {
        "machine": MACHINE | {"cpu": "Another", "cores": 16, "gpus": ["A GPU"]},
        "storage": STORAGE,
    }
    both = [*cell_samples(), *cell_samples(cache_state="cold")]
    on_gpu = [*cell_samples(device="cuda"), *cell_samples(device="cuda", cache_state="cold")]
    text = "\n\n".join(
        ledger_section(
            place(tmp_path),
            runs(tmp_path, ("2025-01-01", HERE, both), ("2025-01-02", with_gpu, on_gpu)),
        )
    )
    (row,) = (
        line
        for line in text.splitlines()
        if line.startswith("| C4 |") and "as fast or faster" in line
    )
    assert "**holds**" in row and "On machine 2: 16-core Another, A GPU, ext4." in row
    alone = runs(tmp_path / "alone", ("2025-01-01", HERE, both))
    assert "**not tested**" in next(
        line
        for line in "\n".join(ledger_section(place(tmp_path), alone)).splitlines()
        if line.startswith("| C4 |")
    )
    c4 = next(
        one
        for one in judged_here(
            runs(tmp_path / "again", ("2025-01-01", HERE, both), ("2025-01-02", with_gpu, on_gpu))
        )
        if one.claim.id == "C4"
    )
    assert c4.verdict == "holds" and c4.tests[0].finding.run == "20250102T000000Z-1"


@pytest.mark.parametrize("blocks", [(9, 9, 6), (6, 6, 5)], ids=["fewer", "too few"])
def test_a_newer_run_with_fewer_pairs_does_not_speak(
    tmp_path: Path, blocks: tuple[int, int, int]
) -> None:
    """The ledger goes by most pairs, and one page tells one figure of a machine."""
    taken = zip(("01", "02", "03"), (HERE, THERE, HERE), blocks, strict=True)
    machines_section(
        place(tmp_path),
        runs(
            tmp_path,
            *(
                (f"2025-01-{day}", machine, cell_samples(blocks=count))
                for day, machine, count in taken
            ),
        ),
    )
    with (tmp_path / "tables/machines.csv").open() as file:
        assert {line["run"] for line in csv.DictReader(file)} == {
            "20250101T000000Z-0",
            "20250102T000000Z-1",
        }


def test_devices_stand_apart_among_machines(tmp_path: Path) -> None:
    both = [*cell_samples(), *cell_samples(device="cuda")]
    evidence = runs(tmp_path, ("2025-01-01", HERE, both), ("2025-01-02", THERE, both))
    text = "\n\n".join(machines_section(place(tmp_path), evidence))
    assert (
        text.index("**On cpu**")
        < text.index("machines.svg")
        < text.index("**On cuda**")
        < text.index("machines-cuda.svg")
    )


def test_machines_that_differ_by_storage_are_two(
    tmp_path: Path,
) -> None:
    other = HERE | {"storage": HERE["storage"] | {"device": "nvme1n1"}}
    newer = HERE | {"machine": MACHINE | {"kernel": "6.2"}}
    evidence = runs(
        tmp_path,
        *(
            (f"2025-01-0{day}", one, cell_samples())
            for day, one in enumerate((HERE, other, newer), 1)
        ),
    )
    text = "\n\n".join(machines_section(place(tmp_path), evidence))
    assert "| machine 1: 2-core A, ext4 | machine 2: 2-core A, ext4 |" in text


def test_runs_under_two_kernels_are_laid_over_each_other_apart(
    tmp_path: Path,
) -> None:
    newer = HERE | {"machine": MACHINE | {"kernel": "6.2"}}
    evidence = runs(
        tmp_path,
        *(
            (f"2025-01-0{day}", one, cell_samples())
            for day, one in enumerate((HERE, HERE, newer), 1)
        ),
    )
    text = "\n\n".join(agreement_section(place(tmp_path), evidence))
    assert (
        text.index("(tables/agreement.csv)")
        < text.index("but under kernel 6.1 and 6.2")
        < text.index("(tables/agreement-other-kernel.csv)")
    )


def test_a_name_that_two_processors_share_is_no_machine(
    tmp_path: Path,
) -> None:
    """Hosts call several generations of processors the same.

    A run that does not tell the model is told apart by its kernel.
    """

    other = HERE | {"machine": MACHINE | {"cpu_model": "model 2", "kernel": "6.2"}}
    old, older = (
        HERE | {"machine": MACHINE | {"cpu_model": None, "kernel": kernel}}
        for kernel in ("6.2", "5.9")
    )
    taken = [
        (f"2025-01-0{day}", one, cell_samples())
        for day, one in enumerate((old, older, HERE, other), 1)
    ]
    machines = machines_of(runs(tmp_path, *taken))
    assert [(machine.name, [run.name[:8] for run in machine.runs]) for machine in machines] == [
        ("machine 1: 2-core A, ext4", ["20250101", "20250104"]),
        ("machine 2: 2-core A, ext4", ["20250102"]),
        ("machine 3: 2-core A, ext4", ["20250103"]),
    ]
    text = "\n\n".join(agreement_section(place(tmp_path), runs(tmp_path / "again", *taken)))
    assert (
        "[20250101T000000Z-0](20250101T000000Z-0.md) and [20250104T000000Z-3]" in text
        and text.count("were taken on the same machine") == 1
    )


def test_each_machine_has_runs_of_its_own_laid_over_each_other(tmp_path: Path) -> None:
    newer = HERE | {"machine": MACHINE | {"kernel": "6.2"}}
    taken = [
        (f"2025-01-0{day}", one, cell_samples())
        for day, one in enumerate((HERE, HERE, newer, THERE, THERE), 1)
    ]
    text = "\n\n".join(agreement_section(place(tmp_path), runs(tmp_path, *taken)))
    assert re.findall(r"\(tables/(.*?)\.csv\)", text) == [
        "agreement",
        "agreement-other-kernel",
        "agreement-2",
    ]
    assert "agreement-2.csv" in text and (tmp_path / "tables/agreement-2.csv").is_file()


def test_one_machine_has_its_conditions_and_no_comparison(tmp_path: Path) -> None:
    text = "\n\n".join(
        machines_section(place(tmp_path), runs(tmp_path, ("2025-01-01", HERE, cell_samples())))
    )
    assert "| machine 1: 2-core A, ext4 |" in text and "20250101T000000Z-0" in text
    assert "CONTRIBUTING.md" in text
    assert not (tmp_path / "figures").exists()


def test_runs_that_tell_of_no_machine_are_no_machine(tmp_path: Path) -> None:
    blocks = machines_section(place(tmp_path), runs(tmp_path, ("2025-01-01", {}, cell_samples())))
    assert blocks[1] == "No run here describes its machine."
