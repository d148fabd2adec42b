"""What an experiment leaves: plain frozen numbers, what they say of the claim, and charts as data. No torch in here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from batchnorm.lab.charts import Chart

Verdict: TypeAlias = Literal["holds", "does not hold here", "undecided"]
Direction: TypeAlias = Literal["at least", "at most", "more than", "less than"]
Unit: TypeAlias = Literal["", "times", "share", "points", "steps", "decades"]
"""share: 0.5 is said as 50 %; points: a difference of shares, 0.02 is said as 2 percentage points."""

LEAST_SEEDS = 3
"""With fewer, nothing is decided."""


@dataclass(frozen=True)
class Effect:
    """One measured quantity, once per seed, and what the claim asks of it.

    Attributes:
        what: it is, in words that read before a number: "steps to 95 % without, divided by those with".
        values: (seeds,).
        unit: how the values are said.
        asked: the threshold; None where nothing is asked of this quantity, which is then only reported.
        direction: from the threshold in which the claim holds.
        note: what has to be known to read the values, such as that they are lower bounds.
    """

    what: str
    values: tuple[float, ...]
    unit: Unit = ""
    asked: float | None = None
    direction: Direction = "at least"
    note: str = ""

    @property
    def mean(self) -> float:
        """Over the seeds; NaN where a value is not a number."""
        return math.fsum(self.values) / len(self.values) if all(map(math.isfinite, self.values)) else self._beyond()

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds, with n - 1; 0 for one seed."""
        if len(self.values) < 2 or not all(map(math.isfinite, self.values)):
            return 0.0 if len(set(self.values)) == 1 else math.nan
        return statistics.stdev(self.values)

    @property
    def verdict(self) -> Verdict | None:
        """None where nothing is asked; "undecided" with fewer than 3 seeds or within the spread of the threshold."""
        if self.asked is None:
            return None
        upwards = self.direction in ("at least", "more than")
        margin = self.mean - self.asked if upwards else self.asked - self.mean
        unknown = math.isnan(margin) or math.isnan(self.spread)
        if len(self.values) < LEAST_SEEDS or unknown or abs(margin) < self.spread:
            return "undecided"
        enough = margin > 0 if self.direction in ("more than", "less than") else margin >= 0
        return "holds" if enough else "does not hold here"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with mean, spread and verdict."""
        return asdict(self) | {"mean": self.mean, "spread": self.spread, "verdict": self.verdict}

    def _beyond(self) -> float:
        """Infinite where every value that is not finite is so in one direction, NaN otherwise."""
        beyond = {value for value in self.values if not math.isfinite(value)}
        return beyond.pop() if len(beyond) == 1 else math.nan


@dataclass(frozen=True)
class Outcome:
    """What an experiment's `measure` returns.

    Attributes:
        finding: one sentence with the numbers, without its full stop: the seeds are added to it.
        effects: at least one of which is asked something.
        charts: at least one.
        numbers: the experiment's own frozen dataclass: everything measured, plain values.
        settings: of the networks, as far as they are the same for all.
    """

    finding: str
    effects: tuple[Effect, ...]
    charts: tuple[Chart, ...]
    numbers: Any
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """An experiment that was carried out; printed, it says what was found.

    Attributes:
        name: of the experiment.
        claim, source, measured, unfair: as its docstring states them.
        finding, effects, charts, numbers, settings: as in Outcome.
        verdict: "does not hold here" if one effect says so, else "undecided" if one is, else "holds".
        data_name: of the data; rows: "train" and "test", per seed; features: of a row.
        seeds: of split, weights and order.
        quick: whether it was the short form.
        seconds: it took.
    """

    name: str
    claim: str
    source: str = field(repr=False)
    measured: str = field(repr=False)
    unfair: str = field(repr=False)
    finding: str
    verdict: Verdict
    effects: tuple[Effect, ...] = field(repr=False)
    charts: tuple[Chart, ...] = field(repr=False)
    numbers: Any = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    data_name: str
    rows: dict[str, int]
    features: int
    seeds: tuple[int, ...]
    quick: bool
    seconds: float
    versions: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name}, on {self.data_name}: {self.verdict}\n{self.claim}\n{self.finding}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values (NaN and infinities among them), the charts as data."""
        effects = [effect.to_dict() for effect in self.effects]
        charts = [
            asdict(chart) | {"panels": [{"kind": type(p).__name__} | asdict(p) for p in chart.panels]}
            for chart in self.charts
        ]
        return asdict(self) | {"effects": effects, "charts": charts}


def verdict_of(effects: Sequence[Effect]) -> Verdict:
    """Of all effects together.

    >>> verdict_of([Effect("speed-up", (9.0, 10.0, 11.0), asked=5.0), Effect("loss", (1.0, 1.0, 1.0))])
    'holds'
    >>> verdict_of([Effect("speed-up", (4.0, 5.5, 7.0), asked=5.0)]), verdict_of([Effect("x", (9.0,), asked=5.0)])
    ('undecided', 'undecided')
    """
    found = {effect.verdict for effect in effects} - {None}
    assert found, "an experiment whose claim asks nothing"
    for verdict in ("does not hold here", "undecided"):
        if verdict in found:
            return verdict
    return "holds"
