"""Figures inside a page: matplotlib's SVG made to share one set of letters, to keep its names
apart, and to follow a page's colours.
"""

from __future__ import annotations

import re
from html import escape

_GLYPH = re.compile(r'<path id="(DejaVuSans[\w-]*)" d="([^"]*)"([^>]*)/>')
_COLOURS = {
    "#000000": "var(--ink)",
    "#222222": "var(--ink)",
    "#333333": "var(--ink)",
    "#444444": "var(--ink)",
    "#666666": "var(--ink-2)",
    "#e4e4e4": "var(--grid)",
    "#eeeeee": "var(--grid)",
    "#ffffff": "var(--sheet)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--vermillion)",
    "#7f7f7f": "var(--grey)",
    "#d0d0d0": "var(--still)",
    "#8f4470": "var(--plum)",
}
"""The inks of the figures, and those colours of the palette that are too dark for a dark page,
which follow the page.
"""


class Glyphs:
    """The letters that the figures of a page share."""

    def __init__(self) -> None:
        self._shapes: dict[str, str] = {}

    def take(self, match: re.Match[str]) -> str:
        """Keep a letter, and leave nothing in its place."""
        self._shapes[match[1]] = (
            f'<path id="{match[1]}" d="{" ".join(match[2].split())}"{match[3].rstrip()}/>'
        )
        return ""

    def shared(self) -> str:
        """Return every letter, in a drawing that shows nothing."""
        shapes = "".join(self._shapes[name] for name in sorted(self._shapes))
        return f'<svg class="glyphs" aria-hidden="true"><defs>{shapes}</defs></svg>'


def inlined(drawing: str, alt: str, number: int, glyphs: Glyphs) -> str:
    """Return an SVG file's drawing for the inside of a page: `alt` as its name, its own names made
    the page's `number`-th figure's.
    """
    text = drawing[drawing.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _GLYPH.sub(glyphs.take, text)
    text = re.sub(r"<defs>\s*</defs>", "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to a group
    text = re.sub(
        r'(<use [^>]*)transform="translate\(([\d.]+) 0\)"', r'\1x="\2"', text
    )  # most of a page's marks are letters
    kept = r"(?!DejaVuSans)"
    for before, after in (('id="', '"'), ('href="#', '"'), (r"url\(#", r"\)")):
        text = re.sub(
            rf"{before}{kept}([^\"\)]*){after}", lambda match: _renamed(match, number), text
        )
    text = re.sub(
        r"#[0-9a-fA-F]{6}\b", lambda match: _COLOURS.get(match[0].lower(), match[0]), text
    )
    opening = re.search(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', text, re.DOTALL)
    if opening is None:
        raise ValueError("no drawing with a viewBox")
    width = float(opening[1].split()[2])
    head = (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="{opening[1]}" style="width:'
        f' {width * 96 / 72:.0f}px">'
    )
    return re.sub(r"\n\s*", "\n", head + text[opening.end() :])


def _renamed(match: re.Match[str], number: int) -> str:
    return match[0].replace(match[1], f"f{number}-{match[1]}", 1)
