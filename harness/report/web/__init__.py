"""The page as one file for a browser: the same blocks of Markdown, its figures, style and script inside it, and nothing from a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape, unescape
from pathlib import Path

from markdown_it import MarkdownIt

from harness.report.front import Front
from harness.report.web.drawings import Glyphs, inlined

_HERE = Path(__file__).parent
_IMAGE = re.compile(r'<p><img src="([^"]*)" alt="([^"]*)" ?/?></p>\n(?:<p>(How to read it: .*?)</p>\n)?', re.DOTALL)
_CELL = re.compile(r"<td([^>]*)>(.*?)</td>", re.DOTALL)
_LONG = 48
"""A cell of more letters is given room."""
_TALLY = {"holds": "holds", "holds only if": "only", "does not hold": "fails", "not tested here": "open"}


def web_page(front: Front, sections: Sequence[Sequence[str]], runs: Mapping[str, Sequence[str]], folder: Path) -> str:
    """Return the page in HTML: the sections open, and every run's own page folded below. `folder` is where figures are found."""
    glyphs = Glyphs()
    converter = _Converter(folder, glyphs, tuple(runs))
    body = [converter.html(section) for section in sections]
    folded = [
        f'<details id="{name}"><summary>Run {escape(name)}</summary><div>\n{converter.folded(blocks)}</div></details>'
        for name, blocks in runs.items()
    ]
    tally = "".join(
        f'<li class="{_TALLY[verdict]}"><b>{count}</b><span>{escape(verdict)}</span></li>' for verdict, count in front.tally.items()
    )
    contents = "".join(f'<li><a href="#{anchor}">{title}</a></li>' for anchor, title in converter.contents)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            f"<title>Weighbridge: {escape(front.question)}</title>",
            f"<style>\n{(_HERE / 'page.css').read_text(encoding='utf-8')}</style></head><body>",
            glyphs.shared(),
            f'<header class="top"><p class="name">Weighbridge</p><h1>{escape(front.question)}</h1><p class="lede">{escape(front.lede)}</p>',
            f'<ul class="tally">{tally}</ul></header>' if tally else "</header>",
            f'<nav class="toc" aria-label="Contents"><ul>{contents}<li><a href="#every-run">Every run</a></li></ul></nav>',
            "<main>",
            *body,
            '<h2 id="every-run">Every run, with all its tables</h2>',
            *folded,
            "</main>",
            "<footer>Made from the runs' manifests and samples, and from nothing else. The same runs give the same bytes.</footer>",
            f"<script>\n{(_HERE / 'page.js').read_text(encoding='utf-8')}</script></body></html>\n",
        ]
    )


class _Converter:
    """Turns blocks of Markdown into HTML; remembers the anchors given and the figures drawn, so that none stands twice."""

    def __init__(self, folder: Path, glyphs: Glyphs, runs: tuple[str, ...]) -> None:
        self._folder, self._glyphs, self._runs = folder, glyphs, runs
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self._taken: Counter[str] = Counter()
        self._figures: dict[str, int] = {}
        self._folded = False
        self.contents: list[tuple[str, str]] = []

    def folded(self, blocks: Sequence[str]) -> str:
        """Return the blocks of a run's own page as HTML for under a heading: headings a level lower, and figures as the way to them.

        Drawn again, the figures of all runs would be most of the page.
        """
        self._folded = True
        return self.html([f"#{block}" if re.match(r"#{1,5} ", block) else block for block in blocks[1:]])

    def html(self, blocks: Sequence[str]) -> str:
        """Return blocks as HTML: tables that scroll, figures drawn in place, headings with anchors."""
        text = self._markdown.render("\n\n".join(blocks))
        text = _IMAGE.sub(lambda found: self._figure(*found.groups()), text)
        text = re.sub(r"<h([1-5])>(.*?)</h\1>", self._heading, text)
        text = re.sub(r'<(t[hd]) style="text-align:right">', r'<\1 class="right">', text)
        text = _CELL.sub(_roomy, text)
        text = text.replace("<table>", '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>').replace(
            "</table>", "</table></div>"
        )
        for verdict, kind in _TALLY.items():
            text = text.replace(f"<strong>{verdict}</strong>", f'<strong class="{kind}">{verdict}</strong>')
        for run in self._runs:
            text = text.replace(f'href="{run}.md"', f'href="#{run}"')
        return text

    def _heading(self, found: re.Match[str]) -> str:
        level, title = int(found[1]), found[2]
        stem = re.sub(r"[^a-z0-9]+", "-", unescape(re.sub(r"<[^>]*>", "", title)).lower()).strip("-") or "part"
        self._taken[stem] += 1
        anchor = stem if self._taken[stem] == 1 else f"{stem}-{self._taken[stem]}"
        if level == 2:
            self.contents.append((anchor, title))
        return f'<h{level} id="{anchor}">{title}</h{level}>'

    def _figure(self, source: str, alt: str, reading: str | None) -> str:
        """Return a figure drawn in place, or the way to it: to its place where the page has it already, to its file from a folded run."""
        if source in self._figures or self._folded:
            way = f"#figure-{self._figures[source]}" if source in self._figures else source
            return f'<p>Figure: <a href="{way}">{alt}</a>.</p>\n'
        number = self._figures[source] = len(self._figures) + 1
        drawing = inlined((self._folder / unescape(source)).read_text(encoding="utf-8"), unescape(alt), number, self._glyphs)
        caption = f"<figcaption>{reading}</figcaption>" if reading else ""
        frame = f'<div class="scroll" tabindex="0" role="region" aria-label="Figure">{drawing}</div>'
        return f'<figure id="figure-{number}">{frame}{caption}</figure>\n'


def _roomy(found: re.Match[str]) -> str:
    long = len(re.sub(r"<[^>]*>", "", found[2])) > _LONG
    return f'<td class="long">{found[2]}</td>' if long else found[0]
