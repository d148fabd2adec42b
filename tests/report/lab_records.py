"""Records of experiments that never took place: every kind of chart and verdict, hostile texts, no numbers."""

from __future__ import annotations

import math

from batchnorm.lab.charts import (
    Axis,
    Bar,
    Bars,
    Chart,
    Contour,
    HeatMap,
    Level,
    Lines,
    Points,
    Series,
    over_seeds,
)
from batchnorm.lab.record import Effect, Record, verdict_of

HOSTILE = "</script><b>%{x}</b> & $y$ 'quoted' \"twice\""
LOG = Axis("on a logarithmic scale", log=True)
STEPS = tuple(map(float, range(1, 51)))


def lab_record(
    name: str = "speed",
    *,
    mean: float = 10.0,
    said: str = "It is so",
    charts: tuple[Chart, ...] | None = None,
    quick: bool = False,
) -> Record:
    """One whose effect is `mean` where 5 were asked."""
    effects = (
        Effect(f"{said}, measured", (mean - 1, mean, mean + 1), unit="times", asked=5.0, note="a lower bound"),
        Effect("only looked at", (0.5, 0.25, 0.75), unit="share"),
    )
    return Record(
        name=name,
        claim=f"{said}.",
        source="Someone 2015.",
        measured="With a ruler.",
        unfair="Never.",
        finding=f"{said} by {mean:g} (3 seeds).",
        verdict=verdict_of(effects),
        effects=effects,
        charts=every_chart(said) if charts is None else charts,
        numbers=None,
        settings={"batch_size": 60},
        data_name=said if said == HOSTILE else "digits",
        rows={"train": 1438, "test": 359},
        features=64,
        seeds=(0, 1, 2),
        quick=quick,
        seconds=12.3,
        versions={"batchnorm": "0.1.0", "torch": "2.13.0"},
    )


def every_chart(said: str = "a name") -> tuple[Chart, ...]:
    """One of each kind, on linear and logarithmic axes, some values not finite, in panels and alone."""
    falling = tuple(1 / step for step in STEPS)
    broken = tuple(math.nan if step % 7 == 0 else step for step in STEPS)
    lines = Lines(
        Axis("step"),
        LOG,
        (
            over_seeds("with normalization", STEPS, [falling, tuple(2 * v for v in falling)], role="with"),
            Series("without normalization", STEPS, broken, "without"),
            Series(said, STEPS, tuple(map(math.sqrt, STEPS))),
        ),
        levels=(Level(0.1, f"asked of {said}"), Level(25.0, "half way", upright=True)),
        marked=True,
        label="lines",
    )
    points = Points(
        Axis("named", names=("one", said, "three")),
        Axis("share", percent=True),
        (Series("means", (0.0, 1.0, 2.0), (0.2, 0.5, 0.9), low=(0.1, 0.4, 0.8), high=(0.3, 0.6, 1.0)),),
        levels=(Level(0.5, ""),),
        label=said,
        role="with",
    )
    bars = Bars(
        ("one", said),
        Axis("height"),
        (Bar("with", (1.0, -2.0), (0.1, 0.2), "with"), Bar("without", (math.nan, 3.0), role="without")),
        levels=(Level(2.0, "asked"),),
    )
    heat = HeatMap(
        ("0.1", "1"), ("low", said), "rate", "scale", ((0.1, 0.9), (math.nan, 0.5)), 0, 1, "accuracy", percent=True
    )
    plane = Contour(
        Axis("first weight"),
        Axis("second weight"),
        (-1.0, 0.0, 1.0),
        (-1.0, 0.0, 1.0),
        tuple(tuple(x * x + 3 * y * y for x in (-1.0, 0.0, 1.0)) for y in (-1.0, 0.0, 1.0)),
        "loss",
        paths=(Series("descent", (1.0, 0.5, 0.0), (1.0, -0.5, 0.0), "with"),),
    )
    logarithmic = Bars(("one",), LOG, (Bar(said, (1e-12,), (1e-13,)),))
    return (
        Chart("Lines and points", said, (lines, points)),
        Chart("Bars", "Stand on zero.", (bars,)),
        Chart("Heat", "Dark is much.", (heat,)),
        Chart(f"Contour {said}", "Lines of equal loss.", (plane,)),
        Chart("Logarithmic bars", "One of them.", (logarithmic,)),
    )


def many() -> list[Record]:
    """One of each verdict."""
    return [lab_record("speed"), lab_record("depth", mean=2.0), lab_record("linear_middle", mean=5.2)]
