"""The sentences of the documentation; `python -m tests.prose` prints the longest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.documentation.blocks import documents
from tests.helpers import ROOT

_GENERATED = re.compile(r"<!-- generated: [^>]* -->.*?<!-- end -->", re.DOTALL)
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_NOT_PROSE = re.compile(r"^(#|\||!\[|\s{4}|$)")
_ITEM = re.compile(r"^(?:[-*]|\d+\.)\s+")
_END = re.compile(r"(?<=[.!?])\*{0,2}\s+(?=[A-Z`*\[(“]|\d)")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page of Markdown.

    Headings, tables, code and generated blocks are left out.
    """
    plain = _FENCED.sub("\n", _GENERATED.sub("\n", text))
    plain = re.sub(r"<!--.*?-->", "", plain, flags=re.DOTALL)
    paragraph: list[str] = []
    for line in [*plain.splitlines(), ""]:
        item = _ITEM.match(line)
        if (item or _NOT_PROSE.match(line)) and paragraph:
            yield from _split(" ".join(paragraph))
            paragraph = []
        if not _NOT_PROSE.match(line):
            paragraph.append(_ITEM.sub("", line).strip())


def longest(root: Path, count: int) -> list[tuple[int, str, str]]:
    """Return (words, file, sentence) of the longest sentences of README, CONTRIBUTING and docs."""
    every = [
        (len(sentence.split()), path.relative_to(root).as_posix(), sentence)
        for path in documents(root)
        for sentence in sentences(path.read_text(encoding="utf-8"))
    ]
    return sorted(every, reverse=True)[:count]


def _split(paragraph: str) -> Iterator[str]:
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", paragraph)
    plain = re.sub(r"`[^`]*`", "`code`", plain)
    yield from (part for part in _END.split(plain) if part.strip())


if __name__ == "__main__":
    for words, file, sentence in longest(ROOT, 40):
        print(f"{words:3} {file}: {sentence}")
