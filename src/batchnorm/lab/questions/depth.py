"""Very deep networks become trainable.

Source: Ioffe and Szegedy 2015, section 3.3 (gradients that neither vanish nor explode); Santurkar et al. 2018 and He et
al. 2015 for how far careful initialization goes without.

Measured: test accuracy after 500 steps against depth, from 2 to 30 layers of 50 neurons, sigmoid and ReLU, each at the
best of three learning rates (by the mean over the seeds). Weights are drawn with variance 1/inputs, for ReLU 2/inputs.
At 20 sigmoid layers the network with normalization must reach at least 90 % and the one without must stay below 30 %.
(On data where two layers do not reach 92 %, 2 points less than these; where always naming the most frequent class is
right in more than 25 % of the rows, 5 points more than that.)

Unfair: as far as the one without has no other remedy: residual connections and gradient clipping are left out, and a
deep ReLU network with He's initialization does train without normalization, which is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from batchnorm.data import Prepared
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, Series, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER, twins

DEPTHS = (2, 5, 10, 20, 30)
ACTIVATIONS = ("sigmoid", "relu")
RATES = (0.03, 0.1, 0.3)
WIDTH, ASKED_AT = 50, 20
ASKED_WITH, ASKED_WITHOUT = 0.9, 0.3
BASE = replace(PAPER, weight_scale=None)
TITLES = {"sigmoid": "sigmoid", "relu": "ReLU"}


@dataclass(frozen=True)
class Depths:
    """Test accuracies at the best rate, per depth and seed; and those rates, per depth. Keys: "sigmoid with", ..."""

    depths: tuple[int, ...]
    steps: int
    accuracy: dict[str, tuple[tuple[float, ...], ...]]
    rate: dict[str, tuple[float, ...]]
    asked_with: float
    asked_without: float


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    depths, rates, steps = ((2, ASKED_AT), (0.1,), 300) if bench.quick else (DEPTHS, RATES, 500)
    found: dict[tuple[str, bool, int, float, int], float] = {}
    cases = product(ACTIVATIONS, twins(BASE), depths, rates, bench.seeds)
    for activation, (normalized, settings), depth, rate, seed in bench.each(cases):
        chosen = replace(settings, activation=activation, hidden=(WIDTH,) * depth, learning_rate=rate)
        trial = bench.trial(chosen, seed)
        for _ in trial.steps(steps):
            pass
        found[activation, normalized, depth, rate, seed] = trial.judge()[1]
    accuracy, rate_of = {}, {}
    for activation, normalized in product(ACTIVATIONS, (True, False)):
        curve, used = [], []
        for depth in depths:
            by_rate = {r: tuple(found[activation, normalized, depth, r, seed] for seed in bench.seeds) for r in rates}
            best = max(rates, key=lambda r, accuracies=by_rate: sum(accuracies[r]))
            curve.append(by_rate[best])
            used.append(best)
        accuracy[_key(activation, normalized)] = tuple(curve)
        rate_of[_key(activation, normalized)] = tuple(used)
    shallow = sum(accuracy["sigmoid with"][0]) / len(bench.seeds)
    guess = sum(_most_frequent(bench.data(seed)) for seed in bench.seeds) / len(bench.seeds)
    thresholds = min(ASKED_WITH, shallow - 0.02), max(ASKED_WITHOUT, guess + 0.05)
    return _outcome(Depths(depths, steps, accuracy, rate_of, *thresholds))


def _most_frequent(data: Prepared) -> float:
    """The test accuracy of always naming the training rows' most frequent class."""
    return float(np.mean(data.y_test == np.bincount(data.y_train).argmax()))


def _outcome(numbers: Depths) -> Outcome:
    at = numbers.depths.index(ASKED_AT)

    def effect(activation: str, normalized: bool) -> Effect:
        threshold = numbers.asked_with if normalized else numbers.asked_without
        asked = threshold if activation == "sigmoid" else None
        return Effect(
            f"test accuracy of {ASKED_AT} {TITLES[activation]} layers {'with' if normalized else 'without'}",
            numbers.accuracy[_key(activation, normalized)][at],
            unit="share",
            asked=asked,
            direction="at least" if normalized else "less than",
        )

    effects = tuple(effect(activation, normalized) for activation in ACTIVATIONS for normalized in (True, False))
    finding = (
        f"{ASKED_AT} sigmoid layers reach {effects[0].mean:.1%} with normalization and {effects[1].mean:.1%} without; "
        f"{ASKED_AT} ReLU layers {effects[2].mean:.1%} and {effects[3].mean:.1%}"
    )
    settings = BASE.to_dict() | {"hidden": [WIDTH], "steps": numbers.steps}
    return Outcome(finding, effects, (_accuracies(numbers), _rates(numbers)), numbers, settings)


def _accuracies(numbers: Depths) -> Chart:
    panels = tuple(
        Lines(
            Axis("hidden layers"),
            Axis("test accuracy", percent=True, bounds=(0.0, 1.02)),
            tuple(
                over_seeds(
                    "with normalization" if normalized else "without normalization",
                    numbers.depths,
                    list(zip(*numbers.accuracy[_key(activation, normalized)], strict=True)),
                    role="with" if normalized else "without",
                )
                for normalized in (True, False)
            ),
            levels=(
                (
                    Level(
                        numbers.asked_with,
                        f"asked at {ASKED_AT} layers: {numbers.asked_with:.0%} with, less than "
                        f"{numbers.asked_without:.0%} without",
                    ),
                    Level(numbers.asked_without, ""),
                )
                if activation == "sigmoid"
                else ()
            ),
            marked=True,
            label=TITLES[activation],
        )
        for activation in ACTIVATIONS
    )
    reading = f"After {numbers.steps} steps, at the best learning rate for each depth; the band spans the seeds."
    return Chart("Accuracy against depth", reading, panels)


def _rates(numbers: Depths) -> Chart:
    panels = tuple(
        Lines(
            Axis("hidden layers"),
            Axis("learning rate that did best", log=True, bounds=(0.02, 0.5)),
            tuple(
                Series(
                    "with normalization" if normalized else "without normalization",
                    tuple(map(float, numbers.depths)),
                    numbers.rate[_key(activation, normalized)],
                    "with" if normalized else "without",
                )
                for normalized in (True, False)
            ),
            marked=True,
            label=TITLES[activation],
        )
        for activation in ACTIVATIONS
    )
    return Chart("The learning rate that did best", "Where no rate works, which one is best says nothing.", panels)


def _key(activation: str, normalized: bool) -> str:
    return f"{activation} {'with' if normalized else 'without'}"
