"""Without gamma and beta every z stays in the sigmoid's linear middle.

Source: Ioffe and Szegedy 2015, section 3: normalizing the inputs of a sigmoid would constrain them to the linear regime
of the nonlinearity, which gamma and beta are there to undo.

Measured: the paper's network with gamma and beta fixed at 1 and 0 against learnt ones, sigmoid and tanh, after 2000
steps: the share of what enters the activations that lies in [-2, 2], over all training rows. A normal distribution has
95.4 % there; with gamma and beta fixed at least 95 % are asked, and learnt ones must have less. The accuracy of both
is reported: the claim says nothing of it, but it is what the middle would cost.

Unfair: two standard deviations are not a linear piece of tanh, which bends from 1 on; and other distributions than the
normal one may have as little as 75 % within two standard deviations (Chebyshev).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER, Trial

ACTIVATIONS = ("sigmoid", "tanh")
KINDS: tuple[Literal["fixed", "learnt"], ...] = ("fixed", "learnt")
MIDDLE = 2.0
ASKED = 0.95
LOOKS = 20
BINS = 60
EDGE = 6.0


@dataclass(frozen=True)
class LinearMiddle:
    """By "sigmoid fixed", "sigmoid learnt", ...: per seed, the share in the middle and the accuracy at each of `steps`.

    density: of what enters the activations at the end, all seeds together, in bins with centres `at`.
    """

    steps: tuple[int, ...]
    share: dict[str, tuple[tuple[float, ...], ...]]
    accuracy: dict[str, tuple[tuple[float, ...], ...]]
    at: tuple[float, ...]
    density: dict[str, tuple[float, ...]]


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    steps = 300 if bench.quick else 2000
    every = steps // LOOKS
    keys = [f"{activation} {kind}" for activation in ACTIVATIONS for kind in KINDS]
    share: dict[str, list[tuple[float, ...]]] = {key: [] for key in keys}
    accuracy: dict[str, list[tuple[float, ...]]] = {key: [] for key in keys}
    counts = {key: torch.zeros(BINS, dtype=torch.float64) for key in keys}
    for activation, kind, seed in bench.each(product(ACTIVATIONS, KINDS, bench.seeds)):
        trial = bench.trial(replace(PAPER, activation=activation), seed)
        shares, accuracies = [_share(trial)], [trial.judge()[1]]
        for step in trial.steps(steps):
            if kind == "fixed":
                _fix(trial)
            if step % every == 0:
                shares.append(_share(trial))
                accuracies.append(trial.judge()[1])
        key = f"{activation} {kind}"
        share[key].append(tuple(shares))
        accuracy[key].append(tuple(accuracies))
        counts[key] += _histogram(trial)
    width = 2 * EDGE / BINS
    numbers = LinearMiddle(
        tuple(range(0, steps + 1, every)),
        {key: tuple(values) for key, values in share.items()},
        {key: tuple(values) for key, values in accuracy.items()},
        tuple(-EDGE + width * (i + 0.5) for i in range(BINS)),
        {key: tuple((c / c.sum() / width).tolist()) for key, c in counts.items()},
    )
    return _outcome(numbers)


@torch.no_grad()
def _fix(trial: Trial) -> None:
    """Put gamma and beta back to 1 and 0."""
    for norm in trial.norms:
        norm.weight.fill_(1.0)
        norm.bias.zero_()


@torch.no_grad()
def _entering(trial: Trial) -> torch.Tensor:
    return torch.cat([z.flatten() for z in trial.network.entering_activations(trial.train.x)])


def _share(trial: Trial) -> float:
    return float((_entering(trial).abs() <= MIDDLE).double().mean())


def _histogram(trial: Trial) -> torch.Tensor:
    return torch.histc(_entering(trial), BINS, -EDGE, EDGE).double()


def _outcome(numbers: LinearMiddle) -> Outcome:
    effects = []
    for activation in ACTIVATIONS:
        fixed, learnt = (_last(numbers.share[f"{activation} {kind}"]) for kind in KINDS)
        right_fixed, right_learnt = (_last(numbers.accuracy[f"{activation} {kind}"]) for kind in KINDS)
        effects += [
            Effect(f"{activation}: z in [-2, 2], gamma and beta fixed", fixed, unit="share", asked=ASKED),
            Effect(
                f"{activation}: the same share, fixed less learnt",
                _less(fixed, learnt),
                unit="points",
                asked=0.0,
                direction="more than",
            ),
            Effect(f"{activation}: test accuracy, learnt less fixed", _less(right_learnt, right_fixed), unit="points"),
        ]
    learnt_share = Effect("", _last(numbers.share["sigmoid learnt"]))
    finding = (
        f"With gamma and beta fixed {effects[0].mean:.1%} of what enters a sigmoid lies in [-2, 2], with learnt ones "
        f"{learnt_share.mean:.1%}; learning them changes test accuracy by {100 * effects[2].mean:+.2f} points with "
        f"sigmoid and {100 * effects[5].mean:+.2f} with tanh"
    )
    settings = PAPER.to_dict() | {"steps": numbers.steps[-1]}
    return Outcome(finding, tuple(effects), _charts(numbers), numbers, settings)


def _last(paths: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    return tuple(path[-1] for path in paths)


def _less(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(first, second, strict=True))


def _charts(numbers: LinearMiddle) -> tuple[Chart, ...]:
    shares = tuple(
        Lines(
            Axis("step"),
            Axis("z in [-2, 2]", percent=True),
            tuple(
                over_seeds(
                    f"gamma and beta {kind}",
                    numbers.steps,
                    numbers.share[f"{activation} {kind}"],
                    role="with" if kind == "learnt" else "other",
                )
                for kind in KINDS
            ),
            levels=(Level(ASKED, "asked with gamma and beta fixed: 95 %"),),
            label=activation,
        )
        for activation in ACTIVATIONS
    )
    densities = tuple(
        Lines(
            Axis("z that enters the activation"),
            Axis("density"),
            tuple(
                over_seeds(
                    f"gamma and beta {kind}",
                    numbers.at,
                    [numbers.density[f"{activation} {kind}"]],
                    role="with" if kind == "learnt" else "other",
                )
                for kind in KINDS
            ),
            levels=(Level(-MIDDLE, "-2 and 2", upright=True), Level(MIDDLE, "", upright=True)),
            label=activation,
        )
        for activation in ACTIVATIONS
    )
    accuracies = tuple(
        Lines(
            Axis("step"),
            Axis("test accuracy", percent=True, bounds=(0.85, 1.0)),
            tuple(
                over_seeds(
                    f"gamma and beta {kind}",
                    numbers.steps,
                    numbers.accuracy[f"{activation} {kind}"],
                    role="with" if kind == "learnt" else "other",
                )
                for kind in KINDS
            ),
            label=activation,
        )
        for activation in ACTIVATIONS
    )
    return (
        Chart("Share of z in the middle", "Over all training rows and layers; the band spans the seeds.", shares),
        Chart("Where z lies after training", "All layers, rows and seeds together.", densities),
        Chart("What it costs", "Mean over the seeds in a band from the lowest to the highest.", accuracies),
    )
