"""An experiment's charts, from plain data to figures: its lines, points and bars; `lab_fields` has its surfaces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from batchnorm.lab import charts as data
from batchnorm.report.axes import Axis, axis, log_span, span
from batchnorm.report.chart_json import numbers, text
from batchnorm.report.charts import Figure, Panel
from batchnorm.report.lab_fields import contour_panel, heat_key, heat_panel
from batchnorm.report.legend import KeyEntry
from batchnorm.report.theme import MUTED, STYLES, Style
from batchnorm.report.traces import Trace, level, line, reference

_CLOUD = 400  # points beyond which marks are small


def figures(name: str, charts: Sequence[data.Chart]) -> list[Figure]:
    """One figure per chart, each row of the page filled; name: of the experiment, unique on its page."""
    found = [_figure(f"{name}-{i + 1}", chart) for i, chart in enumerate(charts)]
    row: list[int] = []  # narrow figures side by side
    for i, figure in enumerate([*found, None]):
        if figure is not None and not figure.wide:
            row.append(i)
            continue
        if len(row) % 2:
            found[row[-1]] = replace(found[row[-1]], wide=True)
        row = []
    return found


def _figure(identifier: str, chart: data.Chart) -> Figure:
    panels = tuple(_panel(f"{identifier}-{i + 1}", panel) for i, panel in enumerate(chart.panels))
    keys = tuple(dict.fromkeys(entry for panel in chart.panels for entry in _key(panel)))
    return Figure(chart.title, chart.reading, panels, wide=len(panels) > 1, key=keys)


def _panel(identifier: str, panel: data.Panel) -> Panel:
    color = _panel_color(panel)
    if isinstance(panel, data.HeatMap):
        return heat_panel(identifier, panel, color)
    if isinstance(panel, data.Contour):
        return contour_panel(identifier, panel, color, styles(panel.paths))
    if isinstance(panel, data.Bars):
        return Panel(
            identifier,
            tuple(_bars(panel)),
            axis("", showgrid=False, type="category"),
            axis(panel.y.title, bounds=_bar_bounds(panel), log=panel.y.log, percent=panel.y.percent),
            label=panel.label,
            color=color,
            shapes=tuple(level(mark.at) for mark in panel.levels),
        )
    return Panel(
        identifier,
        tuple(_lines(panel) if isinstance(panel, data.Lines) else _points(panel)),
        _axis(panel.x, [v for s in panel.series for v in s.x], [m.at for m in panel.levels if m.upright]),
        _axis(panel.y, [v for s in panel.series for v in (*s.y, *s.low, *s.high)], _across(panel.levels)),
        label=panel.label,
        color=color,
        hover=f"{panel.x.title} %{{x}}" if isinstance(panel, data.Lines) else "",
        shapes=tuple(_mark(mark) for mark in panel.levels),
    )


def styles(series: Sequence[data.Series | data.Bar]) -> list[Style]:
    """One per series: with normalization always the first, without always the second, all else in turn."""
    spare = iter(STYLES[2:] * (1 + len(series) // 4))
    fixed = {"with": STYLES[0], "without": STYLES[1]}
    return [fixed[s.role] if s.role in fixed else next(spare) for s in series]


def _lines(panel: data.Lines) -> Iterator[Trace]:
    for series, style in zip(panel.series, styles(panel.series), strict=True):
        low, high, y = (_positive(values, panel.y) for values in (series.low, series.high, series.y))
        if low and high:
            edge = {"hoverinfo": "skip", "mode": "lines"}
            yield line(series.x, low, name="", style=style, dash="solid", width=0) | edge
            yield (
                line(series.x, high, name="", style=style, dash="solid", width=0)
                | edge
                | {
                    "fill": "tonexty",
                    "fillcolor": style.fill,
                }
            )
        drawn = line(series.x, y, name=series.name, style=style, width=2.25)
        yield drawn | {"mode": "lines+markers"} if panel.marked else drawn


def _points(panel: data.Points) -> Iterator[Trace]:
    for series, style in zip(panel.series, styles(panel.series), strict=True):
        few = len(series.x) <= _CLOUD
        trace: Trace = {
            "type": "scatter",
            "mode": "markers",
            "name": text(series.name),
            "x": numbers(_positive(series.x, panel.x)),
            "y": numbers(_positive(series.y, panel.y)),
            "marker": {
                "color": style.color,
                "symbol": style.symbol,
                "size": 8 if few else 4,
                "opacity": 0.8 if few else 0.45,
            },
        }
        if series.low and series.high:
            ends = (series.low, series.y), (series.y, series.high)
            below, above = (numbers(b - a for a, b in zip(*pair, strict=True)) for pair in ends)
            whiskers = {"color": style.color, "thickness": 1.5, "width": 4}
            trace["error_y"] = whiskers | {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
        yield trace


def _bars(panel: data.Bars) -> Iterator[Trace]:
    for bar, style in zip(panel.bars, styles(panel.bars), strict=True):
        trace: Trace = {
            "type": "bar",
            "name": text(bar.name),
            "x": [text(group) for group in panel.groups],
            "y": numbers(_positive(bar.heights, panel.y)),
            "marker": {"color": style.color},
            "hovertemplate": f"%{{x}}: %{{y}}<extra>{text(bar.name)}</extra>",
        }
        if bar.spreads:
            trace["error_y"] = {
                "type": "data",
                "array": numbers(bar.spreads),
                "color": MUTED,
                "thickness": 1.5,
                "width": 4,
            }
        yield trace


def _key(panel: data.Panel) -> Iterator[KeyEntry]:
    if isinstance(panel, data.HeatMap):
        yield heat_key(panel)
        return
    drawn: Sequence[data.Series | data.Bar] = (
        panel.bars if isinstance(panel, data.Bars) else panel.paths if isinstance(panel, data.Contour) else panel.series
    )
    for series, style in zip(drawn, styles(drawn), strict=True):
        if isinstance(panel, data.Bars):
            yield KeyEntry(series.name, style.color, symbol="square")
        elif isinstance(panel, data.Points):
            yield KeyEntry(series.name, style.color, symbol=style.symbol)
        else:
            yield KeyEntry(series.name, style.color, dash=style.dash)
    if not isinstance(panel, data.Contour):
        for mark in panel.levels:
            if mark.name:
                yield KeyEntry(mark.name, dash="dot")


def _panel_color(panel: data.Panel) -> str:
    return {"with": STYLES[0].color, "without": STYLES[1].color}.get(panel.role, MUTED)


def _mark(mark: data.Level) -> dict[str, object]:
    if mark.upright:
        return reference((mark.at, mark.at), (0, 1)) | {"yref": "paper"}
    return level(mark.at)


def _across(levels: Iterable[data.Level]) -> list[float]:
    return [mark.at for mark in levels if not mark.upright]


def _axis(stated: data.Axis, values: Iterable[float], marks: Iterable[float]) -> Axis:
    if stated.names:
        ends = (-0.6, len(stated.names) - 0.4)
        return axis(stated.title, bounds=ends, ticks=list(enumerate(stated.names)), showgrid=False)
    bounds = stated.bounds or (log_span if stated.log else span)([*values, *marks])
    return axis(stated.title, bounds=bounds, log=stated.log, percent=stated.percent)


def _bar_bounds(panel: data.Bars) -> tuple[float, float] | None:
    if panel.y.bounds is not None:
        return panel.y.bounds
    ends = [m.at for m in panel.levels]
    for bar in panel.bars:
        spreads = bar.spreads or (0.0,) * len(bar.heights)
        ends += [h + sign * s for h, s in zip(bar.heights, spreads, strict=True) for sign in (-1, 1)]
    if panel.y.log:
        return log_span(ends)
    found = span([0.0, *ends])
    assert found is not None
    # Bars stand on 0: no room is left below where nothing goes there.
    return (0.0 if min([0.0, *filter(math.isfinite, ends)]) == 0 else found[0], found[1])


def _positive(values: Sequence[float], along: data.Axis) -> list[float]:
    """On a logarithmic axis, what is not positive is a gap."""
    return [value if not along.log or value > 0 else math.nan for value in values]
