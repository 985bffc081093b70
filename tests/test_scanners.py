"""Scanners as loaders of their own kind: what they find, pass, and cannot tell, each by its
library's own word.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.hostile import HostileFile, corpus, write_corpus
from harness.loaders import SCANNER, all_loaders
from harness.loaders.scanners import CannotTellError, FoundError
from tests.helpers import installed

NAMES = tuple(all_loaders(SCANNER))
Look = Callable[[str, str], None]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Has a scanner look at a file of the corpus, and at all that lies beside it."""
    known: dict[str, HostileFile] = {one.name: one for one in corpus()}

    def look(scanner: str, name: str) -> None:
        loader = all_loaders(SCANNER)[scanner][1]
        for package in loader.requires:
            installed(package)
        written, _ = write_corpus([known[name]], tmp_path)
        loader.load([str(path) for path in written[0].files], "cpu")

    return look


@pytest.mark.parametrize("scanner", NAMES)
def test_a_plain_payload_is_found(scanner: str, look: Look) -> None:
    with pytest.raises(FoundError):
        look(scanner, "os-system.pkl")


@pytest.mark.parametrize("scanner", [name for name in NAMES if name != "fickling"])
def test_a_whole_torch_file_is_passed(scanner: str, look: Look) -> None:
    look(scanner, "whole.bin")


def test_fickling_calls_every_torch_file_likely_unsafe(look: Look) -> None:
    with pytest.raises(FoundError, match="unsafe"):
        look("fickling", "whole.bin")


@pytest.mark.parametrize(
    "scanner", [name for name in NAMES if name != "picklescan"]
)  # which passes whatever is no pickle
def test_what_it_does_not_look_at_is_not_passed(scanner: str, tmp_path: Path) -> None:
    loader = all_loaders(SCANNER)[scanner][1]
    for package in loader.requires:
        installed(package)
    (tmp_path / "a.json").write_text("{}")
    # a library may say it by an error of its own
    with pytest.raises(Exception) as raised:  # noqa: PT011
        loader.load([str(tmp_path / "a.json")], "cpu")
    assert not isinstance(raised.value, FoundError)


@pytest.mark.parametrize("scanner", ["picklescan", "weighbridge-scan"])
def test_a_payload_in_a_shard_is_found_behind_an_index(scanner: str, look: Look) -> None:
    with pytest.raises(FoundError):
        look(scanner, "index-of-torch-files")


def test_a_file_that_cannot_be_told_says_so_in_words(look: Look) -> None:
    with pytest.raises(CannotTellError, match="safetensors"):
        look("weighbridge-scan", "length-nothing.safetensors")


def test_what_was_scanned_is_held_against_the_checkpoint(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3)}, tmp_path / "a.bin")
    loader = all_loaders(SCANNER)["picklescan"][1]
    assert loader.load([str(tmp_path / "a.bin")], "cpu") == {}
    assert torch.equal(loader.content({}, [str(tmp_path / "a.bin")])["a"], torch.arange(3))
