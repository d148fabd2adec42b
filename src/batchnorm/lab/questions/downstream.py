"""Later layers become robust to changes in earlier ones.

Source: Ioffe and Szegedy 2015, section 2 (small changes to the parameters amplify as the network becomes deeper, and
later layers have to adapt) and section 3.3 (the scale of a layer's weights has no effect).

Measured: the paper's network with and without normalization, each trained until its training loss falls to a tenth of
ln(classes). Then the first layer's weights W are changed by 1 to 50 % of their norm: in random directions, mean over 10
of them, and along W itself, which changes its scale alone. With normalization the last hidden layer's input must move
less (distance from before, of its spread over the rows) and the training loss must rise less, for random changes of 10,
20 and 50 % together: without divided by with more than 1, geometric mean. Normalization takes all training rows as one
batch, as a later layer sees it in training. Shown besides: the loss when the statistics are those of before, and the
same after 1500 steps each instead of at equal loss.

Unfair: where the two are not equally trained, or where one's weights are larger: hence the equal loss and changes
relative to the norm. The claim is of training: with old statistics, as at test time, not even a change of
scale is taken away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Lines, Role, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER, Trial, twins
from batchnorm.moments import Moments

CHANGES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
ASKED_FROM = 0.1
DIRECTIONS, QUICK_DIRECTIONS = 10, 3
TENTH, EVERY = 0.1, 5
MOST_STEPS, LONG, QUICK_LONG = 4000, 1500, 600
KINDS = ("with", "without")
WAYS = ("random", "scale")
NAMES = {"random": "random directions", "scale": "along W: its scale"}

Curves: TypeAlias = tuple[tuple[float, ...], ...]
"""(seeds, changes)."""


@dataclass(frozen=True)
class Downstream:
    """By "with random", "without scale", ...; moved: distance of the last hidden layer's input, of its spread.

    rise: of the training loss, nats, with statistics of the changed network; rise_old: with those of before (only
    "with ..."). loss, steps: (seeds,) where training stopped, by "with" and "without".
    """

    changes: tuple[float, ...]
    moved: dict[str, Curves]
    rise: dict[str, Curves]
    rise_old: dict[str, Curves]
    loss: dict[str, tuple[float, ...]]
    steps: dict[str, tuple[float, ...]]
    later: dict[str, Curves]
    later_steps: int


@dataclass(frozen=True)
class _Pass:
    """Of all training rows: what enters the last hidden layer (N, neurons), the loss, and each layer's Moments."""

    entering: Tensor
    loss: float
    moments: tuple[Moments, ...]


@dataclass(frozen=True)
class _Effects:
    """Per change."""

    moved: tuple[float, ...]
    rise: tuple[float, ...]
    rise_old: tuple[float, ...]


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    goal = TENTH * math.log(len(bench.data(bench.seeds[0]).schema.classes))
    directions = QUICK_DIRECTIONS if bench.quick else DIRECTIONS
    found: dict[str, list[_Effects]] = {f"{kind} {way}": [] for kind in KINDS for way in WAYS}
    loss: dict[str, list[float]] = {kind: [] for kind in KINDS}
    steps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    later: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    long = QUICK_LONG if bench.quick else LONG
    for (normalized, settings), seed in bench.each((twin, seed) for twin in twins(PAPER) for seed in bench.seeds):
        kind = KINDS[0] if normalized else KINDS[1]
        trial = bench.trial(settings, seed)
        for step in trial.steps(MOST_STEPS):
            if step % EVERY == 0 and _pass(trial).loss <= goal:
                break
        before = _pass(trial)
        loss[kind].append(before.loss)
        steps[kind].append(float(step))
        weight = trial.layers[0].linear.weight.detach().clone()
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(weight.shape, generator=generator) for _ in range(directions)]
        found[f"{kind} random"].append(_effects(trial, before, weight, drawn))
        found[f"{kind} scale"].append(_effects(trial, before, weight, [weight]))
        for _ in trial.steps(max(0, long - step)):
            pass
        weight = trial.layers[0].linear.weight.detach().clone()
        later[kind].append(_effects(trial, _pass(trial), weight, drawn).moved)
    numbers = Downstream(
        CHANGES,
        {key: tuple(effects.moved for effects in runs) for key, runs in found.items()},
        {key: tuple(effects.rise for effects in runs) for key, runs in found.items()},
        {key: tuple(effects.rise_old for effects in runs) for key, runs in found.items() if key.startswith("with ")},
        {kind: tuple(values) for kind, values in loss.items()},
        {kind: tuple(values) for kind, values in steps.items()},
        {kind: tuple(values) for kind, values in later.items()},
        long,
    )
    return _outcome(numbers)


def _effects(trial: Trial, before: _Pass, weight: Tensor, directions: Sequence[Tensor]) -> _Effects:
    """Mean over the directions, for each change; the weights are as before afterwards."""
    moved, rise, old = [], [], []
    spread = float((before.entering - before.entering.mean(dim=0)).norm())
    for change in CHANGES:
        after = []
        for direction in directions:
            _set(trial, weight + change * float(weight.norm() / direction.norm()) * direction)
            after.append((_pass(trial), _pass(trial, before.moments)))
        moved.append(_mean([float((now.entering - before.entering).norm()) / spread for now, _ in after]))
        rise.append(_mean([now.loss - before.loss for now, _ in after]))
        old.append(_mean([then.loss - before.loss for _, then in after]))
    _set(trial, weight)
    return _Effects(tuple(moved), tuple(rise), tuple(old))


