"""Colours and line styles: names of CSS custom properties that style.css defines for light and for dark.

A chart never holds a colour itself but `var(--name)`: charts.js looks the value up when it draws and again when the
reader's system turns dark. The hues are those of Okabe & Ito (2008), told apart by colour-blind readers; with and
without normalization also differ by dash and marker, so that no picture depends on hue alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchnorm.training.record import Run

INK = "var(--ink)"
MUTED = "var(--muted)"
LINE = "var(--line)"
GRID = "var(--grid)"
CARD = "var(--card)"
CLEAR = "rgba(0,0,0,0)"

HEAT_TEXT = "var(--heat-text)"  # on the darker half of HEAT (in the dark: the brighter)
HEAT = (
    (0.0, "var(--heat-0)"),
    (0.02, "var(--heat-1)"),
    (0.1, "var(--heat-2)"),
    (0.4, "var(--heat-3)"),
    (1.0, "var(--heat-4)"),
)
DEPTH = ((0.0, "var(--depth-0)"), (0.5, "var(--depth-1)"), (1.0, "var(--depth-2)"))


@dataclass(frozen=True)
class Style:
    """How one series is drawn in every chart of a page."""

    color: str
    fill: str  # the same hue, for areas that lines must show through
    dash: str
    symbol: str


STYLES = (
    Style("var(--series-1)", "var(--series-1-fill)", "solid", "circle"),
    Style("var(--series-2)", "var(--series-2-fill)", "dash", "diamond"),
    Style("var(--series-3)", "var(--series-3-fill)", "dashdot", "square"),
    Style("var(--series-4)", "var(--series-4-fill)", "longdash", "triangle-up"),
    Style("var(--series-5)", "var(--series-5-fill)", "solid", "cross"),
    Style("var(--series-6)", "var(--series-6-fill)", "dash", "x"),
)


def run_styles(runs: Sequence[Run]) -> tuple[Style, ...]:
    """One style per run: the first with normalization is always blue, the first without always orange."""
    styles: list[Style] = []
    spare = list(STYLES[2:])
    reserved = {"batch": STYLES[0], None: STYLES[1]}
    for run in runs:
        style = reserved.pop(run.norm, None)
        styles.append(style or spare[0])
        if style is None:
            spare.append(spare.pop(0))
    return tuple(styles)
