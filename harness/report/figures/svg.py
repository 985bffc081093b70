"""A figure as an SVG file, the same bytes on every processor."""

from __future__ import annotations

import io
import re
from pathlib import Path

from matplotlib.figure import Figure

_PLACES = re.compile(
    r'(?<= d=")[^"]*|(?<= [xy]=")[^"]*|(?<= width=")[^"]*|(?<= height=")[^"]*|(?<=translate\()[^)]*'
)
"""Where something is drawn: paths, marks and what is moved; how far it is scaled and how thick it
is stay as they are.
"""

_LONG = re.compile(r"-?\d+\.\d{3,}")
_NAMED = re.compile(r'(?<= id=")(\w*?)([0-9a-f]{10})(?=")')
"""What matplotlib names by a digest of the places it holds."""


def write_svg(figure: Figure, path: Path) -> None:
    """Write a figure to `path`, its folder made, every place in it to a hundredth of a point.

    No eye sees less. The millionths that matplotlib writes hold how one processor rounds a
    logarithm, which another does differently; in hundredths they all write the same. What is named
    by a digest of millionths is named by its number instead.
    """
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    text = _PLACES.sub(lambda places: _LONG.sub(_rounded, places[0]), drawing.getvalue())
    names = {
        match[0]: f"{match[1]}{number}" for number, match in enumerate(_NAMED.finditer(text), 1)
    }
    text = re.sub("|".join(names) or "$^", lambda match: names[match[0]], text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _rounded(number: re.Match[str]) -> str:
    """Return a number to two places, without zeros at its end."""
    short = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short
