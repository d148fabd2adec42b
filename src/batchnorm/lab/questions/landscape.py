"""The loss surface is smoother.

Source: Santurkar, Tsipras, Ilyas and Madry 2018, "How does batch normalization help optimization?", section 3.1 and
figure 4: how far the loss and its gradient vary along the direction of the step.

Measured: 8 layers of 100 ReLU (He's initial weights), 300 steps of plain gradient descent, every 10 of them: from the
weights W along the gradient g of a batch, at W - a g with a from a half to four times the learning rate. The range of
the loss there, the largest change of the gradient |g(W - a g) - g(W)|, and the effective smoothness, which is that
change divided by the distance. Each is averaged over the looks; without normalization divided by with, the range of the
loss must be at least 5 and the change of the gradient at least 3. Four learning rates are tried, and compared only
where both networks train, each ending at less than half the loss it began with. What is asked is asked at the largest
rate at which, with a seed's weights, both do: the surface matters where steps are long; the others are reported.

Unfair: to whichever network has learnt less, for a surface flattens as its loss falls; and weights before normalization
have a scale of their own, on which distances, and with them the effective smoothness, depend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

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


@dataclass(frozen=True)
class Landscape:
    """Per rate and seed, with and without: each quantity's mean over the looks, the loss at each end, the metric.

    Attributes:
        steps: that were looked at.
        rates: tried.
        trains: whether both networks train: [rate][seed].
        at: the largest rate at which both do, per seed; None where there is none.
        means: by "with" and "without": [rate][seed][quantity]; not finite where a network diverged.
        metric: by the same: [rate][seed], on the test rows at the end.
        curves: at `at`, by the same: [seed][quantity][look]; empty where a seed has no such rate.
    """

    steps: tuple[int, ...]
    rates: tuple[float, ...]
    trains: tuple[tuple[bool, ...], ...]
    at: tuple[float | None, ...]
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
    trains = {(r, seed): all(ways[kind, r, seed].trains for kind in KINDS) for r in rates for seed in bench.seeds}
    at = tuple(max((r for r in rates if trains[r, seed]), default=None) for seed in bench.seeds)
    quantities = range(len(QUANTITIES))

    def means(kind: str, rate: float) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(ways[kind, rate, seed].mean(q) for q in quantities) for seed in bench.seeds)

    def curve(kind: str, seed: int, rate: float | None) -> tuple[tuple[float, ...], ...]:
        return () if rate is None else tuple(zip(*ways[kind, rate, seed].looks, strict=True))

    numbers = Landscape(
        tuple(range(0, steps, every)),
        rates,
        tuple(tuple(trains[rate, seed] for seed in bench.seeds) for rate in rates),
        at,
        {kind: tuple(means(kind, rate) for rate in rates) for kind in KINDS},
        {kind: tuple(tuple(ways[kind, rate, seed].metric for seed in bench.seeds) for rate in rates) for kind in KINDS},
        {kind: tuple(curve(kind, seed, r) for seed, r in zip(bench.seeds, at, strict=True)) for kind in KINDS},
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


def _ratio(numbers: Landscape, rate: float | None, seed: int, quantity: int) -> float:
    """Without divided by with; not a number where there is no such rate."""
    if rate is None:
        return math.nan
    plain, normalized = (numbers.means[kind][numbers.rates.index(rate)][seed] for kind in ("without", "with"))
    return plain[quantity] / normalized[quantity]


def _ratios(numbers: Landscape, rates: Sequence[float | None], quantity: int) -> tuple[float, ...]:
    """Per seed, at the seed's rate."""
    return tuple(_ratio(numbers, rate, seed, quantity) for seed, rate in enumerate(rates))


def _outcome(numbers: Landscape, metric: str, steps: int) -> Outcome:
    asked = (ASKED_RANGE, ASKED_CHANGE, None)
    seeds = len(numbers.at)
    nowhere = numbers.at.count(None)
    note = f"with {nowhere} of {seeds} seeds no rate tried trains both networks" if nowhere else ""
    effects = [
        Effect(
            f"{quantity}, without divided by with",
            _ratios(numbers, numbers.at, q),
            unit="times",
            asked=asked[q],
            note=note,
        )
        for q, quantity in enumerate(QUANTITIES)
    ]
    if nowhere:
        finding = f"With {nowhere} of {seeds} seeds no rate of {_listed(numbers.rates)} trains both networks"
    else:
        unit: Unit = "share" if metric == "accuracy" else ""
        for kind in KINDS:
            reached = tuple(numbers.metric[kind][numbers.rates.index(r)][i] for i, r in enumerate(numbers.at) if r)
            effects.append(Effect(f"test {metric} {kind} normalization", reached, unit=unit))
        finding = (
            f"At the largest rate at which both networks train ({_listed(sorted({r for r in numbers.at if r}))}) the "
            f"loss ranges {effects[0].mean:.1f} times as far along the step without normalization, its gradient "
            f"changes {effects[1].mean:.1f} times as much, and the effective smoothness is {effects[2].mean:.2f} times "
            "as large"
        )
    for rate in _with_every_seed(numbers):
        if rate in numbers.at:
            continue
        two = [
            Effect(f"{name}, at a rate of {rate:g}", _ratios(numbers, (rate,) * seeds, q), unit="times")
            for q, name in enumerate(QUANTITIES[:2])
        ]
        effects += two
        finding += f"; at {rate:g} these are {two[0].mean:.1f} and {two[1].mean:.1f} times"
    settings = BASE.to_dict() | {"steps": steps, "learning_rate": None}
    return Outcome(finding, tuple(effects), _charts(numbers, metric), numbers, settings)


def _with_every_seed(numbers: Landscape) -> list[float]:
    """The rates at which both networks train."""
    return [rate for rate, both in zip(numbers.rates, numbers.trains, strict=True) if all(both)]


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


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
    if None in numbers.at:
        return (training,)
    rates = _with_every_seed(numbers)
    ratios = Lines(
        Axis("learning rate", log=True),
        Axis("without divided by with", log=True),
        tuple(
            over_seeds(
                quantity,
                rates,
                [[_ratio(numbers, rate, seed, q) for rate in rates] for seed in range(len(numbers.at))],
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
        "Along the gradient, from a half to four times the rate; the smoothness is the change of "
        "the gradient divided by the distance; the band spans the seeds."
    )
    smoother = "Rates at which both networks train with every seed; above 1 the surface is smoother with normalization."
    by_rate = Chart("How much smoother, by learning rate", smoother, (ratios,))
    return (Chart("Along the step", reading, panels), *((by_rate,) if rates else ()), training)
