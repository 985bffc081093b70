"""A figure as an SVG file, the same bytes on every processor."""

from __future__ import annotations

import io
import re
from pathlib import Path

from matplotlib.figure import Figure

_PLACES = re.compile(r'(?<= d=")[^"]*|(?<= x=")[^"]*|(?<= y=")[^"]*|(?<=translate\()[^)]*')
"""Where something is drawn: paths, marks and what is moved; how far it is scaled and how thick it is stay as they are."""
_LONG = re.compile(r"-?\d+\.\d{3,}")


def write_svg(figure: Figure, path: Path) -> None:
    """Write a figure to `path`, its folder made, every place in it to a hundredth of a point.

    No eye sees less. The millionths that matplotlib writes hold how one processor rounds a logarithm, which another does differently; in
    hundredths they all write the same.
    """
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    text = _PLACES.sub(lambda places: _LONG.sub(_rounded, places[0]), drawing.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _rounded(number: re.Match[str]) -> str:
    """Return a number to two places, without zeros at its end."""
    short = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short
