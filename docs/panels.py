"""One panel of a picture on matplotlib's axes: lines, points, bars, heat maps, contours."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchnorm.lab import charts as data
from batchnorm.report import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1a2027", "#55606c", "#e3e7ec"
HEATS = ("#f1f4f7", "#cfe1ef", "#97c1e0", "#2f74ab", "#0a3f6e")
CONTRAST = "#bf4a00"  # of a path over a blue surface
_DARK = 0.6  # share of a heat map's range from which on its text is light
_MANY = 400  # points beyond which they are small
_LONG, _HIGH = 44, 36  # letters of a line that fit along x and along y


@dataclass(frozen=True)
class Style:
    """How a series is drawn; hues of Okabe and Ito (2008), told apart by dash and marker as well."""

    color: str
    dash: Any
    marker: str


STYLES = (
    Style("#0067a8", "-", "o"),
    Style("#bf4a00", (0, (5, 2)), "D"),
    Style("#00785a", (0, (6, 2, 1.2, 2)), "s"),
    Style("#a2487f", (0, (9, 2)), "^"),
    Style("#806500", "-", "P"),
    Style("#3d4a57", (0, (3, 1.5)), "X"),
)


def styles(series: Sequence[data.Series | data.Bar]) -> list[Style]:
    """One per series: with normalization always the first, without always the second, all else in turn."""
    fixed, spare = {"with": STYLES[0], "without": STYLES[1]}, STYLES[2:]
    found: list[Style] = []
    others = 0
    for one in series:
        if one.role not in fixed:
            others += 1
        found.append(fixed.get(one.role) or spare[(others - 1) % len(spare)])
    return found


def draw(axes: Axes, panel: data.Panel) -> None:
    """The panel, with its title and what its axes say."""
    color = {"with": STYLES[0].color, "without": STYLES[1].color}.get(panel.role, INK)
    if panel.label:
        axes.set_title(panel.label, color=color)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if isinstance(panel, data.HeatMap):
        _heat(axes, panel)
        return
    if isinstance(panel, data.Bars):
        _bars(axes, panel)
    elif isinstance(panel, data.Contour):
        _contour(axes, panel)
    else:
        _series(axes, panel)
    if not isinstance(panel, data.Contour):
        axes.grid(visible=True, axis="y" if isinstance(panel, data.Bars) else "both", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for level in panel.levels:
            (axes.axvline if level.upright else axes.axhline)(level.at, color=MUTED, linestyle=":", linewidth=1.2)


def named(panel: data.Panel) -> Iterator[tuple[str, Any]]:
    """What the legend says of the panel, and the mark beside it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if isinstance(panel, data.HeatMap):
        return
    shown: Sequence[data.Series | data.Bar] = (
        panel.bars if isinstance(panel, data.Bars) else panel.paths if isinstance(panel, data.Contour) else panel.series
    )
    for i, (one, style) in enumerate(zip(shown, styles(shown), strict=True)):
        if isinstance(panel, data.Bars):
            yield one.name, Patch(color=style.color)
        elif isinstance(panel, data.Contour):
            yield one.name, Line2D([], [], color=CONTRAST, marker=style.marker, markersize=4)
        else:
            joined: Any = style.dash if not isinstance(panel, data.Points) else "none"
            pointed = style.marker if isinstance(panel, data.Points) or panel.marked else "none"
            mark = Line2D([], [], color=style.color, linestyle=joined, marker=pointed, markersize=5)
            if isinstance(panel, data.Points) and i % 2:
                mark.set(markerfacecolor="none", markersize=7.5)
            yield one.name, mark
    if not isinstance(panel, data.Contour):
        for level in panel.levels:
            if level.name:
                yield level.name, Line2D([], [], color=MUTED, linestyle=":", linewidth=1.2)


