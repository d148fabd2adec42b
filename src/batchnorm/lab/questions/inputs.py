"""Normalizing the inputs makes the bowl round.

Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", sections 4.3 and 5: near its minimum the loss of a
linear model is a bowl whose curvatures are the eigenvalues of the inputs' second moments; gradient descent is as fast
as the ratio of the largest to the smallest allows, and means and unequal variances make that ratio large.

Measured: the condition number (largest through smallest eigenvalue, constant inputs left out) of the training inputs'
covariance must be larger before normalization than after, and so must be the steps to a given training loss (10 % of
ln(classes), or the next tenth that all reach) of logistic regression without hidden layers and of a deep network (the
paper's, with ReLU and without batch normalization). Each input takes the best of seven learning rates for each seed,
from 0.3 to 300 times 1 / largest eigenvalue. Centred inputs, whose means alone are taken away, are shown besides.

Unfair: hardly, for each gets a rate that suits it; but normalizing does not decorrelate, so that the bowl is rounder
and not round, and an input that is nearly always 0 is blown up by it until its rare values lead. Where all inputs have
one unit and one range, as pixels do, little may be left to gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from batchnorm.lab.bench import Bench
from batchnorm.lab.bowl import bowl, condition, spectra, steepest_inputs
from batchnorm.lab.charts import Axis, Chart, Contour, Level, Lines, Role, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER, Trial
from batchnorm.nn import InputNorm
from batchnorm.training.network import Network
from batchnorm.training.settings import Settings

KINDS = ("raw", "centred", "normalized")
NETWORKS = ("logistic", "deep")
NAMES = {"logistic": "logistic regression", "deep": "deep network"}
RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TENTHS = tuple(t / 10 for t in range(1, 10))
MOST = {"logistic": 1000, "deep": 300}
EVERY = 5


@dataclass(frozen=True)
class Inputs:
    """By "raw", "centred", "normalized", or "logistic raw", ...

    eigenvalues: per seed, of the covariance, from the largest on, constant inputs left out. condition: their ratio.
    bowl: the same ratio of the second moments of the inputs and a constant 1, the bowl of a linear model with a bias.
    goal: training loss by network; steps: (seeds,) to it at the best rate, infinite where it was not reached.
    rate: (seeds,) the best. curve: by network and kind (seeds, looks), training loss at the best rate.
    """

    eigenvalues: dict[str, tuple[tuple[float, ...], ...]]
    condition: dict[str, tuple[float, ...]]
    bowl: dict[str, tuple[float, ...]]
    goal: dict[str, float]
    most_steps: dict[str, int]
    steps: dict[str, tuple[float, ...]]
    rate: dict[str, tuple[float, ...]]
    curve: dict[str, tuple[tuple[float, ...], ...]]


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    rates = RATES[2:5] if bench.quick else RATES
    most = {name: count // 2 if bench.quick else count for name, count in MOST.items()}
    found: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
    for kind, seed in product(KINDS, bench.seeds):
        found[kind, seed] = spectra(_trial(bench, "logistic", kind, 1.0, seed).train.x)
    classes = len(bench.data(bench.seeds[0]).schema.classes)
    lowest = TENTHS[0] * math.log(classes)
    curves: dict[tuple[str, str, int, float], list[float]] = {}
    for name, kind, seed, factor in bench.each(product(NETWORKS, KINDS, bench.seeds, rates)):
        rate = factor / float(found[kind, seed][1].max())
        trial = _trial(bench, name, kind, rate, seed)
        curves[name, kind, seed, rate] = _follow(trial, most[name], lowest)
    goal = {name: _goal(curves, name, bench.seeds, math.log(classes)) for name in NETWORKS}
    best = {
        (name, kind, seed): _best(curves, name, kind, seed, goal[name])
        for name, kind, seed in product(NETWORKS, KINDS, bench.seeds)
    }
    whole: dict[str, list[tuple[float, ...]]] = {}
    bowls: dict[str, Contour | None] = {}
    pair = steepest_inputs(bench.data(bench.seeds[0]).x_train)
    for name, kind, seed in bench.each(best):
        trial = _trial(bench, name, kind, best[name, kind, seed][0], seed)
        whole.setdefault(f"{name} {kind}", []).append(tuple(_follow(trial, most[name], None)))
        if pair is not None and (name, seed) == ("logistic", bench.seeds[0]):
            bowls[kind] = bowl(trial, kind, pair)
    numbers = Inputs(
        {kind: tuple(tuple(found[kind, seed][0].tolist()) for seed in bench.seeds) for kind in KINDS},
        {kind: tuple(condition(found[kind, seed][0]) for seed in bench.seeds) for kind in KINDS},
        {kind: tuple(condition(found[kind, seed][1]) for seed in bench.seeds) for kind in KINDS},
        goal,
        most,
        {
            f"{name} {kind}": tuple(_first(best[name, kind, seed][1], goal[name]) for seed in bench.seeds)
            for name, kind in product(NETWORKS, KINDS)
        },
        {
            f"{name} {kind}": tuple(best[name, kind, seed][0] for seed in bench.seeds)
            for name, kind in product(NETWORKS, KINDS)
        },
        {key: tuple(curves) for key, curves in whole.items()},
    )
    return _outcome(numbers, tuple(drawn for drawn in bowls.values() if drawn is not None))


def _trial(bench: Bench, name: str, kind: str, rate: float, seed: int) -> Trial:
    settings = replace(PAPER, norm=None, learning_rate=rate, input_norm=kind != "raw")
    settings = replace(settings, hidden=()) if name == "logistic" else _deep(settings)
    return bench.trial(settings, seed, change=_centre if kind == "centred" else None)


def _deep(settings: Settings) -> Settings:
    return replace(settings, activation="relu", weight_scale=None)


def _centre(network: Network) -> None:
    """Take away the inputs' means and leave their scales."""
    assert network.input_norm is not None
    mean = network.input_norm.mean
    network.input_norm = InputNorm.from_constants(mean, torch.ones_like(mean))


