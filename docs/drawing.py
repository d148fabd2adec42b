"""Pictures of the course and of the guide: a chart as SVG, drawn by matplotlib on a light card of its own.

The card is part of the picture, so that it reads the same on a white page and on a dark one. Text stays text.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.labels import name_lines, number_bars
from docs.panels import INK, MUTED, draw, named

from batchnorm.lab import charts as data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD, EDGE = "#fbfcfd", "#d9dee4"
WIDTH, HEIGHT, LEGEND_ROW, PAD = 9.0, 3.1, 0.24, 0.09  # inches
MOST_ACROSS = 3
FONTS = ["DejaVu Sans", "Verdana", "Segoe UI", "Helvetica", "Arial", "sans-serif"]
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batchnorm",
    "font.family": FONTS[0],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "path.simplify_threshold": 0.3,
}


def draw_missing(folder: Path, wanted: Mapping[str, data.Chart], *, direct: bool = False) -> None:
    """Draw into the folder the charts whose pictures, by file name, are not there as of today; remove all others."""
    folder.mkdir(exist_ok=True)
    for name, chart in wanted.items():
        path = folder / name
        if not path.exists() or digest(chart, direct=direct) not in path.read_text(encoding="utf-8"):
            path.write_text(svg(chart, direct=direct), encoding="utf-8")
    for path in folder.glob("*.svg"):
        if path.name not in wanted:
            path.unlink()


def svg(chart: data.Chart, *, direct: bool = False) -> str:
    """The picture, the same bytes for the same chart and the same matplotlib.

    direct: names stand beside their lines and numbers on their bars, instead of a legend for lines.
    """
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        figure = _figure(chart, direct)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": chart.title})
    families = ", ".join(f"'{font}'" if " " in font else font for font in FONTS)
    text = out.getvalue().replace(f"'{FONTS[0]}'", families)
    text = _PLACES.sub(lambda places: _LONG.sub(_short, places[0]), text)
    lines = (line.strip() for line in text.splitlines())
    return f"{chr(10).join(lines)}\n<!-- {MADE_FROM}{digest(chart, direct=direct)} -->\n"


_PLACES = re.compile(r'(?<= )(?:d|x|y)="[^"]*"')  # where a seventh of a thousandth of an inch would be told
_LONG = re.compile(r"-?\d+\.\d{2,}")


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


MADE_FROM = "made from chart "


def digest(chart: data.Chart, *, direct: bool = False) -> str:
    """What tells whether a picture is of this chart and drawn by this code, without drawing it."""
    files = ("drawing.py", "panels.py", "labels.py") if direct else ("drawing.py", "panels.py")
    code = "".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in files)
    return hashlib.sha256(f"{chart!r}{code}".encode()).hexdigest()[:16]


def _figure(chart: data.Chart, direct: bool) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across = len(chart.panels) if len(chart.panels) <= MOST_ACROSS else math.ceil(len(chart.panels) / 2)
    down = math.ceil(len(chart.panels) / across)
    entries = _key(chart, direct)
    width = WIDTH if across > 1 else 0.7 * WIDTH
    rows = _legend_rows([name for name, _ in entries], width)
    height = down * max(_height(panel) for panel in chart.panels) + rows * LEGEND_ROW
    figure = Figure(
        (width, height),
        layout=ConstrainedLayoutEngine(w_pad=PAD, h_pad=PAD),
        facecolor=CARD,
        edgecolor=EDGE,
        linewidth=1.5,
    )
    for i, panel in enumerate(chart.panels):
        axes = figure.add_subplot(down, across, i + 1, facecolor=CARD)
        draw(axes, panel)
        if i % across and axes.get_ylabel() == figure.axes[i - 1].get_ylabel():
            axes.set_ylabel("")
        if direct and isinstance(panel, data.Lines):
            name_lines(axes, panel)
        elif direct and isinstance(panel, data.Bars):
            number_bars(axes, panel)
    if entries:
        per_row = math.ceil(len(entries) / rows)
        names, marks = [name for name, _ in entries], [mark for _, mark in entries]
        figure.legend(marks, names, loc="outside lower center", ncols=per_row, frameon=False, handlelength=2.8)
    return figure


def _height(panel: data.Panel) -> float:
    return 1.1 + 0.3 * len(panel.rows) if isinstance(panel, data.HeatMap) else HEIGHT


def _key(chart: data.Chart, direct: bool) -> list[tuple[str, Any]]:
    """What the legend says, once for all panels, and the mark that it shows; lines may be named where they end."""
    found: dict[str, Any] = {}
    for panel in chart.panels:
        beside = {one.name for one in panel.series} if direct and isinstance(panel, data.Lines) else set()
        for name, mark in named(panel):
            if name and name not in beside:
                found.setdefault(name, mark)
    return list(found.items())


def _legend_rows(names: Sequence[str], width: float) -> int:
    """As few as hold the names, which go down before they go across, an inch being about 17 letters."""
    for rows in range(1, len(names)):
        columns = [names[i : i + rows] for i in range(0, len(names), rows)]
        if sum(max(map(len, column)) / 17 + 0.7 for column in columns) < width:
            return rows
    return len(names)
