"""Figures of bars as HTML: text that scales, wraps and can be read aloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from harness.analysis.statistics import Estimate
from harness.report.front.names import Family
from harness.report.verdict_text import prose_time


@dataclass(frozen=True)
class Bar:
    """One row: its name, its length with the interval of its median, and that as text."""

    name: str
    value: float
    text: str
    family: Family
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """Bars under one heading."""

    title: str
    bars: tuple[Bar, ...]


def time_bar(name: str, estimate: Estimate, kind: Family) -> Bar:
    """Return a bar of a time in s."""
    return Bar(
        name, estimate.median, prose_time(estimate.median), kind, estimate.low, estimate.high
    )


def figure(panels: Sequence[Panel], caption: str, link: str = "") -> str:
    """Return panels on one scale from 0, with a caption of plain text and a link of HTML.

    Empty where no panel has a bar.
    """
    shown = [panel for panel in panels if panel.bars]
    if not shown:
        return ""
    longest = max(bar.high or bar.value for panel in shown for bar in panel.bars) or 1.0
    body = "".join(_panel(panel, longest) for panel in shown)
    below = f"<figcaption>{escape(caption)} {link}</figcaption>"
    one = " one" if len(shown) == 1 else ""
    return f'<figure class="bars"><div class="panels{one}">{body}</div>{below}</figure>'


def _panel(panel: Panel, longest: float) -> str:
    bars = "".join(_bar(bar, longest) for bar in panel.bars)
    return f'<div class="panel"><p class="ph">{escape(panel.title)}</p>{bars}</div>'


def _bar(bar: Bar, longest: float) -> str:
    interval = ""
    if bar.low is not None and bar.high is not None:
        left, width = _share(bar.low, longest), _share(bar.high - bar.low, longest)
        interval = f'<u style="left:{left}%;width:{width}%"></u>'
    return (
        f'<div class="row {bar.family}"><span class="n">{escape(bar.name)}</span><span class="bar">'
        f'<i style="width:{_share(bar.value, longest)}%"></i>{interval}</span>'
        f'<span class="v">{escape(bar.text)}</span></div>'
    )


def _share(value: float, whole: float) -> str:
    """Return a share in per cent to a tenth, so that every processor writes the same."""
    return f"{100 * value / whole:.1f}"
