"""The loss surface is smoother.

Source: Santurkar, Tsipras, Ilyas and Madry 2018, "How does batch normalization help optimization?", section 3.1 and
figure 4: how far the loss and its gradient vary along the direction of the step.

Measured: 8 layers of 100 ReLU (He's initial weights), 300 steps of plain gradient descent, every 10 of them: from the
weights W along the gradient g of a batch, at W - a g with a from a half to four times the learning rate. The range of
the loss there, the largest change of the gradient |g(W - a g) - g(W)|, and the effective smoothness, which is that
change divided by the distance. Each is averaged over the looks; without normalization divided by with, the range of the
loss must be at least 5 and the change of the gradient at least 3. Four learning rates are tried, and compared only
where both networks train: where each ends, with every seed, at less than half the loss it began with. What is asked is
asked at the rate, among these, at which the network without does best on the test rows.

Unfair: to whichever network has learnt less, for a surface flattens as its loss falls; and weights before normalization
have a scale of their own, on which distances, and with them the effective smoothness, depend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import torch

from batchnorm.lab.along_the_step import QUANTITIES, look
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, Role, over_seeds
from batchnorm.lab.record import Effect, Outcome, Unit
from batchnorm.lab.trial import PAPER, Trial, twins

RATES = (0.03, 0.1, 0.3, 1.0)
EVERY = 10
ASKED_RANGE, ASKED_CHANGE = 5.0, 3.0
BASE = replace(PAPER, hidden=(100,) * 8, activation="relu", weight_scale=None)
KINDS: tuple[Role, Role] = ("with", "without")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Landscape:
    """Per rate and seed, with and without: each quantity's mean over the looks, the loss at each end, the metric.

    Attributes:
        steps: that were looked at.
        rates: tried; trains: whether, at each, both networks train with every seed; at: the rate compared at, or None.
        means: by "with" and "without": [rate][seed][quantity]; NaN or infinite where a network diverged.
        metric: by the same: [rate][seed], on the test rows at the end.
        curves: at `at`, by the same: [seed][quantity][look].
    """

    steps: tuple[int, ...]
    rates: tuple[float, ...]
    trains: tuple[bool, ...]
    at: float | None
    means: dict[str, tuple[tuple[tuple[float, ...], ...], ...]]
    metric: dict[str, tuple[tuple[float, ...], ...]]
    curves: dict[str, tuple[tuple[tuple[float, ...], ...], ...]]


@dataclass(frozen=True)
class _Way:
    """One network's: looks (looks, quantities), the loss at its begin and at its end, the metric at its end."""

    looks: tuple[tuple[float, ...], ...]
    first: float
    last: float
    metric: float

    @property
    def trains(self) -> bool:
        return self.last < self.first / 2

    def mean(self, quantity: int) -> float:
        return math.fsum(look[quantity] for look in self.looks) / len(self.looks)


