"""The page of a run for a browser: its blocks of Markdown with tables that sort and figures drawn
in place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from html import escape
from itertools import pairwise
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markdown_it.token import Token

from harness.report.web.drawings import Glyphs, inlined

HERE = Path(__file__).parent
_LONG = 48
"""A cell of more letters is given room."""
_SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="{}">'
_RUN_PAGE = re.compile(r"^([\w.-]+)\.md$")
"""A link to the page of a run."""
_VERDICTS = ("verdict", "outcome")
"""The heads of columns that stay in view on a narrow screen."""
_CAPTION = "How to read it: "
_TABLE_FILE = "As CSV"
"""How a block begins that only links to a table's file: the page holds the figures already, in
tables that sort.
"""


def page_html(title: str, blocks: Sequence[str], folder: Path, drawn: Set[str]) -> str:
    """Return a page in HTML of blocks of Markdown.

    `drawn` are the figures, as paths in `folder`, that are drawn in place; others are named.
    """
    glyphs = Glyphs()
    converter = _Converter(folder, glyphs, drawn)
    content = converter.html(blocks)
    return (
        templates()
        .get_template("page.html.jinja")
        .render(title=title, contents=converter.contents, content=content, glyphs=glyphs.shared())
    )


def templates() -> Environment:
    """Return the templates of this folder, which escape what they are given."""
    return Environment(loader=FileSystemLoader(HERE), autoescape=True, keep_trailing_newline=True)


def inline_html(text: str) -> str:
    """Return a line of Markdown as HTML without a paragraph around it."""
    return str(_INLINE.renderInline(text))


def stacked_table(frame: pd.DataFrame, link: Callable[[str], str] | None = None) -> str:
    """Return a frame of text as a table that a narrow screen shows row by row.

    `link` turns what the last column holds into HTML; the rest is Markdown.
    """
    heads = [str(name) for name in frame.columns]
    rows = []
    for row in frame.itertuples(index=False):
        cells = [inline_html(str(value)) for value in row]
        if link is not None:
            cells[-1] = link(str(row[-1]))
        rows.append(
            "".join(
                f'<td data-label="{escape(head)}"><div>{cell}</div></td>'
                for head, cell in zip(heads, cells, strict=True)
            )
        )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


_INLINE = MarkdownIt("commonmark", {"html": False})


class _Converter:
    """Turns blocks of Markdown into HTML.

    Remembers anchors and figures, so that none stands twice.
    """

    def __init__(self, folder: Path, glyphs: Glyphs, drawn: Set[str]) -> None:
        self._folder, self._glyphs, self._drawn = folder, glyphs, drawn
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self._markdown.add_render_rule(
            "table_open", lambda *_: f"{_SCROLL.format('Table')}<table>\n"
        )
        self._markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
        self._anchors: Counter[str] = Counter()
        self._figures: dict[str, int] = {}
        self.contents: list[tuple[str, str]] = []

    def html(self, blocks: Sequence[str]) -> str:
        """Return blocks as HTML: tables that scroll, figures drawn in place, headings with
        anchors.
        """
        text = "\n\n".join(block for block in blocks if not block.startswith(_TABLE_FILE))
        tokens = self._markdown.parse(text)
        for before, token in zip([None, *tokens], tokens, strict=False):
            if token.type == "inline":
                self._mark(before, token)
        _mark_verdicts(tokens)
        return str(
            self._markdown.renderer.render(
                list(self._with_figures(tokens)), self._markdown.options, {}
            )
        )

    def _mark(self, opening: Token | None, inline: Token) -> None:
        """Give a heading its anchor, a cell its class, and a link to a run its page."""
        if opening and opening.type == "heading_open":
            self._anchor(opening, _plain(inline))
        elif opening and opening.type in ("td_open", "th_open"):
            classes = ["right"] if opening.attrs.pop("style", None) == "text-align:right" else []
            if opening.type == "td_open" and len(_plain(inline)) > _LONG:
                classes = ["long"]
            if classes:
                opening.attrSet("class", " ".join(classes))
        for child in inline.children or []:
            if child.type == "link_open":
                child.attrSet("href", _RUN_PAGE.sub(r"\1.html", str(child.attrGet("href"))))

    def _anchor(self, heading: Token, title: str) -> None:
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"
        self._anchors[stem] += 1
        anchor = stem if self._anchors[stem] == 1 else f"{stem}-{self._anchors[stem]}"
        heading.attrSet("id", anchor)
        if heading.tag == "h2":
            self.contents.append((anchor, title))

    def _with_figures(self, tokens: Sequence[Token]) -> Iterator[Token]:
        """Yield the tokens with each paragraph that is an image, and its caption, as one figure."""
        position = 0
        while position < len(tokens):
            image = _image(tokens[position : position + 3])
            if image is None:
                yield tokens[position]
                position += 1
                continue
            position += 3
            caption = None
            following = tokens[position : position + 3]
            if len(following) == 3 and following[1].content.startswith(_CAPTION):
                caption = str(
                    self._markdown.renderer.render([following[1]], self._markdown.options, {})
                )
                position += 3
            html = Token("html_block", "", 0)
            html.content = self._figure(str(image.attrGet("src")), image.content, caption)
            yield html

    def _figure(self, source: str, alt: str, caption: str | None) -> str:
        """Return a figure drawn in place, or in words where it is not one of those."""
        if source not in self._drawn or source in self._figures:
            return f"<p>Figure: {escape(alt)}. <code>nox -s report</code> draws it.</p>\n"
        number = self._figures[source] = len(self._figures) + 1
        drawing = inlined(
            (self._folder / source).read_text(encoding="utf-8"), alt, number, self._glyphs
        )
        below = f"<figcaption>{caption}</figcaption>" if caption else ""
        return (
            "<figure"
            f' id="figure-{number}">{_SCROLL.format("Figure")}{drawing}</div>{below}</figure>\n'
        )


def _mark_verdicts(tokens: Sequence[Token]) -> None:
    """Give the cells of a column of verdicts the class that keeps it in view."""
    column, verdicts = 0, -1
    for opening, inline in pairwise(tokens):
        if opening.type == "table_open":
            verdicts = -1
        elif opening.type == "tr_open":
            column = 0
        elif opening.type in ("th_open", "td_open"):
            if opening.type == "th_open" and inline.content in _VERDICTS:
                verdicts = column
            if column == verdicts and column:
                opening.attrJoin("class", "verdict")
            column += 1


def _plain(inline: Token) -> str:
    """Return the text of an inline token without its marks."""
    return "".join(
        child.content for child in inline.children or [] if child.type in ("text", "code_inline")
    )


def _image(tokens: Sequence[Token]) -> Token | None:
    """Return the image that a paragraph of three tokens holds, None where it holds anything
    else.
    """
    if len(tokens) < 3 or tokens[0].type != "paragraph_open" or tokens[1].type != "inline":
        return None
    children = tokens[1].children or []
    return children[0] if len(children) == 1 and children[0].type == "image" else None