def _follow(trial: Trial, steps: int, enough: float | None) -> list[float]:
    """Training loss every EVERY steps, infinite where it is no number; until it is `enough` or hopeless, if given."""
    losses = []
    for step in trial.steps(steps):
        if step % EVERY == 0:
            loss = trial.run.judge(trial.train)[0]
            losses.append(loss if math.isfinite(loss) else math.inf)
            if enough is not None and (loss <= enough or not math.isfinite(loss)):
                break
    return losses


def _goal(
    curves: dict[tuple[str, str, int, float], list[float]], name: str, seeds: Sequence[int], whole: float
) -> float:
    """The lowest tenth of ln(classes) that every kind of input reaches at some rate with every seed."""

    def lowest(kind: str, seed: int) -> float:
        return min(min(c) for (n, k, s, _), c in curves.items() if (n, k, s) == (name, kind, seed))

    reached = max(lowest(kind, seed) for kind in KINDS for seed in seeds)
    return next((tenth * whole for tenth in TENTHS if tenth * whole >= reached), TENTHS[0] * whole)


def _best(
    curves: dict[tuple[str, str, int, float], list[float]], name: str, kind: str, seed: int, goal: float
) -> tuple[float, list[float]]:
    """(rate, curve) that reaches the goal first; where none does, that which gets lowest."""
    found = [(rate, curve) for (n, k, s, rate), curve in curves.items() if (n, k, s) == (name, kind, seed)]
    return min(found, key=lambda pair: (_first(pair[1], goal), min(pair[1])))


def _first(curve: Sequence[float], goal: float) -> float:
    return next((float(EVERY * (i + 1)) for i, loss in enumerate(curve) if loss <= goal), math.inf)


def _outcome(numbers: Inputs, bowls: tuple[Contour, ...]) -> Outcome:
    ratio = Effect(
        "condition number of the inputs' covariance, before divided by after",
        _ratios(numbers.condition["raw"], numbers.condition["normalized"]),
        unit="times",
        asked=1.0,
        direction="more than",
    )
    slower = tuple(
        Effect(
            f"{NAMES[name]}: steps to training loss {numbers.goal[name]:.3f}, raw divided by normalized",
            _slower(numbers, name),
            unit="times",
            asked=1.0,
            direction="more than",
            note=_lost(numbers, name),
        )
        for name in NETWORKS
    )
    others = [Effect(f"condition number of the covariance, {kind}", numbers.condition[kind]) for kind in KINDS[::2]]
    others += [Effect(f"the same of second moments with a constant 1, {kind}", numbers.bowl[kind]) for kind in KINDS]
    others += [
        Effect(f"{NAMES[name]}: steps, {kind}", _capped(numbers, name, kind), unit="steps")
        for name, kind in product(NETWORKS, KINDS)
    ]
    steps = {(name, kind): _needed(numbers, name, kind) for name, kind in product(NETWORKS, KINDS)}
    finding = (
        f"Normalizing the inputs takes the condition number of their covariance from {others[0].mean:,.0f} to "
        f"{others[1].mean:,.0f}; at its best learning rate logistic regression needs {steps['logistic', 'raw']} "
        f"steps to a training loss of {numbers.goal['logistic']:.2f} on raw inputs, "
        f"{steps['logistic', 'centred']} on centred and {steps['logistic', 'normalized']} on normalized ones, "
        f"a deep network {steps['deep', 'raw']}, {steps['deep', 'centred']} and "
        f"{steps['deep', 'normalized']}"
    )
    kept = _deep(replace(PAPER, norm=None)).to_dict()
    return Outcome(finding, (ratio, *slower, *others), _charts(numbers, bowls), numbers, _without(kept))


