"""Blocks of a Markdown file that are generated: how they are marked, filled and checked.

A block stands between two comments: `<!-- generated: NAME -->` and `<!-- end -->`. A figure inside
a sentence is marked in the same way, with `figure` in place of `generated`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import WeighbridgeError, unknown_name

Generate = Callable[[str], str]
"""Returns the text of the block of a name, without its markers."""
REWRITE = "nox -s docs"
_BLOCK = re.compile(
    r"<!-- (?P<kind>generated|figure): (?P<name>[^>]*?) -->(?P<text>.*?)<!-- end -->", re.DOTALL
)
_CODE = "    "
"""How a line of code begins, in which a marker is an example."""
_MARKER = re.compile(r"<!-- (?:generated|figure): [^>]*? -->")


@dataclass(frozen=True)
class Drift:
    """A block whose text is not what is generated for it."""

    file: str
    kind: str
    name: str
    written: str
    generated: str

    def __str__(self) -> str:
        """Say where it is, how it differs and what to run."""
        written, generated = _first_difference(self.written, self.generated)
        return (
            f"{self.file}: the block `{self.kind}: {self.name}` says {written!r} where the code and"
            f" the reference runs give {generated!r}; run `{REWRITE}`"
        )


def filled(text: str, file: str, generators: Mapping[str, Generate]) -> tuple[str, list[Drift]]:
    """Return a file's text with every block as it is generated, and the blocks that differed.

    `generators` has one for each kind of block. Raises `WeighbridgeError` for an unknown name and
    for a block without its end.
    """
    drifts: list[Drift] = []

    def replace(match: re.Match[str]) -> str:
        kind, name, written = match["kind"], match["name"], match["text"]
        before = text[: match.start()].rpartition("\n")[2]
        if before.startswith(_CODE):
            return match[0]
        if _MARKER.search(written):
            raise WeighbridgeError(
                f"{file}: the block `{kind}: {name}` has no end; close it with `<!-- end -->`"
            )
        try:
            generated = generators[kind](name)
        except WeighbridgeError as error:
            raise WeighbridgeError(f"{file}: block `{kind}: {name}`: {error}") from None
        if kind == "generated":
            generated = f"\n{generated.strip(chr(10))}\n"
        if kind == "figure" and not before:
            raise WeighbridgeError(
                f"{file}: the figure `{name}` begins a line, and Markdown would take the line for"
                " HTML; put a word before it"
            )
        if generated != written:
            drifts.append(Drift(file, kind, name, written, generated))
        return match[0].replace(f"-->{written}<!--", f"-->{generated}<!--")

    result = _BLOCK.sub(replace, text)
    if len(_MARKER.findall(result)) != len(_BLOCK.findall(result)):
        raise WeighbridgeError(f"{file}: its last block has no end; close it with `<!-- end -->`")
    return result, drifts


def by_name(known: Mapping[str, Callable[[], str]]) -> Generate:
    """Return what generates the blocks of these names; another name raises `WeighbridgeError`."""

    def generate(name: str) -> str:
        if name not in known:
            raise unknown_name("block", name, known)
        return known[name]()

    return generate


def documents(root: Path) -> list[Path]:
    """Return the files that may hold blocks: README, CONTRIBUTING and every page of docs."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def _first_difference(written: str, generated: str) -> tuple[str, str]:
    """Return the first line of each text in which they differ."""
    left, right = written.splitlines() or [""], generated.splitlines() or [""]
    for number in range(max(len(left), len(right))):
        pair = tuple(lines[number] if number < len(lines) else "" for lines in (left, right))
        if pair[0] != pair[1]:
            return pair[0], pair[1]
    return written, generated
