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
from harness.report.section_writer import SectionWriter
from harness.report.sections.claims import headline, ledger_section
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
    assert "Of 4 ratios that both know with an interval **2 agree** (50.0 %)" in text
    assert (
        "were taken on the same machine (A Processor, 2 cores, 25 GB, ext4), on 2025-01-01 00:00"
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
    assert len(blocks) == 2 and "a second run" in blocks[1]
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
    names = "A Processor, 2 cores, 25 GB, ext4", "Another, 8 cores, 25 GB, ext4"
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
    evidence = runs(
        tmp_path, ("2025-01-01", HERE, cell_samples(arms=SLOWER)), ("2025-01-02", THERE, both)
    )
    assert re.search(
        r"Here it is [\d.]+ times until the call returns, [\d.]+ times until .* and [\d.]+ times if"
        r" [\w ]+\.$",
        headline(evidence),
    )
    two = headline(
        runs(
            tmp_path / "two",
            ("2025-01-01", HERE, cell_samples(arms=SLOWER)),
            ("2025-01-02", THERE, cell_samples()),
        )
    )
    assert re.search(
        r"Here it is ([\d.]+) times until the call returns and .* On another machine it is [\d.]+"
        r" and [\d.]+\.$",
        two,
    )
    assert headline([]).endswith("Nothing here tells of it yet.")


def test_a_machine_that_little_is_known_of_gets_a_line(tmp_path: Path) -> None:
    both = [*cell_samples(), *cell_samples(cache_state="cold")]
    one = runs(tmp_path, ("2025-01-01", HERE, both), ("2025-01-02", THERE, cell_samples(arms=ARMS)))
    text = "\n\n".join(ledger_section(place(tmp_path), one))
    assert (
        "The same claims on each machine; above stands A Processor" in text
        and "| id | A Processor, 2 cores, 25 GB, ext4 | Another, 8 cores" in text
    )
    little = [sample for sample in cell_samples() if sample.loader == "safetensors-load-file"]
    two = runs(tmp_path / "two", ("2025-01-01", HERE, both), ("2025-01-02", THERE, little))
    text = "\n\n".join(ledger_section(place(tmp_path), two))
    assert "All of this was found on A Processor, 2 cores, 25 GB, ext4." in text
    assert re.search(r"On Another, 8 cores, 25 GB, ext4 no more was tested than: [CJ]\d+ \w", text)


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
    assert "**holds** (on Another, 16 cores" in row
    alone = runs(tmp_path / "alone", ("2025-01-01", HERE, both))
    assert "**not tested here**" in next(
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
    assert (
        c4.verdict == "holds"
        and c4.main is not None
        and c4.main.finding.run == "20250102T000000Z-1"
    )


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
    assert re.search(
        r"\| A Processor, 2 cores, 25 GB, ext4 on \w+ \| A Processor, 2 cores, 25 GB, ext4 on"
        r" nvme1n1 \|",
        text,
    )


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
    assert [
        (machine.name.rpartition(", ")[2], [run.name[:8] for run in machine.runs])
        for machine in machines
    ] == [
        ("model 2", ["20250101", "20250104"]),
        ("kernel 5.9", ["20250102"]),
        ("model 1", ["20250103"]),
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
    assert "| A Processor, 2 cores, 25 GB, ext4 |" in text and "20250101T000000Z-0" in text
    assert "CONTRIBUTING.md" in text
    assert not (tmp_path / "figures").exists()


def test_runs_that_tell_of_no_machine_are_no_machine(tmp_path: Path) -> None:
    blocks = machines_section(place(tmp_path), runs(tmp_path, ("2025-01-01", {}, cell_samples())))
    assert blocks[1] == "No run here tells of its machine."
