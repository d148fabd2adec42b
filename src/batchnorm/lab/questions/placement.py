"""Normalizing before the activation is better than after it.

Source: Ioffe and Szegedy 2015, section 3.2, normalize z = W u + b, not the activation's output; later practice reports
both.

Measured: test accuracy of the paper's network after 500 steps with normalization before and after each of six
activations, each at the best of three learning rates (by the mean over the seeds), over 5 seeds. For every activation
the difference, before less after, is said with its spread; the claim asks that it be more than 0.

Unfair: hardly: both networks have the same parameters and a step costs the same. The last layer sees normalized inputs
only where normalization comes after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Points, Role, Series
from batchnorm.lab.record import LEAST_SEEDS, Effect, Outcome
from batchnorm.lab.trial import PAPER
from batchnorm.training.settings import ACTIVATIONS

SEEDS = 5
RATES = (0.1, 0.3, 1.0)

Place = Literal["before", "after"]
PLACES: tuple[Place, Place] = ("before", "after")


@dataclass(frozen=True)
class Placement:
    """Test accuracies at the best rate, per activation and seed; and those rates, per activation."""

    activations: tuple[str, ...]
    steps: int
    before: tuple[tuple[float, ...], ...]
    after: tuple[tuple[float, ...], ...]
    rate_before: tuple[float, ...]
    rate_after: tuple[float, ...]


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    rates, steps = (RATES[1:2], 100) if bench.quick else (RATES, 500)
    found: dict[tuple[str, Place, float, int], float] = {}
    for activation, place, rate, seed in bench.each(product(ACTIVATIONS, PLACES, rates, bench.seeds)):
        trial = bench.trial(replace(PAPER, activation=activation, placement=place, learning_rate=rate), seed)
        for _ in trial.steps(steps):
            pass
        found[activation, place, rate, seed] = trial.judge()[1]

    def best(activation: str, place: Place) -> tuple[float, tuple[float, ...]]:
        """The rate and its accuracies, one per seed."""
        tried = [(rate, tuple(found[activation, place, rate, seed] for seed in bench.seeds)) for rate in rates]
        return max(tried, key=lambda pair: sum(pair[1]))

    before, after = ([best(activation, place) for activation in ACTIVATIONS] for place in PLACES)
    numbers = Placement(
        ACTIVATIONS,
        steps,
        tuple(accuracies for _, accuracies in before),
        tuple(accuracies for _, accuracies in after),
        tuple(rate for rate, _ in before),
        tuple(rate for rate, _ in after),
    )
    return _outcome(numbers)


def _outcome(numbers: Placement) -> Outcome:
    effects = tuple(
        Effect(
            f"{activation}: accuracy with normalization before, less that after",
            tuple(b - a for b, a in zip(before, after, strict=True)),
            unit="points",
            asked=0.0,
            direction="more than",
        )
        for activation, before, after in zip(numbers.activations, numbers.before, numbers.after, strict=True)
    )
    better = [a for a, e in zip(numbers.activations, effects, strict=True) if e.verdict == "holds"]
    worse = [a for a, e in zip(numbers.activations, effects, strict=True) if e.verdict == "does not hold here"]
    equal = len(effects) - len(better) - len(worse)
    widest = max(effects, key=lambda effect: abs(effect.mean))
    decided = (
        f"Before is better for {_listed(better)}, after for {_listed(worse)}, and for {equal} of {len(effects)} "
        "activations the difference lies within its spread"
    )
    if len(widest.values) < LEAST_SEEDS:
        decided = f"With fewer than {LEAST_SEEDS} seeds no difference can be told from what a seed does"
    finding = (
        f"{decided}; the largest is {100 * widest.mean:+.2f} points ({widest.what.partition(':')[0]}), spread "
        f"{100 * widest.spread:.2f}"
    )
    return Outcome(finding, effects, _charts(numbers, effects), numbers, PAPER.to_dict() | {"steps": numbers.steps})


def _charts(numbers: Placement, effects: tuple[Effect, ...]) -> tuple[Chart, ...]:
    differences = Points(
        Axis("activation", names=numbers.activations),
        Axis("points of accuracy, before less after"),
        (
            Series(
                "one seed",
                tuple(i - 0.15 for i, effect in enumerate(effects) for _ in effect.values),
                tuple(100 * value for effect in effects for value in effect.values),
            ),
            _whiskers("mean and standard deviation", effects, 0.15, 100.0, "with"),
        ),
        levels=(Level(0.0, "no difference"),),
    )
    accuracies = Points(
        Axis("activation", names=numbers.activations),
        Axis("test accuracy", percent=True),
        (
            _whiskers("before the activation", _effects(numbers.before), -0.12, 1.0, "with"),
            _whiskers("after the activation", _effects(numbers.after), 0.12, 1.0, "other"),
        ),
    )
    return (
        Chart(
            "Difference per seed",
            "Above the line normalizing before the activation is better, below it after.",
            (differences,),
        ),
        Chart(
            "Accuracy before and after",
            "Mean over the seeds and standard deviation.",
            (accuracies,),
        ),
    )


def _effects(accuracies: tuple[tuple[float, ...], ...]) -> tuple[Effect, ...]:
    return tuple(Effect("accuracy", values) for values in accuracies)


def _whiskers(name: str, effects: tuple[Effect, ...], aside: float, scale: float, role: Role) -> Series:
    """Means with their spreads, one per activation, a little aside of its place."""
    return Series(
        name,
        tuple(i + aside for i in range(len(effects))),
        tuple(scale * e.mean for e in effects),
        role,
        tuple(scale * (e.mean - e.spread) for e in effects),
        tuple(scale * (e.mean + e.spread) for e in effects),
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
