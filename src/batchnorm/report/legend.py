"""Legends: one for all charts of a section, outside the charts, so that it can never cover a curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from batchnorm.report.theme import MUTED


@dataclass(frozen=True)
class KeyEntry:
    """One entry of a legend: a line (`dash`), a marker (`symbol`) or a ramp of colours (`ramp`)."""

    label: str
    color: str = MUTED
    dash: str | None = None
    symbol: str | None = None
    ramp: tuple[str, ...] = ()


def key_html(entries: Sequence[KeyEntry]) -> str:
    """The entries in a row, in several on a phone."""
    items = "".join(f"<li>{_swatch(entry)}<span>{escape(entry.label)}</span></li>" for entry in entries)
    return f'<ul class="key" aria-label="Legend">{items}</ul>'


_DASHES = {"dash": "8 5", "dot": "2 4", "dashdot": "8 4 2 4", "longdash": "12 5"}
_MARKS = {
    "circle": '<circle cx="14" cy="7" r="4.5"/>',
    "diamond": '<path d="M14 1l6 6-6 6-6-6z"/>',
    "square": '<path d="M9.5 2.5h9v9h-9z"/>',
    "triangle-up": '<path d="M14 2l5.5 10h-11z"/>',
    "cross": '<path d="M12 2h4v3h3v4h-3v3h-4V9H9V5h3z"/>',
    "x": '<path d="M10.5 1.5L14 5l3.5-3.5 2 2L16 7l3.5 3.5-2 2L14 9l-3.5 3.5-2-2L12 7 8.5 3.5z"/>',
    "star": '<path d="M14 .5l1.9 4.3 4.6.4-3.5 3 1.1 4.6-4.1-2.4-4.1 2.4L11 8.2l-3.5-3 4.6-.4z"/>',
}


def _swatch(entry: KeyEntry) -> str:
    if entry.ramp:
        return f'<span class="ramp" style="background:linear-gradient(90deg,{escape(",".join(entry.ramp))})"></span>'
    if entry.symbol is not None:
        inner = f'<g style="fill:{escape(entry.color)}">{_MARKS[entry.symbol]}</g>'
    else:
        dashes = _DASHES.get(entry.dash or "solid", "none")
        stroke = f"stroke:{escape(entry.color)};stroke-width:2.5;stroke-dasharray:{dashes};fill:none"
        inner = f'<path d="M1 7h26" style="{stroke}"/>'
    return f'<svg viewBox="0 0 28 14" width="28" height="14" aria-hidden="true">{inner}</svg>'
