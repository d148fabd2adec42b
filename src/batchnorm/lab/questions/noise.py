"""Mini-batch statistics are noise, a mild regularizer.

Source: Ioffe and Szegedy 2015, sections 3.4 and 4.2.1 (a row is seen with other rows each time, which regularizes, so
that dropout may go). For m rows drawn from values of variance sigma^2 and kurtosis k, the mean of the batch has the
standard deviation sigma / sqrt(m); its variance (over m, as batch normalization takes it) has the relative variance
((m - 1) / m)^2 (k - (m - 3) / (m - 1)) / m (Cramer 1946, section 27.4), which tends to (k - 1) / m. Groups: Hoffer,
Hubara and Soudry 2017, arXiv 1705.08741; as a regularizer: Luo et al. 2019, arXiv 1809.00846.

Measured: what enters the last hidden layer's activations in the fresh network (the first has rare large values, whose
fourth moment takes too many draws), in 1000 to 16,000 batches of 2 to 256 training rows, drawn with replacement. The
standard deviation of the mean must be within 5 % of sigma / sqrt(m) and the variance of the variance within 5 % of the
formula at every m, and within 5 % of (k - 1) / m from 64 rows on. Then networks trained for 400 steps of 128 rows,
normalized in groups of 8, 32 and 128 rows, so that the statistics' noise alone differs: test loss less training loss
must be smaller with groups of 8 than with 128, for sigmoid and ReLU. Shown besides: the same with dropout instead, and
the gap against the batch size itself, where the gradient's noise changes as well.

Unfair: to dropout and to small groups where they slow down learning, for a gap is small as well where nothing was
learnt: hence the test loss and what it is made of are shown. Weights are those after so many steps, not the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

import torch

from batchnorm.lab.batch_noise import BatchNoise, batch_noise
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Bar, Bars, Chart, Lines, Series, over_seeds
from batchnorm.lab.ghosts import in_groups, learn_in_groups
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import Trial, twins
from batchnorm.training.settings import Settings

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
LEADING_FROM = 64
ASKED = 0.05
BATCH, EPOCHS = 128, 30
GROUPS = (8, 32, 128)
DROPOUTS = (0.1, 0.2)
NAMES = {"sigmoid": "sigmoid", "relu": "ReLU"}

Judged: TypeAlias = tuple[float, float, float]
"""Training loss, test loss, and test accuracy (R2 where a number is predicted)."""


@dataclass(frozen=True)
class Noise:
    """Per seed and size: (seeds, sizes). The rest by "sigmoid 8", "sigmoid dropout 0.1", ...: one triple per seed.

    mean_std, variance, formula, leading: as in BatchNoise.
    grouped, dropped, batched: by groups, by dropout, by batch size ("with 8", "without 8"): (training loss, test loss,
    test metric).
    """

    sizes: tuple[int, ...]
    mean_std: tuple[tuple[float, ...], ...]
    variance: tuple[tuple[float, ...], ...]
    formula: tuple[tuple[float, ...], ...]
    leading: tuple[tuple[float, ...], ...]
    grouped: dict[str, tuple[Judged, ...]]
    dropped: dict[str, tuple[Judged, ...]]
    batched: dict[str, tuple[Judged, ...]]


def measure(bench: Bench) -> Outcome:
    """See above."""
    activations, steps = (("relu",), 200) if bench.quick else (tuple(NAMES), 400)
    groups = (GROUPS[0], GROUPS[-1]) if bench.quick else GROUPS
    dropouts = () if bench.quick else DROPOUTS
    laws = [_statistics(bench.trial(bench.paper, seed), seed, quick=bench.quick) for seed in bench.each(bench.seeds)]
    base = {name: _base(bench.paper, name) for name in activations}
    grouped: dict[str, list[Judged]] = {}
    for name, size, seed in bench.each(product(activations, groups, bench.seeds)):
        trial = bench.trial(base[name], seed, change=in_groups(size) if size < BATCH else None)
        (learn_in_groups if size < BATCH else _learn)(trial, steps)
        grouped.setdefault(f"{name} {size}", []).append(_judge(trial))
    dropped: dict[str, list[Judged]] = {}
    for name, share, seed in bench.each(product(activations, dropouts, bench.seeds)):
        trial = bench.trial(replace(base[name], dropout=share), seed)
        _learn(trial, steps)
        dropped.setdefault(f"{name} {share:g}", []).append(_judge(trial))
    batched: dict[str, list[Judged]] = {}
    sizes = () if bench.quick else GROUPS
    for (normalized, settings), size, seed in bench.each(product(twins(base[activations[-1]]), sizes, bench.seeds)):
        trial = bench.trial(replace(settings, batch_size=size), seed)
        _learn(trial, EPOCHS * len(trial.train) // size)
        batched.setdefault(f"{'with' if normalized else 'without'} {size}", []).append(_judge(trial))
    numbers = Noise(
        SIZES,
        tuple(law.mean_std for law in laws),
        tuple(law.variance for law in laws),
        tuple(law.formula for law in laws),
        tuple(law.leading for law in laws),
        *({key: tuple(values) for key, values in found.items()} for found in (grouped, dropped, batched)),
    )
    return _outcome(numbers, activations, steps, replace(bench.paper, batch_size=BATCH))


@torch.no_grad()
def _statistics(trial: Trial, seed: int, *, quick: bool) -> BatchNoise:
    """Of many batches of what enters the last activation."""
    z = list(trial.network.entering_activations(trial.train.x))[-1]
    return batch_noise(z, SIZES, seed=seed, fewer=4 if quick else 1)


def _base(paper: Settings, activation: str) -> Settings:
    """The paper's network; with ReLU by He's weights and a fifth of the rate, which suits it."""
    if activation == "sigmoid":
        return replace(paper, batch_size=BATCH)
    return replace(paper, batch_size=BATCH, activation="relu", weight_scale=None, learning_rate=paper.rate / 5)


def _learn(trial: Trial, steps: int) -> None:
    for _ in trial.steps(steps):
        pass


def _judge(trial: Trial) -> Judged:
    loss, metric = trial.judge()
    return trial.run.judge(trial.train)[0], loss, metric


def _gap(judged: Sequence[Judged]) -> tuple[float, ...]:
    return tuple(test - train for train, test, _ in judged)


def _outcome(numbers: Noise, activations: Sequence[str], steps: int, settings: Settings) -> Outcome:
    mean_law = [1 / rows**0.5 for rows in SIZES]
    start = SIZES.index(LEADING_FROM)
    laws = (
        _law(
            "std of the batch's mean: distance from sigma / sqrt(m)",
            numbers.mean_std,
            [mean_law] * len(numbers.mean_std),
        ),
        _law("variance of the batch's variance: distance from the formula", numbers.variance, numbers.formula),
        _law(
            f"the same from (kurtosis - 1)/m, from {LEADING_FROM} rows on",
            [row[start:] for row in numbers.variance],
            [row[start:] for row in numbers.leading],
        ),
    )
    few, all_rows = GROUPS[0], GROUPS[-1]
    less, others = [], []
    for name in activations:
        small, large = numbers.grouped[f"{name} {few}"], numbers.grouped[f"{name} {all_rows}"]
        less.append(
            Effect(
                f"{NAMES[name]}: gap between test and training loss, groups of {few} less groups of {all_rows}",
                tuple(a - b for a, b in zip(_gap(small), _gap(large), strict=True)),
                asked=0.0,
                direction="less than",
            )
        )
        others += [
            Effect(f"{NAMES[name]}: that gap with groups of {all_rows}", _gap(large)),
            Effect(
                f"{NAMES[name]}: test loss, groups of {few} less groups of {all_rows}",
                _changes(small, large),
            ),
            *(
                Effect(
                    f"{NAMES[name]}: test loss with dropout {share:g} instead, less groups of {all_rows}",
                    _changes(numbers.dropped[f"{name} {share:g}"], large),
                )
                for share in DROPOUTS
                if numbers.dropped
            ),
        ]
    gaps = [_gap(numbers.grouped[f"{name} {size}"]) for name, size in product(activations, (all_rows, few))]
    means = [sum(gap) / len(gap) for gap in gaps]
    said = " and ".join(
        f"from {before:.3f} to {after:.3f} with {NAMES[name]}"
        for name, before, after in zip(activations, means[::2], means[1::2], strict=True)
    )
    finding = (
        f"The mean of m rows varies by sigma / sqrt(m) (to {laws[0].mean:.1%}) and their variance as the kurtosis "
        f"predicts (to {laws[1].mean:.1%}); normalizing in groups of {few} rows instead of {all_rows} moves the gap "
        f"between test and training loss {said}"
    )
    kept = settings.to_dict() | {"steps": steps}
    return Outcome(finding, (*laws, *less, *others), _charts(numbers, activations), numbers, kept)


def _changes(first: Sequence[Judged], second: Sequence[Judged]) -> tuple[float, ...]:
    """Of the test loss."""
    return tuple(a[1] - b[1] for a, b in zip(first, second, strict=True))


def _law(what: str, measured: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]]) -> Effect:
    """The largest relative distance over the sizes, per seed."""
    worst = tuple(
        max(abs(m / p - 1) for m, p in zip(row, law, strict=True)) for row, law in zip(measured, predicted, strict=True)
    )
    return Effect(what, worst, unit="share", asked=ASKED, direction="at most", note="the worst size")


def _charts(numbers: Noise, activations: Sequence[str]) -> tuple[Chart, ...]:
    x = Axis("rows m in the batch", log=True)
    means = Lines(
        x,
        Axis("std of the batch's mean, in sigma", log=True),
        (
            over_seeds("measured", SIZES, numbers.mean_std, role="with"),
            Series("predicted for m rows", tuple(map(float, SIZES)), tuple(1 / rows**0.5 for rows in SIZES)),
        ),
        label="mean",
    )
    variances = Lines(
        x,
        Axis("relative variance of the variance", log=True),
        (
            over_seeds("measured", SIZES, numbers.variance, role="with"),
            over_seeds("predicted for m rows", SIZES, numbers.formula),
            over_seeds("predicted for many rows: (kurtosis - 1)/m", SIZES, numbers.leading),
        ),
        label="variance",
    )
    found = [
        Chart(
            "The noise of a batch's statistics",
            "Both axes logarithmic: four times as many rows halve the deviation of the mean and quarter the variance "
            "of the variance.",
            (means, variances),
        ),
        Chart(
            "Loss after training, by the noise of the statistics",
            f"Every step takes {BATCH} rows; only how many of them are normalized together differs. The gap is the "
            "distance of the two bars.",
            tuple(_losses(numbers.grouped, name, "groups of") for name in activations),
        ),
    ]
    if numbers.dropped:
        found.append(
            Chart(
                "The same by dropout",
                f"Normalized over all {BATCH} rows, and a share of each hidden layer's outputs dropped.",
                tuple(_losses(numbers.dropped, name, "dropout") for name in activations),
            )
        )
    if numbers.batched:
        found.append(_batched(numbers))
    return tuple(found)


def _losses(found: dict[str, tuple[Judged, ...]], name: str, what: str) -> Bars:
    keys = [key for key in found if key.startswith(f"{name} ")]
    bars = (
        _bar("training loss", [[judged[0] for judged in found[key]] for key in keys]),
        _bar("test loss", [[judged[1] for judged in found[key]] for key in keys]),
    )
    groups = tuple(f"{what} {key.split()[1]}" for key in keys)
    return Bars(groups, Axis("loss"), bars, label=NAMES[name])


def _bar(name: str, values: Sequence[Sequence[float]]) -> Bar:
    effects = [Effect(name, tuple(of)) for of in values]
    return Bar(name, tuple(effect.mean for effect in effects), tuple(effect.spread for effect in effects))


def _batched(numbers: Noise) -> Chart:
    def gaps(kind: str) -> list[tuple[float, ...]]:
        return list(zip(*(_gap(numbers.batched[f"{kind} {size}"]) for size in GROUPS), strict=True))

    panel = Lines(
        Axis("rows per step", log=True),
        Axis("test loss less training loss"),
        (
            over_seeds("with normalization", GROUPS, gaps("with"), role="with"),
            over_seeds("without normalization", GROUPS, gaps("without"), role="without"),
        ),
        marked=True,
    )
    return Chart(
        "The gap against the batch size itself",
        f"ReLU, after {EPOCHS} passes over the rows: smaller batches also make more steps, with noisier gradients, so "
        "that this says less of the statistics' noise.",
        (panel,),
    )
