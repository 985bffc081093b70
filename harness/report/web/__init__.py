"""The page as one file for a browser: the blocks of Markdown with figures, style and script inside,
and nothing from a network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markdown_it.token import Token

from harness.report.index_page import Front
from harness.report.web.drawings import Glyphs, inlined

_HERE = Path(__file__).parent
_LONG = 48
"""A cell of more letters is given room."""
_CLASSES = {
    "holds": "holds",
    "holds partly": "only",
    "does not hold": "fails",
    "not tested": "open",
}
"""The class by which the style sheet knows each verdict."""
_SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="{}">'
_CAPTION = "How to read it: "
_TABLE_FILE = "In plain figures"
"""How a block begins that only links to a table's file: the page holds the figures already, in
tables that sort.
"""


def web_page(
    front: Front, sections: Sequence[Sequence[str]], runs: Mapping[str, Sequence[str]], folder: Path
) -> str:
    """Return the page in HTML: the sections open, and every run's own page folded below.

    `folder` is where figures are found.
    """
    glyphs = Glyphs()
    converter = _Converter(folder, glyphs, runs)
    open_sections = [converter.html(section) for section in sections]
    folded = [(name, converter.folded(blocks)) for name, blocks in runs.items()]
    template = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, keep_trailing_newline=True
    )
    return template.get_template("page.html.jinja").render(
        question=front.question,
        lede=front.lede,
        tally=[(verdict, _CLASSES[verdict], count) for verdict, count in front.tally.items()],
        contents=converter.contents,
        sections=open_sections,
        runs=folded,
        glyphs=glyphs.shared(),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
    )


class _Converter:
    """Turns blocks of Markdown into HTML.

    Remembers anchors and figures, so that none stands twice.
    """

    def __init__(self, folder: Path, glyphs: Glyphs, runs: Mapping[str, Sequence[str]]) -> None:
        self._folder, self._glyphs = folder, glyphs
        self._links = {f"{run}.md": f"#{run}" for run in runs}
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self._markdown.add_render_rule(
            "table_open", lambda *_: f"{_SCROLL.format('Table')}<table>\n"
        )
        self._markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
        self._anchors: Counter[str] = Counter()
        self._figures: dict[str, int] = {}
        self._is_folded = False
        self.contents: list[tuple[str, str]] = []

    def folded(self, blocks: Sequence[str]) -> str:
        """Return a run's own page as HTML for under a heading.

        Its headings are a level lower, and its figures are links: drawn again, the figures of all
        runs would be most of the page.
        """
        self._is_folded = True
        return self.html(
            [f"#{block}" if re.match(r"#{1,5} ", block) else block for block in blocks[1:]]
        )

    def html(self, blocks: Sequence[str]) -> str:
        """Return blocks as HTML: tables that scroll, figures drawn in place, headings with
        anchors.
        """
        text = "\n\n".join(block for block in blocks if not block.startswith(_TABLE_FILE))
        tokens = self._markdown.parse(text)
        for before, token in zip([None, *tokens], tokens, strict=False):
            if token.type == "inline":
                self._mark(before, token)
        return str(
            self._markdown.renderer.render(
                list(self._with_figures(tokens)), self._markdown.options, {}
            )
        )

    def _mark(self, opening: Token | None, inline: Token) -> None:
        """Give a heading its anchor, a cell its class, a verdict its colour, and a link to a run
        its place.
        """
        if opening and opening.type == "heading_open":
            self._anchor(opening, _plain(inline))
        elif opening and opening.type in ("td_open", "th_open"):
            classes = ["right"] if opening.attrs.pop("style", None) == "text-align:right" else []
            if opening.type == "td_open" and len(_plain(inline)) > _LONG:
                classes = ["long"]
            if classes:
                opening.attrSet("class", " ".join(classes))
        children = inline.children or []
        for child, following in zip(children, [*children[1:], None], strict=True):
            if child.type == "link_open":
                child.attrSet(
                    "href", self._links.get(str(child.attrGet("href")), str(child.attrGet("href")))
                )
            elif child.type == "strong_open" and following and following.content in _CLASSES:
                child.attrSet("class", _CLASSES[following.content])

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
        """Return a figure drawn in place, or in words where the page has it already or a run is
        folded.
        """
        if source in self._figures:
            return f'<p>Figure: <a href="#figure-{self._figures[source]}">{escape(alt)}</a>.</p>\n'
        if self._is_folded:
            return f"<p>Figure: {escape(alt)}.</p>\n"
        number = self._figures[source] = len(self._figures) + 1
        drawing = inlined(
            (self._folder / source).read_text(encoding="utf-8"), alt, number, self._glyphs
        )
        below = f"<figcaption>{caption}</figcaption>" if caption else ""
        return (
            "<figure"
            f' id="figure-{number}">{_SCROLL.format("Figure")}{drawing}</div>{below}</figure>\n'
        )


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
