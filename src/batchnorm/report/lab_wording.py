"""Effects in words: a mean with its spread in the unit that suits it, and what was asked."""

from __future__ import annotations

import math

from batchnorm.lab.record import Effect, Unit
from batchnorm.report import wording
from batchnorm.report.wording import NO_BREAK

_SUFFIX: dict[Unit, str] = {
    "": "",
    "times": "x",
    "share": f"{NO_BREAK}%",
    "points": f"{NO_BREAK}points",
    "steps": f"{NO_BREAK}steps",
    "decades": f"{NO_BREAK}decades",
}


def measured(effect: Effect) -> str:
    """The mean over the seeds and their spread.

    >>> measured(Effect("faster", (12.0, 13.5, 15.0), unit="times"))
    '13.5 ± 1.5x'
    >>> measured(Effect("apart", (0.01, 0.02), unit="points")).replace(NO_BREAK, " ")
    '1.5 ± 0.71 points'
    """
    scale = 100.0 if effect.unit in ("share", "points") else 1.0
    mean, spread = scale * effect.mean, scale * effect.spread
    said = wording.number(mean)
    if spread > 0:
        said += f" ± {wording.number(spread, digits=2)}"
    return said + (_SUFFIX[effect.unit] if math.isfinite(mean) else "")


def asked(effect: Effect) -> str:
    """The threshold and its direction; nothing where nothing is asked.

    >>> asked(Effect("faster", (12.0,), unit="times", asked=5.0))
    'at least 5x'
    """
    if effect.asked is None:
        return ""
    scale = 100.0 if effect.unit in ("share", "points") else 1.0
    return f"{effect.direction} {wording.number(scale * effect.asked)}{_SUFFIX[effect.unit]}"