def _without(kept: dict[str, Any]) -> dict[str, Any]:
    """The settings that are the same for all."""
    return {key: value for key, value in kept.items() if key not in ("learning_rate", "input_norm", "norm")}


def _ratios(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(first, second, strict=True))


def _capped(numbers: Inputs, name: str, kind: str) -> tuple[float, ...]:
    """Steps to the goal; all of them where it was not reached."""
    return tuple(min(steps, float(numbers.most_steps[name])) for steps in numbers.steps[f"{name} {kind}"])


def _needed(numbers: Inputs, name: str, kind: str) -> str:
    """Steps to the goal in words, mean over the seeds."""
    more = "more than " * any(map(math.isinf, numbers.steps[f"{name} {kind}"]))
    return f"{more}{Effect('', _capped(numbers, name, kind)).mean:.0f}"


def _slower(numbers: Inputs, name: str) -> tuple[float, ...]:
    """Not a number where not even normalized inputs reached the goal."""
    ours = (math.nan if math.isinf(steps) else steps for steps in numbers.steps[f"{name} normalized"])
    return _ratios(_capped(numbers, name, "raw"), tuple(ours))


def _lost(numbers: Inputs, name: str) -> str:
    lost = sum(map(math.isinf, numbers.steps[f"{name} raw"]))
    if any(map(math.isinf, numbers.steps[f"{name} normalized"])):
        return f"not even normalized inputs always got there in {numbers.most_steps[name]:,} steps"
    return f"a lower bound: {lost} never got there in {numbers.most_steps[name]:,} steps" if lost else ""


def _charts(numbers: Inputs, bowls: tuple[Contour, ...]) -> tuple[Chart, ...]:
    roles: dict[str, Role] = {"normalized": "with", "raw": "without", "centred": "other"}
    spectra = Lines(
        Axis("number of the eigenvalue"),
        Axis("eigenvalue, of the largest", log=True),
        tuple(
            over_seeds(
                name,
                tuple(range(1, 1 + min(map(len, numbers.eigenvalues[kind])))),
                _shares(numbers, kind),
                role=roles[kind],
            )
            for kind, name in (("normalized", "normalized"), ("raw", "raw or centred"))
        ),
    )
    learning = tuple(
        Lines(
            Axis("step"),
            Axis("training loss", log=True),
            tuple(
                over_seeds(
                    f"{kind} inputs",
                    tuple(range(EVERY, numbers.most_steps[name] + 1, EVERY)),
                    numbers.curve[f"{name} {kind}"],
                    role=roles[kind],
                )
                for kind in KINDS
            ),
            levels=(Level(numbers.goal[name], "goal"),),
            label=NAMES[name],
        )
        for name in NETWORKS
    )
    surface = Chart(
        "The loss over two weights",
        "Of logistic regression, all other weights 0: from the two inputs of the largest mean to the first class. "
        "Along a valley the gradient hardly points at its lowest place, and steps that the steep sides "
        "allow are small.",
        bowls,
    )
    return (
        *((surface,) if bowls else ()),
        Chart(
            "The curvatures of the bowl",
            "Eigenvalues of the inputs' covariance, logarithmic: a level line would be a round bowl.",
            (spectra,),
        ),
        Chart(
            "Learning on raw, centred and normalized inputs",
            "Each at the learning rate that reached the goal first; the band spans the seeds.",
            learning,
        ),
    )


def _shares(numbers: Inputs, kind: str) -> list[tuple[float, ...]]:
    """Eigenvalues divided by the largest, as many as every seed has."""
    length = min(map(len, numbers.eigenvalues[kind]))
    return [tuple(value / values[0] for value in values[:length]) for values in numbers.eigenvalues[kind]]
