"""What README and docs say: generated from the code and the reference runs, and plainly written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.cli import COMMANDS
from harness.documentation.__main__ import drifts, generators
from harness.documentation.blocks import Generate, documents, filled
from harness.documentation.quotes import ReferenceRuns
from harness.errors import WeighbridgeError
from harness.loaders import KINDS, all_loaders
from tests.helpers import ROOT
from tests.prose import longest

README_LINES = 120
WORDS_AT_MOST = 25
"""Most words of a sentence, figures counted."""


@pytest.fixture(scope="module")
def known() -> Mapping[str, Generate]:
    return generators(ROOT)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Return a folder with a copy of every page."""
    (tmp_path / "docs").mkdir()
    for path in documents(ROOT):
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return tmp_path


def test_every_block_is_what_the_code_and_the_runs_give(known: Mapping[str, Generate]) -> None:
    assert [str(drift) for drift in drifts(ROOT, known)[1]] == []


@pytest.mark.parametrize(
    ("page", "block", "change"),
    [
        ("README.md", "figure: warm-ready, interval", (r"\d+\.\d times", "99.6 times")),
        (
            "docs/getting-started.md",
            "generated: options",
            (r"\| `--seed N` \|.*", "| `--seed N` | x |"),
        ),
        ("docs/commands.md", "generated: commands", (r"Remove files from", "Throw files out of")),
        ("docs/loaders.md", "generated: loaders", (r"\| `torch-load` \|.*\n", "")),
        ("docs/results-format.md", "generated: reasons", (r"`not-cold`", "`lukewarm`")),
    ],
)
def test_a_change_by_hand_is_named(
    page: str, block: str, change: tuple[str, str], pages: Path, known: Mapping[str, Generate]
) -> None:
    path = pages / page
    text = path.read_text(encoding="utf-8")
    changed, count = re.subn(*change, text, count=1)
    assert count == 1
    path.write_text(changed, encoding="utf-8")
    texts, (drift,) = drifts(pages, known)
    assert f"{page}: the block `{block}`" in str(drift)
    assert "nox -s docs" in str(drift)
    assert texts[path] == text, "what is rewritten is the page as it was"


def test_the_check_fails_for_a_page_that_drifted(pages: Path) -> None:
    readme = pages / "README.md"
    readme.write_text(
        readme.read_text("utf-8") + "\nAn <!-- figure: fault-count -->0<!-- end -->\n"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "harness.documentation", "--check", "--documents", str(pages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1, checked.stderr
    assert "README.md: the block `figure: fault-count` says '0'" in checked.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<!-- generated: nothing -->\n<!-- end -->",
            "unknown block 'nothing'; there are: options",
        ),
        ("a <!-- figure: nothing -->1<!-- end -->", "unknown figure 'nothing'"),
        ("<!-- generated: options -->\nno end", "has no end"),
        ("<!-- generated: options -->\n<!-- generated: options -->\n<!-- end -->", "has no end"),
        ("<!-- figure: fault-count -->1<!-- end --> at first", "begins a line"),
    ],
)
def test_a_block_that_cannot_be_made_is_named(
    text: str, message: str, known: Mapping[str, Generate]
) -> None:
    one_block: dict[str, Generate] = {**known, "generated": _only_options}
    with pytest.raises(WeighbridgeError, match=r"page\.md") as raised:
        filled(text, "page.md", one_block)
    assert message in str(raised.value)


def _only_options(name: str) -> str:
    if name != "options":
        raise WeighbridgeError(f"unknown block {name!r}; there are: options")
    return "x"


def test_every_command_and_loader_is_documented() -> None:
    commands = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    loaders = (ROOT / "docs/loaders.md").read_text(encoding="utf-8")
    method = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"### {name}\n" not in commands] == []
    names = {name: loader for kind in KINDS for name, (_, loader) in all_loaders(kind).items()}
    missing = [
        name
        for name, loader in names.items()
        if f"| `{name}` |" not in (method if loader.ceiling else loaders)
    ]
    assert missing == []


def test_the_readme_fits_on_three_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_no_sentence_of_the_documentation_is_long() -> None:
    assert [entry for entry in longest(ROOT, 20) if entry[0] > WORDS_AT_MOST] == []


def test_every_figure_that_a_page_shows_is_committed() -> None:
    tracked = set(
        subprocess.run(
            ["git", "ls-files", "reports"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
    )
    shown = {
        name
        for path in documents(ROOT)
        for name in re.findall(r"reports/[\w/.-]+\.(?:svg|md|html)", path.read_text("utf-8"))
    }
    assert shown <= tracked
    assert {path for path in tracked if path.endswith(".svg")} <= shown


def test_a_table_whose_runs_are_missing_says_what_to_do() -> None:
    runs = ReferenceRuns(ROOT)
    runs.runs = [SimpleNamespace(name="a", manifest={"calibration": {"arms": []}})]  # type: ignore[list-item]
    with pytest.raises(WeighbridgeError, match=r"other_rules\.py"):
        runs.regression_rules()
    with pytest.raises(WeighbridgeError, match="two reference runs"):
        runs.two_boots()
