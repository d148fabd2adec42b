"""What may stand in a chart's JSON: numbers that a browser can draw, texts that plotly and HTML read as texts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from typing import Any

LARGEST = 1e290  # beyond it the browser's own arithmetic on axis ranges overflows


def drawable(value: float) -> bool:
    """Whether a chart can show `value`: finite, and not beyond what the browser can put on an axis."""
    return math.isfinite(value) and abs(value) <= LARGEST


def numbers(values: Iterable[float]) -> list[float | None]:
    """Values for a chart: six significant digits, a gap (None) where a value is not finite or beyond drawing.

    >>> numbers([1 / 3, float("nan"), float("inf"), -2.0])
    [0.333333, None, None, -2.0]
    """
    return [float(f"{v:.6g}") if drawable(v) else None for v in map(float, values)]


def text(value: str) -> str:
    """Text for a place where plotly reads its own markup (`<b>`, `%{x}`, `$x^2$`): shown as it is, read as nothing.

    >>> text("<b>%{x} $y$</b>")
    '&lt;b&gt;&#37;{x} &#36;y&#36;&lt;/b&gt;'
    """
    return escape(value, quote=False).replace("%", "&#37;").replace("$", "&#36;")


def json_for_script(value: Any) -> str:
    """JSON that no HTML parser can mistake for markup, whatever texts it holds."""
    encoded = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