def measure(bench: Bench, *, steps: int | None = None) -> Outcome:
    """See above. steps: of each network; None: 300, or 160 to be quick."""
    steps = (160 if bench.quick else 300) if steps is None else steps
    every = max(EVERY, steps // (8 if bench.quick else 30))
    scale = bench.paper.rate / PAPER.rate
    rates = tuple(scale * rate for rate in (RATES[2:3] if bench.quick else RATES))
    ways: dict[tuple[str, float, int], _Way] = {}
    metric = ""
    for (normalized, settings), rate, seed in bench.each(product(twins(BASE), rates, bench.seeds)):
        trial = bench.trial(replace(settings, learning_rate=rate), seed)
        ways["with" if normalized else "without", rate, seed] = _follow(trial, steps, every)
        metric = trial.metric_name
    kinds = KINDS
    trains = tuple(all(ways[kind, rate, seed].trains for kind in kinds for seed in bench.seeds) for rate in rates)

    def plain(rate: float) -> float:
        return math.fsum(ways["without", rate, seed].metric for seed in bench.seeds)

    at = max((rate for rate, both in zip(rates, trains, strict=True) if both), key=plain, default=None)
    quantities = range(len(QUANTITIES))
    numbers = Landscape(
        tuple(range(0, steps, every)),
        rates,
        trains,
        at,
        {
            kind: tuple(
                tuple(tuple(ways[kind, rate, seed].mean(q) for q in quantities) for seed in bench.seeds)
                for rate in rates
            )
            for kind in kinds
        },
        {kind: tuple(tuple(ways[kind, rate, seed].metric for seed in bench.seeds) for rate in rates) for kind in kinds},
        {
            kind: tuple(
                tuple(tuple(look[q] for look in ways[kind, at, seed].looks) for q in quantities)
                for seed in (bench.seeds if at is not None else ())
            )
            for kind in kinds
            if at is not None
        },
    )
    return _outcome(numbers, metric, steps)


def _follow(trial: Trial, steps: int, every: int) -> _Way:
    rows = trial.settings.batch_size
    first = _loss(trial)
    looks: list[tuple[float, ...]] = [look(trial, rows, seed=0)]
    for step in trial.steps(steps - 1):
        if not trial.is_finite:
            looks.append((math.nan,) * len(QUANTITIES))
            return _Way(tuple(looks), first, math.inf, -math.inf)
        if step % every == 0:
            looks.append(look(trial, rows, seed=step))
    return _Way(tuple(looks), first, _loss(trial), trial.judge()[1])


@torch.no_grad()
def _loss(trial: Trial) -> float:
    """Of the training rows, as one training batch."""
    return float(trial.loss(trial.batch(2000)))


def _ratios(numbers: Landscape, rate: int, quantity: int) -> tuple[float, ...]:
    """Without divided by with, per seed."""
    pairs = zip(numbers.means["without"][rate], numbers.means["with"][rate], strict=True)
    return tuple(plain[quantity] / normalized[quantity] for plain, normalized in pairs)


def _outcome(numbers: Landscape, metric: str, steps: int) -> Outcome:
    asked = (ASKED_RANGE, ASKED_CHANGE, None)
    seeds = len(numbers.metric["with"][0])
    at = None if numbers.at is None else numbers.rates.index(numbers.at)
    where = "" if at is None else f" at a rate of {numbers.rates[at]:g}"
    effects = [
        Effect(
            f"{quantity}, without divided by with{where}",
            (math.nan,) * seeds if at is None else _ratios(numbers, at, q),
            unit="times",
            asked=asked[q],
            note="nothing to compare: at no rate do both networks train" if at is None else "",
        )
        for q, quantity in enumerate(QUANTITIES)
    ]
    if at is None:
        finding = f"At no rate tried ({', '.join(f'{r:g}' for r in numbers.rates)}) do both networks train"
    else:
        unit: Unit = "share" if metric == "accuracy" else ""
        effects += [
            Effect(f"test {metric} {kind} normalization{where}", numbers.metric[kind][at], unit=unit) for kind in KINDS
        ]
        finding = (
            f"At a rate of {numbers.at:g}, where the network without does best, the loss ranges {effects[0].mean:.1f} "
            f"times as far along the step without normalization, its gradient changes {effects[1].mean:.1f} times as "
            f"much, and the effective smoothness is {effects[2].mean:.2f} times as large"
        )
        others = [r for r, both in enumerate(numbers.trains) if both and r != at]
        for r in others:
            effects += [
                Effect(f"{quantity}, the same at a rate of {numbers.rates[r]:g}", _ratios(numbers, r, q), unit="times")
                for q, quantity in enumerate(QUANTITIES[:2])
            ]
        if others:
            finding += "; " + ", ".join(
                f"at {numbers.rates[r]:g} the loss ranges {_mean(_ratios(numbers, r, 0)):.1f} times as far and the "
                f"gradient changes {_mean(_ratios(numbers, r, 1)):.1f} times as much"
                for r in others
            )
    settings = BASE.to_dict() | {"steps": steps, "learning_rate": numbers.at}
    return Outcome(finding, tuple(effects), _charts(numbers, metric), numbers, settings)


def _charts(numbers: Landscape, metric: str) -> tuple[Chart, ...]:
    reached = Lines(
        Axis("learning rate", log=True),
        Axis(f"test {metric}", percent=metric == "accuracy"),
        tuple(
            over_seeds(f"{kind} normalization", numbers.rates, list(zip(*numbers.metric[kind], strict=True)), role=kind)
            for kind in KINDS
        ),
        marked=True,
    )
    training = Chart("Where both networks train", "At the end; where a network diverged there is no point.", (reached,))
    if numbers.at is None:
        return (training,)
    ratios = Lines(
        Axis("learning rate", log=True),
        Axis("without divided by with", log=True),
        tuple(
            over_seeds(
                quantity,
                _where_both(numbers, numbers.rates),
                list(
                    zip(*_where_both(numbers, [_ratios(numbers, r, q) for r in range(len(numbers.rates))]), strict=True)
                ),
            )
            for q, quantity in enumerate(QUANTITIES)
        ),
        levels=(
            Level(1.0, "no difference"),
            Level(ASKED_RANGE, "asked of the loss: at least 5, of the gradient: at least 3"),
            Level(ASKED_CHANGE, ""),
        ),
        marked=True,
    )
    panels = tuple(
        Lines(
            Axis("step"),
            Axis(title, log=True),
            tuple(
                over_seeds(
                    f"{kind} normalization", numbers.steps, [seed[q] for seed in numbers.curves[kind]], role=kind
                )
                for kind in KINDS
            ),
            label=title,
        )
        for q, title in enumerate(QUANTITIES)
    )
    reading = (
        f"Along the gradient, from a half to four times the rate of {numbers.at:g}; the smoothness is the change of "
        "the gradient divided by the distance; the band spans the seeds."
    )
    smoother = "Only rates at which both networks train; above 1 the surface is smoother with normalization."
    return (
        Chart("Along the step", reading, panels),
        Chart("How much smoother, by learning rate", smoother, (ratios,)),
        training,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _where_both(numbers: Landscape, values: Sequence[Value]) -> list[Value]:
    return [value for value, both in zip(values, numbers.trains, strict=True) if both]