def _series(axes: Axes, panel: data.Lines | data.Points) -> None:
    joined = isinstance(panel, data.Lines)
    for i, (one, style) in enumerate(zip(panel.series, styles(panel.series), strict=True)):
        marker = style.marker if isinstance(panel, data.Points) or panel.marked else "none"
        dash = style.dash if joined else "none"
        size = 4.5 if len(one.x) <= _MANY else 2
        line = axes.plot(one.x, one.y, color=style.color, linestyle=dash, marker=marker, markersize=size, linewidth=1.6)
        if not joined and i % 2:  # hollow and larger, so that a point of the series before shows within
            line[0].set(markerfacecolor="none", markersize=7.5)
        if not one.low:
            continue
        if joined:
            axes.fill_between(one.x, one.low, one.high, color=style.color, alpha=0.16, linewidth=0)
        else:
            axes.vlines(one.x, one.low, one.high, color=style.color, linewidth=1.2)
    _scale(axes, "x", panel.x)
    _scale(axes, "y", panel.y)


def _bars(axes: Axes, panel: data.Bars) -> None:
    width = 0.8 / len(panel.bars)
    for i, (bar, style) in enumerate(zip(panel.bars, styles(panel.bars), strict=True)):
        at = [j + (i - (len(panel.bars) - 1) / 2) * width for j in range(len(panel.groups))]
        axes.bar(at, bar.heights, 0.92 * width, color=style.color)
        if bar.spreads:
            axes.errorbar(at, bar.heights, bar.spreads, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    _scale(axes, "x", data.Axis("", names=panel.groups))
    _scale(axes, "y", panel.y)


def _heat(axes: Axes, heat: data.HeatMap) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    columns, rows = len(heat.columns), len(heat.rows)
    ramp = LinearSegmentedColormap.from_list("heat", HEATS)
    edges = [i - 0.5 for i in range(columns + 1)], [i - 0.5 for i in range(rows + 1)]
    axes.pcolormesh(*edges, heat.values, cmap=ramp, vmin=heat.low, vmax=heat.high, edgecolors="white", linewidth=1.5)
    split = heat.low + _DARK * (heat.high - heat.low)
    for i, row in enumerate(heat.values):
        for j, value in enumerate(row):
            if math.isfinite(value):
                said = f"{100 * value:.0f}" if heat.percent else wording.number(value, digits=2)
                axes.text(j, i, said, ha="center", va="center", fontsize=7.5, color="white" if value >= split else INK)
    _scale(axes, "x", data.Axis(heat.x, names=heat.columns))
    _scale(axes, "y", data.Axis(heat.y, names=heat.rows))
    axes.tick_params(length=0)


def _contour(axes: Axes, panel: data.Contour) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("heights", HEATS[:4][::-1])
    axes.contourf(panel.x_at, panel.y_at, panel.heights, levels=6, cmap=ramp)
    for path, style in zip(panel.paths, styles(panel.paths), strict=True):
        axes.plot(path.x, path.y, color=CONTRAST, linestyle="-", marker=style.marker, markersize=3.5, linewidth=1.4)
    _scale(axes, "x", panel.x)
    _scale(axes, "y", panel.y)


def _scale(axes: Axes, side: str, axis: data.Axis) -> None:
    """Ends, marks and title of the axis x or y."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    own = axes.xaxis if side == "x" else axes.yaxis
    axes.set(**{f"{side}label": textwrap.fill(axis.title, _LONG if side == "x" else _HIGH)})
    if axis.names:
        each = max(6, _LONG // len(axis.names)) if side == "x" else _LONG
        own.set_ticks(
            range(len(axis.names)), [textwrap.fill(name, each, break_long_words=False) for name in axis.names]
        )
        axes.set(**{f"{side}lim": (-0.5, len(axis.names) - 0.5)})
        return
    if axis.log:
        axes.set(**{f"{side}scale": "log"})
        low, high = axis.bounds or own.get_view_interval()
        decades = math.log10(high / low)
        between = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 0.8 else (1.0, 2.0, 5.0) if decades < 2 else (1.0,)
        own.set_major_locator(LogLocator(subs=between, numticks=7))
        own.set_minor_locator(NullLocator())
        own.set_minor_formatter(NullFormatter())
    if axis.bounds is not None:
        axes.set(**{f"{side}lim": axis.bounds})
    own.set_major_formatter(FuncFormatter(lambda value, _: _mark(value, axis)))


def _mark(value: float, axis: data.Axis) -> str:
    return f"{wording.number(100 * value)} %" if axis.percent else wording.number(value)
