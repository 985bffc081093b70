"""The report: the same run gives the same bytes, and what was not measured is named, never
blank.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from matplotlib import style

from harness.analysis.bottleneck import MEANING
from harness.analysis.ceilings import is_ceiling
from harness.analysis.recorded_run import gather
from harness.analysis.run_cells import MeasuredCell, cells_of
from harness.records.run_directory import MANIFEST, SAMPLES, RunDirectory
from harness.records.sample import SCHEMA, Sample
from harness.report.figures import style as drawing
from harness.report.figures.ratio_forest import ratio_forest
from harness.report.figures.share_of_ceiling import LOOKS, shares_of_ceiling
from harness.report.figures.style import GREY, LOOK, style_of
from harness.report.format import bottleneck_text
from harness.report.run_page import write_reports, write_run_report
from harness.report.section_writer import SectionWriter
from harness.report.sections.vendor_claims import vendor_claims
from harness.report.tables import cell_frame, cell_table, markdown
from harness.report.tables import csv as as_csv
from harness.report.terminal import WIDTH, run_summary
from harness.report.terminal import cell_table as terminal_table
from tests.helpers import make_sample

RUN = "20250101T000000Z-test"
MS = 1e-3
ARMS = {
    "safetensors-load-file": (4.0, 20.0),
    "torch-load": (200.0, 240.0),
    "torch-load-mmap": (10.0, 30.0),
    "ceiling-read": (50.0, 60.0),
}
"""Loaders of a made-up cell with their times to returned and to ready, in ms."""
CHECKPOINTS = {"lora-1000": 4_096_000, "gpt2": 497_759_232, "llama-3.2-1b": 2_471_645_184}


def cell_samples(
    blocks: int = 6, arms: Mapping[str, tuple[float, float]] = ARMS, **overrides: Any
) -> list[Sample]:
    """Return the samples of a cell.

    Every block is slower than the one before by 1 % of an arm's times, more for the reference.
    """

    samples = []
    for block, (position, (loader, (returned, ready))) in itertools.product(
        range(blocks), enumerate(arms.items())
    ):
        slower = 1 + block / (50 if loader == "safetensors-load-file" else 100)
        figures = {
            "run": RUN,
            "scenario": "full-load",
            "checkpoint": "gpt2",
            "bytes": CHECKPOINTS.get(overrides.get("checkpoint", "gpt2")),
            "loader": loader,
            "block": block,
            "position": position,
            "returned_s": returned * slower * MS,
            "ready_s": ready * slower * MS,
            "anonymous_bytes": 1_000_000 * (block + position),
            "mapped_bytes": 400_000_000,
        }
        samples.append(make_sample(**(figures | overrides)))
    return samples


def spoilt(samples: Sequence[Sample], reason: str, loader: str | None = None) -> Iterator[Sample]:
    """Return the samples with those of one loader, or all, made invalid for a reason."""
    for sample in samples:
        wrong = loader in (None, sample.loader)
        yield msgspec.convert(
            sample.as_json() | ({"valid": False, "reason": reason} if wrong else {}), Sample
        )


def record(
    checkpoint: str = "gpt2", cache_state: str = "warm", device: str = "cpu", **overrides: Any
) -> dict[str, Any]:
    """Return a cell as a manifest holds it."""
    key = {
        "scenario": "full-load",
        "checkpoint": checkpoint,
        "cache_state": cache_state,
        "device": device,
    }
    ended: dict[str, Any] = {
        "arms": list(ARMS),
        "left_out": {},
        "status": "done",
        "reason": None,
        "stopped": "precision",
        "blocks": 6,
    }
    return {"name": "/".join(key.values()), **key, **ended, **overrides}


def make_run(
    folder: Path, samples: Sequence[Sample], name: str = RUN, **manifest: Any
) -> RunDirectory:
    """Write a run directory that holds these samples, `manifest` put over what every manifest
    has.
    """

    run = RunDirectory(folder / name)
    run.path.mkdir(parents=True)
    run.write_manifest({"schema": SCHEMA, "run": name, **manifest})
    for sample in samples:
        run.append(sample)
    return run


def whole_run() -> list[Sample]:
    """Return cold and warm cells of three checkpoints."""
    return [
        sample
        for checkpoint, state in itertools.product(CHECKPOINTS, ("cold", "warm"))
        for sample in cell_samples(checkpoint=checkpoint, cache_state=state)
    ]


def only_cell(samples: Sequence[Sample], **manifest: Any) -> MeasuredCell:
    [cell] = cells_of(manifest, samples)
    return cell


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def row(table: str, first: str) -> list[str]:
    """Return the cells of the one row of a Markdown table that begins with `first`."""
    [line] = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_run_gives_a_page_with_every_figure(tmp_path: Path) -> None:
    run = make_run(tmp_path, whole_run())
    page = write_run_report(run)
    files = set(contents(run.path))
    cells = {
        f"tables/full-load-{checkpoint}-{state}-cpu.csv"
        for checkpoint in CHECKPOINTS
        for state in ("cold", "warm")
    }
    figures = {
        f"figures/{name}.svg"
        for name in (
            "returned-ready-gpt2",
            "time-by-size",
            "ratio-forest",
            "share-of-ceiling",
            "memory-gpt2",
        )
    }
    assert page == run.path / "report.md"
    assert files == {"report.md", MANIFEST, SAMPLES} | cells | figures | {"tables/sample-costs.csv"}
    text = page.read_text(encoding="utf-8")
    assert all(f"]({path})" in text for path in files - {"report.md"}), (
        "the page links to all that is made for it"
    )
    assert text.count("How to read it:") == len(figures)


def test_each_storage_has_figures_of_its_own(tmp_path: Path) -> None:
    """Loads from a network disk and from the disk as it is never share a panel or a line."""
    shaped = cell_samples(cache_state="cold", storage="network-disk")
    run = make_run(tmp_path, [*cell_samples(), *cell_samples(cache_state="cold"), *shaped])
    page = write_run_report(run).read_text("utf-8")
    assert "on cpu and network-disk" in page
    assert "**Cold, on cpu, on network-disk**" in page and "**Cold, on cpu**" in page
    files = {path.name for path in (run.path / "figures").glob("returned-ready-*.svg")}
    assert files == {"returned-ready-gpt2.svg", "returned-ready-gpt2-network-disk.svg"}


@pytest.mark.slow
def test_making_a_report_again_gives_the_same_bytes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "results/reference", whole_run(), cells=[record()])
    write_reports([run], tmp_path / "first")
    write_run_report(run)
    before = contents(run.path)
    write_run_report(run)
    write_reports([run], tmp_path / "second")
    assert contents(run.path) == before
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def test_the_order_in_which_runs_are_given_changes_nothing(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "results", cell_samples(), name)
        for name in ("20250102T000000Z-b", "20250101T000000Z-a")
    ]
    one, other = (
        write_reports(order, tmp_path / "reports").with_name("index.html").read_bytes()
        for order in (runs, runs[::-1])
    )
    assert one == other
    assert one.index(b">20250101T000000Z-a</a>") < one.index(b">20250102T000000Z-b</a>")


def test_a_report_leaves_nothing_of_an_earlier_one(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "reports"
    runs = [
        make_run(tmp_path / "results", cell_samples(), name)
        for name in ("20250101T000000Z-a", "20250102T000000Z-b")
    ]
    write_reports(runs, folder)
    (folder / "notes.md").write_text("mine")
    (folder / "tables/20250101T000000Z-a/notes.txt").write_text("mine")
    write_reports(runs[1:], folder)
    of_first = [path for path in contents(folder) if "20250101T000000Z-a" in path]
    assert of_first == ["tables/20250101T000000Z-a/notes.txt"]
    assert "notes.md" in contents(folder)
    assert any(path.startswith("figures/20250102T000000Z-b/") for path in contents(folder))


def test_a_report_that_cannot_be_made_leaves_the_earlier_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, cell_samples())
    write_run_report(run)
    before = contents(run.path)
    with (run.path / SAMPLES).open("a") as lines:
        lines.write("no sample\n")
    with pytest.raises(Exception, match="not a sample"):
        write_run_report(run)
    assert {path: content for path, content in contents(run.path).items() if path != SAMPLES} == {
        path: content for path, content in before.items() if path != SAMPLES
    }


def every_page(folder: Path) -> str:
    """Return what all pages of the reports say."""
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md")))


def test_reports_link_to_a_run_that_lies_beside_them(
    tmp_path: Path,
) -> None:
    near = make_run(tmp_path / "project/results/reference", cell_samples(), "20250101T000000Z-near")
    far = make_run(tmp_path / "elsewhere", cell_samples(), "20250102T000000Z-far")
    page = write_reports([near, far], tmp_path / "project/reports")
    text = every_page(page.parent)
    link = f"../results/reference/{near.name}/{SAMPLES}"
    assert f"({link})" in text
    assert (page.parent / link).resolve() == (near.path / SAMPLES).resolve()
    assert f"`{SAMPLES}` of run {far.name}" in text
    assert str(tmp_path) not in text and "elsewhere" not in text


def test_without_runs_the_reports_say_how_to_add_one(tmp_path: Path) -> None:
    page = write_reports([], tmp_path / "reports")
    assert "results/reference/" in page.read_text(encoding="utf-8")
    assert set(contents(tmp_path / "reports")) == {
        "README.md",
        "evidence.html",
        "index.html",
        "page.css",
        "page.js",
    }


@pytest.mark.parametrize(
    "cells", [[], [record(status="refused", reason="cold refused: tmpfs", arms=list(ARMS))]]
)
def test_a_run_without_a_sample_gives_a_page(tmp_path: Path, cells: list[dict[str, Any]]) -> None:
    run = make_run(tmp_path, [], cells=cells, machine={}, environments={}, finished_at=None)
    text = write_run_report(run).read_text(encoding="utf-8")
    assert "this run answers nothing" in text
    assert "not finished" in text
    assert "![" not in text
    assert ("cold refused: tmpfs" in text) == bool(cells)


def test_a_run_with_nothing_valid_says_so_and_counts_why(tmp_path: Path) -> None:
    samples = list(spoilt(cell_samples(), "storage-read"))
    run = make_run(tmp_path, samples, cells=[record()])
    text = write_run_report(run).read_text(encoding="utf-8")
    assert "this run answers nothing" in text
    assert "Invalid samples: 24 of 24 (100.0 %): storage-read 24" in text
    assert row(text, "storage-read")[1:3] == ["24", "100.0 %"]
    assert row(text, "torch-load") == ["torch-load", *["missing"] * 9, "0 / 6", "missing"]
    assert "torch-load (0 of 6: storage-read 6)" in text
    assert "invalid samples: 24 of 24 (100.0 %): storage-read 24" in terminal_table(samples)


@pytest.mark.parametrize(
    "arms",
    [
        {"torch-load": ARMS["torch-load"]},
        {"safetensors-load-file": ARMS["safetensors-load-file"]},
        {"ceiling-read": ARMS["ceiling-read"]},
        {name: ARMS[name] for name in ("torch-load", "safetensors-load-file")},
        {"a-loader-of-next-year": (5.0, 5.0)},
    ],
    ids=lambda arms: "+".join(arms),
)
def test_a_page_is_made_of_whatever_loaders_there_are(
    tmp_path: Path, arms: dict[str, tuple[float, float]]
) -> None:
    samples = cell_samples(arms=arms)
    run = make_run(tmp_path, samples)
    text = write_run_report(run).read_text(encoding="utf-8")
    for loader in arms:
        cells = row(text, loader)
        assert "" not in cells
        assert ("no reference" in cells) == ("safetensors-load-file" not in arms)
        assert ("no ceiling" in cells) == ("ceiling-read" not in arms)
        assert loader in terminal_table(samples)
    fastest = min(arms, key=lambda loader: arms[loader][1])
    [line] = [
        line
        for line in run_summary(run.manifest(), samples).splitlines()
        if line.startswith("gpt2/warm")
    ]
    assert ("missing" if fastest == "ceiling-read" else fastest) in line


def test_ratios_are_medians_of_the_ratios_within_blocks() -> None:
    cell = only_cell(cell_samples(blocks=7))
    by_block = [(240 * (1 + block / 100)) / (20 * (1 + block / 50)) for block in range(7)]
    ratio = row(markdown(cell_table(cell)), "torch-load")[4]
    low, median, high = min(by_block), statistics.median(by_block), max(by_block)
    assert ratio == f"{median:.1f} [{low:.1f}\u2013{high:.1f}]"
    [figures] = [
        line
        for line in csv.DictReader(io.StringIO(as_csv(cell_frame(cell))))
        if line["loader"] == "torch-load"
    ]
    assert float(figures["ratio_ready"]) == pytest.approx(median)
    assert [float(figures[f"ratio_ready_{end}"]) for end in ("low", "high")] == pytest.approx(
        [low, high]
    )
    assert float(figures["share_of_ceiling"]) == pytest.approx(60 / 240)


def test_a_ratio_is_taken_over_blocks_where_both_are_valid() -> None:
    samples = cell_samples(blocks=7)
    samples = [
        sample if sample.block or sample.loader != "torch-load" else next(spoilt([sample], "hung"))
        for sample in samples
    ]
    expected = statistics.median(
        (200 * (1 + block / 100)) / (4 * (1 + block / 50)) for block in range(1, 7)
    )
    assert row(markdown(cell_table(only_cell(samples))), "torch-load")[3].startswith(
        f"{expected:.1f} ["
    )


def test_the_answer_sets_both_clocks_beside_the_claim(tmp_path: Path) -> None:
    text = write_run_report(make_run(tmp_path, whole_run())).read_text(encoding="utf-8")
    returned = statistics.median(
        (200 * (1 + block / 100)) / (4 * (1 + block / 50)) for block in range(6)
    )
    ready = statistics.median(
        (240 * (1 + block / 100)) / (20 * (1 + block / 50)) for block in range(6)
    )
    [claim] = [
        line
        for line in text.splitlines()
        if "The documentation claims 173 ms against 3.49 ms, 49.5 times" in line
    ]
    assert f"it is {returned:.1f} times by *returned* and {ready:.1f} times once" in claim
    assert "At **gpt2** (498 MB, on cpu)" in text


def test_a_claim_is_not_set_beside_a_checkpoint_of_another_size(tmp_path: Path) -> None:
    text = write_run_report(make_run(tmp_path, cell_samples(checkpoint="lora-1000"))).read_text(
        encoding="utf-8"
    )
    assert "this run has no warm figure of that size" in text


def test_the_fastest_loader_is_named(
    tmp_path: Path,
) -> None:
    arms = ARMS | {"safetensors-safe-open": (4.0, 20.0)}
    samples = [
        (
            msgspec.convert(
                sample.as_json()
                | {"ready_s": 0.020 + 0.001 * ((sample.block * 7 + sample.position) % 3)},
                Sample,
            )
            if sample.loader.startswith("safetensors")
            else sample
        )
        for sample in cell_samples(blocks=8, arms=arms)
    ]
    text = write_run_report(make_run(tmp_path, samples)).read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if "The fastest loader to *ready*" in line]
    first, _, others = line.partition("not significantly different from")
    assert {name for name in arms if name in first} | {name for name in arms if name in others} == {
        "safetensors-load-file",
        "safetensors-safe-open",
    }
    assert "ceiling" not in line


def test_the_ceiling_is_not_called_the_fastest_loader(tmp_path: Path) -> None:
    samples = cell_samples(arms=ARMS | {"ceiling-read": (1.0, 2.0)})
    run = make_run(tmp_path, samples)
    [line] = [
        line
        for line in run_summary(run.manifest(), samples).splitlines()
        if line.startswith("gpt2/warm")
    ]
    assert "safetensors-load-file 21.0 ms" in line


def test_too_few_samples_are_called_insufficient_in_every_place(tmp_path: Path) -> None:
    samples = cell_samples(blocks=5)
    run = make_run(tmp_path, samples, cells=[record(stopped="budget", blocks=5)])
    text = write_run_report(run).read_text(encoding="utf-8")
    cells = row(text, "torch-load")
    assert [cell.endswith("[insufficient]") for cell in cells] == [
        False,
        True,
        True,
        True,
        True,
        False,
        True,
        *[False] * 5,
    ]
    assert cells[-1] == "insufficient"
    assert "too few samples to rank the others" in text
    assert "[insufficient]" in terminal_table(samples)
    summary = run_summary(run.manifest(), samples)
    assert "insufficient: full-load/gpt2/warm/cpu: too few valid samples for an interval" in summary
    assert "cut by the budget: full-load/gpt2/warm/cpu" in summary


def test_the_csv_has_the_rows_of_the_table() -> None:
    samples = list(spoilt(cell_samples(), "hung", loader="torch-load"))
    asked = [*ARMS, "pickle-load", "safetensors-pread"]
    cell = only_cell(
        samples, cells=[record(arms=asked, left_out={"pickle-load": "needs 9 GB of memory"})]
    )
    lines = list(csv.DictReader(io.StringIO(as_csv(cell_frame(cell)))))
    assert [line["loader"] for line in lines] == list(cell_table(cell)["loader"])
    assert {line["loader"] for line in lines} == set(asked)
    assert {line["loader"]: line["status"] for line in lines if line["ready_s"] == "null"} == {
        "torch-load": "missing",
        "safetensors-pread": "missing",
        "pickle-load": "left out",
    }
    assert not any(value == "" for line in lines for value in line.values())


def test_a_refused_cell_shows_its_reason_everywhere(tmp_path: Path) -> None:
    reason = "cold refused: after fsync and eviction 1.000 of a file stays resident"
    run = make_run(
        tmp_path,
        cell_samples(),
        cells=[record(), record(cache_state="cold", status="refused", reason=reason, stopped=None)],
    )
    text = write_run_report(run).read_text(encoding="utf-8")
    assert f"**Cold, on cpu**: refused: {reason}" in text
    assert row(text, "refused") == ["refused", "full-load/gpt2/cold/cpu", reason]
    assert (
        f"Cold, torch-load and safetensors-load-file cannot be compared (refused: {reason})" in text
    )
    summary = run_summary(run.manifest(), run.samples())
    assert f"refused: full-load/gpt2/cold/cpu: {reason}" in " ".join(summary.split())


def test_what_was_skipped_left_out_or_absent_is_named(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        cell_samples(),
        skipped=[{"what": "mistral-7b-v0.1", "reason": "needs 29 GB, 11 GB are free"}],
        cells=[
            record(left_out={"pickle-load": "needs 9 GB of memory"}),
            record("llama-3.2-1b", status="cut", reason="the time was spent"),
        ],
        environments={
            "reference": {"absent": {"harness.loaders.rust:fast": "rust is not installed"}}
        },
    )
    text = write_run_report(run).read_text(encoding="utf-8")
    summary = " ".join(run_summary(run.manifest(), run.samples()).split())
    for kind, what, reason in (
        ("skipped", "mistral-7b-v0.1", "needs 29 GB, 11 GB are free"),
        ("left out", "pickle-load in full-load/gpt2/warm/cpu", "needs 9 GB of memory"),
        ("cut", "full-load/llama-3.2-1b/warm/cpu", "the time was spent"),
        ("absent", "fast in environment reference", "rust is not installed"),
    ):
        assert f"| {kind} | {what} | {reason} |" in text
        assert f"{kind}: {what}: {reason}" in summary


def test_first_calls_are_told_apart_from_loads(tmp_path: Path) -> None:
    calls = {
        "harness.loaders.torch_pickle:torch-load": 0.115,
        "harness.loaders.safetensors_torch:safetensors-load-file": 0.002,
    }
    run = make_run(
        tmp_path,
        cell_samples(),
        environments={"reference": {"torch": "2.13.0", "first_calls": calls}},
    )
    text = write_run_report(run).read_text(encoding="utf-8")
    section = text.partition("## First calls")[2].partition("## What was not measured")[0]
    assert row(section, "torch-load") == ["torch-load", "reference", "115"]
    assert section.index("torch-load |") < section.index("safetensors-load-file |"), (
        "the slowest stands first"
    )
    assert "not to a load" in section


def test_a_reason_with_a_bar_or_a_line_break_stays_in_its_cell(tmp_path: Path) -> None:
    run = make_run(tmp_path, [], skipped=[{"what": "gpt2", "reason": "a | b\nc"}])
    assert "| skipped | gpt2 | a \\| b c |" in write_run_report(run).read_text(encoding="utf-8")


def test_a_persons_name_of_a_checkpoint_stays_in_the_folders(
    tmp_path: Path,
) -> None:
    samples = [
        msgspec.convert(sample.as_json() | {"checkpoint": "../my model"}, Sample)
        for sample in cell_samples()
    ]
    run = make_run(tmp_path / "results", samples)
    write_run_report(run)
    assert {path for path in contents(tmp_path) if not path.startswith(f"results/{RUN}/")} == set()
    assert "figures/returned-ready-..-my-model.svg" in contents(run.path)


def test_the_table_of_a_cell_fits_a_terminal() -> None:
    arms = ARMS | {
        "a-loader-whose-author-liked-long-and-telling-names-above-all": (7_000.0, 123_456.0)
    }
    samples = cell_samples(arms=arms, blocks=12)
    samples = [
        next(spoilt([sample], "storage-read")) if sample.block == 11 else sample
        for sample in samples
    ]
    lines = terminal_table(samples).splitlines()
    assert max(map(len, lines)) <= WIDTH == 110
    assert lines[0].startswith("full-load/gpt2/warm/cpu: 498 MB")
    assert "storage-read 5" in lines[1]
    names = [line.split()[0] for line in lines[3:]]
    assert names[:4] == ["safetensors-load-file", "torch-load-mmap", "ceiling-read", "torch-load"]
    *table, last = lines[3:]
    assert all(line.endswith("11/12") for line in table[: len(arms)])
    assert "The ceiling is ceiling-read (copy, " in " ".join([*table[len(arms) :], last])


def test_a_loader_that_gave_wrong_tensors_once_is_named(tmp_path: Path) -> None:
    samples = cell_samples()
    wrong = {"valid": False, "reason": "wrong-content", "detail": "layer.0 of another dtype"}
    samples = [
        msgspec.convert(
            sample.as_json()
            | (wrong if (sample.loader, sample.block) == ("safetensors-load-file", 3) else {}),
            Sample,
        )
        for sample in samples
    ]
    run = make_run(tmp_path, samples, cells=[record()])
    text = write_run_report(run).read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| safetensors-load-file |"))
    assert row.count("wrong") == 10 and "5 / 6" in row
    assert (
        "**safetensors-load-file returned wrong tensors** in full-load/gpt2/warm/cpu, so it has no"
        " rank there: layer.0 of another dtype" in text
    )
    assert (
        "| wrong | safetensors-load-file in full-load/gpt2/warm/cpu | it has no figure: layer.0 of"
        " another dtype |" in text
    )
    assert "The fastest loader to *ready* is warm **torch-load-mmap**" in text
    summary = run_summary(run.manifest(), samples)
    assert "wrong: safetensors-load-file in full-load/gpt2/warm/cpu" in summary
    assert "torch-load-mmap 30" in summary


def test_gpu_rows_are_called_not_measured_until_one_is(
    tmp_path: Path,
) -> None:
    on_cpu = make_run(tmp_path / "runs", cell_samples(), machine={"gpus": []})
    said = "**GPU rows: not measured.**"
    page = every_page(write_reports([on_cpu], tmp_path / "reports").parent)
    assert page.count(said) == 1 and "| GPU | none |" in page
    assert "on cuda" not in page
    described = {
        "name": "NVIDIA H200",
        "driver": "570.1",
        "memory_bytes": 150_000_000_000,
        "pci_express_generation": 5,
        "pci_express_lanes": 16,
    }
    arms = {
        "ceiling-to-device": (10.0, 10.0),
        "safetensors-load-file": (30.0, 30.0),
        "torch-load": (12.0, 12.0),
    }
    samples = cell_samples(arms=arms, device="cuda", mapped_bytes=0)
    on_gpu = make_run(
        tmp_path / "runs",
        samples,
        name="20250102T000000Z-test",
        machine={"gpus": ["NVIDIA H200"], "gpu_details": [described]},
    )
    page = every_page(write_reports([on_cpu, on_gpu], tmp_path / "reports").parent)
    assert page.count(said) == 1, "the run without a GPU still says so"
    assert "| GPU | NVIDIA H200, 150 GB, PCI Express 5 x16 at most, driver 570.1 |" in page
    assert (
        "The ceiling is ceiling-to-device (transfer, 48.6 GB/s), and the bottleneck is **transfer**"
        " (torch-load); **the loader's own work, or its wait for the GPU**" in page
    )
    assert "returned-ready-gpt2-cuda.svg" in page


def test_a_vendors_figure_stands_beside_what_was_measured(tmp_path: Path) -> None:
    arms = ARMS | {"fastsafetensors": (4.0, 4.0), "runai-model-streamer": (30.0, 30.0)}
    older = make_run(
        tmp_path / "runs",
        cell_samples(arms=ARMS | {"fastsafetensors": (40.0, 40.0)}, cache_state="cold"),
    )
    newer = make_run(
        tmp_path / "runs", cell_samples(arms=arms, cache_state="cold"), name="20250102T000000Z-test"
    )
    cells = {run.name: list(run.cells) for run in gather([newer, older])}
    page = "\n\n".join(vendor_claims(SectionWriter(tmp_path, "front", 1), cells))
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| gpt2")]
    found = {row[3]: row for row in rows}
    assert found["fastsafetensors"][6].startswith("5.12 [5.00")
    assert found["fastsafetensors"][8].startswith("20250102T000000Z-test"), (
        "of two runs the newer one speaks"
    )
    assert [row[7] for row in rows if row[3] == "fastsafetensors"] == ["as said", "more"]
    assert found["runai-model-streamer"][7] == "slower than the other"
    assert "The claim is for cuda; these figures are for cpu." in page
    assert (
        "No run here has instanttensor or instanttensor-buffered together with"
        " safetensors-load-file." in page
    )
    assert (tmp_path / "tables/front/fastsafetensors-1.csv").is_file()


def test_a_table_says_what_binds_each_load_and_at_what_rate(tmp_path: Path) -> None:
    arms = {
        "ceiling-read": (60.0, 60.0),
        "ceiling-copy": (40.0, 40.0),
        "torch-load": (240.0, 240.0),
        "safetensors-pread": (45.0, 45.0),
    }
    (cell,) = cells_of(
        {},
        [
            msgspec.convert(sample.as_json() | {"mapped_bytes": 0}, Sample)
            for sample in cell_samples(arms=arms)
        ],
    )
    frame = cell_frame(cell).set_index("loader")
    assert set(frame["ceiling"]) == {"ceiling-copy"}
    assert frame["bottleneck"].dropna().to_dict() == {
        "safetensors-pread": "copy",
        "torch-load": "the loader's own work",
    }
    assert (
        bottleneck_text(cell, mark="**")
        == "The ceiling is ceiling-copy (copy, 12.1 GB/s), and the bottleneck is **copy**"
        " (safetensors-pread); **the loader's own work** (torch-load)."
    )


def test_times_of_a_terminal_table_share_one_unit() -> None:
    def heads(factor: float) -> str:
        return terminal_table(
            cell_samples(arms={name: (a * factor, b * factor) for name, (a, b) in ARMS.items()})
        ).splitlines()[1]

    assert "returned ms" in heads(1) and "ready ms" in heads(1)
    assert "returned s" in heads(1000) and "ready s" in heads(1000)


def test_a_loader_is_drawn_alike_everywhere() -> None:
    from harness.loaders import all_loaders

    styles = [style_of(name) for name in all_loaders() if not is_ceiling(name)]
    assert len(set(styles)) == len(styles)
    assert style_of("ceiling-read").colour == GREY
    assert {
        name: style_of(name).colour
        for name in ("safetensors-load-file", "torch-load", "torch-load-mmap")
    } == {
        "safetensors-load-file": "#0072B2",
        "torch-load": "#D55E00",
        "torch-load-mmap": "#E69F00",
    }
    assert style_of("a-loader-of-next-year") not in styles


def test_figures_of_size_are_left_out_where_there_is_one_size(tmp_path: Path) -> None:
    run = make_run(tmp_path, cell_samples())
    write_run_report(run)
    assert {path for path in contents(run.path) if path.endswith(".svg")} == {
        f"figures/{name}.svg"
        for name in ("returned-ready-gpt2", "ratio-forest", "share-of-ceiling", "memory-gpt2")
    }


def test_a_gpus_cells_have_figures_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*cell_samples(), *cell_samples(device="cuda")])
    text = write_run_report(run).read_text(encoding="utf-8")
    assert {"figures/returned-ready-gpt2.svg", "figures/returned-ready-gpt2-cuda.svg"} <= set(
        contents(run.path)
    )
    assert "**Warm, on cuda**" in text
    assert "At **gpt2** (498 MB, on cpu)" in text, "the claim is of the CPU"


def test_arms_of_two_environments_are_told_apart(tmp_path: Path) -> None:
    samples = [
        *cell_samples(environment="reference"),
        *cell_samples(environment="older", arms={"torch-load": (900.0, 950.0)}),
    ]
    text = write_run_report(make_run(tmp_path, samples)).read_text(encoding="utf-8")
    assert row(text, "torch-load @ older")[2].startswith("974 [")
    assert row(text, "torch-load @ reference")[2].startswith("246 [")


def test_a_scenario_without_a_table_is_named(
    tmp_path: Path,
) -> None:
    text = write_run_report(make_run(tmp_path, cell_samples(scenario="one-rank"))).read_text(
        encoding="utf-8"
    )
    assert "These scenarios have no table yet: one-rank" in text
    assert "| torch-load |" not in text


def test_a_page_holds_no_path_of_this_machine_and_no_date(tmp_path: Path) -> None:
    run = make_run(tmp_path, whole_run(), created_at="2025-01-01T00:00:00+00:00")
    write_run_report(run)
    for path, content in contents(run.path).items():
        assert str(tmp_path).encode() not in content, path
        assert b"<dc:date>" not in content, path


def test_dots_are_thinned_only_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, cell_samples(blocks=12))
    whole = write_run_report(run).read_text(encoding="utf-8")
    assert "have a dot" not in whole
    size = (run.path / "figures/returned-ready-gpt2.svg").stat().st_size
    monkeypatch.setattr(drawing, "DOTS_AT_MOST", 3)
    text = write_run_report(run).read_text(encoding="utf-8")
    assert text.count(
        "Of more than 3 samples, only 3 have a dot, evenly spaced in their order"
    ) == text.count("How to read it:")
    assert (run.path / "figures/returned-ready-gpt2.svg").stat().st_size < size
    assert "have a dot" not in write_run_report(
        make_run(tmp_path, cell_samples(blocks=3), "20250102T000000Z-b")
    ).read_text(encoding="utf-8")


def test_the_claim_is_marked_at_its_own_size(tmp_path: Path) -> None:
    def marks(samples: Sequence[Sample]) -> list[str]:
        with style.context(["default", LOOK]):
            drawn = ratio_forest(cells_of({}, samples), 49.5)
        assert drawn
        return [text.get_text() for axes in drawn[0].axes for text in axes.texts]

    assert marks(whole_run()) == ["the claim: 49.5x"]
    assert marks(cell_samples(checkpoint="lora-1000")) == []
    assert marks(cell_samples(cache_state="cold")) == []
    assert marks(cell_samples(device="cuda")) == []


def test_each_bottleneck_has_a_shape_of_its_own(
    tmp_path: Path,
) -> None:
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS) == len(MEANING)
    arms = {
        "ceiling-copy": (40.0, 40.0),
        "torch-load": (240.0, 240.0),
        "safetensors-pread": (45.0, 45.0),
    }
    samples = cell_samples(arms=arms, mapped_bytes=0)
    with style.context(["default", LOOK]):
        drawn = shares_of_ceiling(cells_of({}, samples), [])
    assert drawn
    assert [text.get_text() for text in drawn[0].legends[0].texts] == [
        "copy",
        "the loader's own work",
        "the ceiling",
        "one block, below its mark",
    ]
    with style.context(["default", LOOK]):
        assert (
            shares_of_ceiling(cells_of({}, cell_samples(arms={"torch-load": (1.0, 1.0)})), [])
            is None
        )
