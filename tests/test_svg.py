"""Figures as SVG files."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.path import Path as Path2D

from harness.report.figures.style import LOOK
from harness.report.figures.svg import write_svg


def _drawn(path: Path, off: float = 0.0) -> str:
    with style.context(["default", LOOK]):
        figure = Figure()
        axes = figure.add_axes((0.1, 0.1, 0.8 + off, 0.8 + off / 3))
        axes.plot(
            [0.1, 1 / 3 + off, 0.7],
            [1 / 7, -2 / 3 + off, 0.9],
            marker=Path2D([(0, 0), (1 + off, 1 / 3)]),
        )
        axes.text(1 / 3, 1 / 7, "a", rotation=17, fontsize=7.3)
        write_svg(figure, path)
    return path.read_text(encoding="utf-8")


def test_what_differs_in_the_last_digit(tmp_path: Path) -> None:
    """Also where it is part of what something is named by: clip paths and marks are, by a digest of
    where they lie.
    """

    assert _drawn(tmp_path / "new/folder/a.svg", off=1e-13) == _drawn(tmp_path / "a.svg")
    assert _drawn(tmp_path / "b.svg", off=1e-3) != _drawn(tmp_path / "a.svg")


def test_places_have_two_digits_and_scales_all_of_theirs(tmp_path: Path) -> None:
    drawing = _drawn(tmp_path / "a.svg")
    paths = re.findall(r' d="([^"]*)"', drawing)
    assert paths and not any(re.search(r"\.\d{3}|-0[ \n\"]|\.\d0\b", path) for path in paths)
    assert "scale(0.015625)" in drawing
