"""Names beside the lines that they name, and numbers on bars: what spares the reader a legend."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from docs.panels import INK, styles

from batchnorm.lab import charts as data
from batchnorm.report import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 19  # letters of a line of a name
_LINE = 0.058  # share of a panel's height that a line of a name takes


def name_lines(axes: Axes, panel: data.Lines) -> None:
    """Each line's name right of where it ends, in its colour; names that would overlap are moved apart."""
    texts = [textwrap.fill(one.name, _LONGEST) for one in panel.series]
    to_share = axes.transData + axes.transAxes.inverted()
    ends = [float(to_share.transform((one.x[-1], _last(one.y)))[1]) for one in panel.series]
    heights = [_LINE * (text.count("\n") + 1) for text in texts]
    for text, at, style in zip(texts, apart(ends, heights), styles(panel.series), strict=True):
        axes.annotate(
            text,
            (1, at),
            xytext=(5, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=style.color,
            fontsize=8.5,
            linespacing=1.05,
            annotation_clip=False,
        )


def number_bars(axes: Axes, panel: data.Bars) -> None:
    """Each bar's height in numbers above it, and above its whisker."""
    width, most = 0.8 / len(panel.bars), max(max(bar.heights) for bar in panel.bars)
    for i, bar in enumerate(panel.bars):
        spreads = bar.spreads or (0.0,) * len(bar.heights)
        for j, (height, spread) in enumerate(zip(bar.heights, spreads, strict=True)):
            said = f"{100 * height:.1f}" if panel.y.percent else wording.number(height, digits=3)
            at = j + (i - (len(panel.bars) - 1) / 2) * width
            axes.annotate(
                said,
                (at, height + spread),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                color=INK,
                fontsize=7.5,
            )
    if panel.y.bounds is None:
        axes.set_ylim(0, 1.12 * most)


def apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Places as near to the wanted ones as boxes of these heights can stand in 0..1 without overlapping, in order.

    >>> apart([0.9, 0.1], [0.1, 0.1])
    [0.9, 0.1]
    >>> [round(at, 3) for at in apart([0.5, 0.5], [0.1, 0.1])]
    [0.45, 0.55]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[list[int], float, float]] = []  # members from below, their common middle and height
    for i in order:
        block = ([i], _within(wanted[i], heights[i]), heights[i])
        while blocks and blocks[-1][1] + blocks[-1][2] / 2 > block[1] - block[2] / 2:
            below = blocks.pop()
            members, height = below[0] + block[0], below[2] + block[2]
            middle = (below[1] * len(below[0]) + block[1] * len(block[0])) / len(members)
            block = (members, _within(middle, height), height)
        blocks.append(block)
    places = [0.0] * len(wanted)
    for members, middle, height in blocks:
        at = middle - height / 2
        for i in members:
            places[i] = at + heights[i] / 2
            at += heights[i]
    return places


def _within(middle: float, height: float) -> float:
    return min(max(middle, height / 2), 1 - height / 2) if height < 1 else 0.5


def _last(values: Sequence[float]) -> float:
    return next(value for value in reversed(values) if math.isfinite(value))