@torch.no_grad()
def _set(trial: Trial, weight: Tensor) -> None:
    trial.layers[0].linear.weight.copy_(weight)


@torch.no_grad()
def _pass(trial: Trial, statistics: tuple[Moments, ...] = ()) -> _Pass:
    """All training rows as one batch, or normalized by `statistics`; nothing is updated."""
    a, moments = trial.train.x, []
    entering = a
    for i, layer in enumerate(trial.layers):
        entering = a
        z = layer.linear(a)
        if layer.norm is not None:
            moments.append(Moments.of(z, dims=0))
            now = statistics[i] if statistics else moments[-1]
            scale = layer.norm.weight / (now.variance() + layer.norm.eps).sqrt()
            z = ((z - now.mean) * scale + layer.norm.bias).to(z.dtype)
        a = ACTIVATIONS[layer.activation].value(z)
    loss = float(trial.run.objective.loss(trial.network.head(a), trial.train.y))
    return _Pass(entering, loss, tuple(moments))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _times(without: Curves, having: Curves) -> tuple[float, ...]:
    """Per seed, geometric mean over the changes that are asked: without divided by with."""
    at = [i for i, change in enumerate(CHANGES) if change >= ASKED_FROM]
    return tuple(
        math.exp(_mean([math.log(max(a[i], 1e-12) / max(b[i], 1e-12)) for i in at]))
        for a, b in zip(without, having, strict=True)
    )


def _outcome(numbers: Downstream) -> Outcome:
    shown = CHANGES.index(ASKED_FROM)

    def asked(what: str, found: dict[str, Curves]) -> Effect:
        values = _times(found["without random"], found["with random"])
        return Effect(what, values, unit="times", asked=1.0, direction="more than")

    def at(found: dict[str, Curves], key: str) -> tuple[float, ...]:
        return tuple(run[shown] for run in found[key])

    effects = (
        asked("random change of W: the last hidden layer's input moves, without divided by with", numbers.moved),
        asked("random change of W: the training loss rises, without divided by with", numbers.rise),
        *(
            Effect(
                f"that input moves, of its spread, {NAMES[way]}, 10 %, {kind}",
                at(numbers.moved, f"{kind} {way}"),
                unit="share",
            )
            for way in WAYS
            for kind in KINDS
        ),
        *(
            Effect(f"rise of the training loss, {NAMES[way]}, 10 %, {kind}", at(numbers.rise, f"{kind} {way}"))
            for way in WAYS
            for kind in KINDS
        ),
        *(
            Effect(f"the same, {NAMES[way]}, with the statistics of before", at(numbers.rise_old, f"with {way}"))
            for way in WAYS
        ),
        *(Effect(f"training loss before, {kind}", numbers.loss[kind]) for kind in KINDS),
        Effect(
            f"after {numbers.later_steps} steps each: random change, the input moves, without divided by with",
            _times(numbers.later["without"], numbers.later["with"]),
            unit="times",
        ),
    )
    moved = [Effect("", at(numbers.moved, f"{kind} {way}")).mean for way in WAYS for kind in KINDS]
    finding = (
        f"A random change of the first layer's weights by {ASKED_FROM:.0%} moves the last hidden layer's input by "
        f"{moved[0]:.1%} of its spread with normalization and by {moved[1]:.1%} without, a change of their scale alone "
        f"by {moved[2]:.2%} and {moved[3]:.1%}; for random changes of 10 to 50 % the input moves without "
        f"normalization {effects[0].mean:.2f} times as much as with it, and the loss rises {effects[1].mean:.2f} times "
        f"as much"
    )
    return Outcome(finding, effects, _charts(numbers), numbers, PAPER.to_dict())


def _charts(numbers: Downstream) -> tuple[Chart, ...]:
    roles: dict[str, Role] = {"with": "with", "without": "without"}

    def panels(y: Axis, found: dict[str, Curves], old: dict[str, Curves]) -> tuple[Lines, ...]:
        return tuple(
            Lines(
                Axis("change of W, of its norm", log=True, percent=True),
                y,
                (
                    *(
                        over_seeds(f"{kind} normalization", CHANGES, found[f"{kind} {way}"], role=roles[kind])
                        for kind in KINDS
                    ),
                    *(over_seeds("with, by the statistics of before", CHANGES, curves) for curves in _of(old, way)),
                ),
                marked=True,
                label=NAMES[way],
            )
            for way in WAYS
        )

    return (
        Chart(
            "What reaches the last hidden layer",
            "Distance of its input from before the change, of the input's spread over the rows; both axes logarithmic.",
            panels(Axis("input moves by", log=True, percent=True), numbers.moved, {}),
        ),
        Chart(
            "What it does to the loss",
            "Rise of the training loss, below 0 where it falls. Normalization takes a change of scale away as long "
            "as it measures anew, and not with the statistics of before.",
            panels(Axis("rise of the training loss"), numbers.rise, numbers.rise_old),
        ),
    )


def _of(found: dict[str, Curves], way: str) -> list[Curves]:
    return [curves for key, curves in found.items() if key.endswith(way)]
