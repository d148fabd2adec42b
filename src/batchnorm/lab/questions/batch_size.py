"""Small batches hurt, and population statistics and ghost groups in larger batches repair a part of it.

Source: Ioffe 2017, "Batch renormalization", and Wu and Johnson 2021, "Rethinking Batch in BatchNorm", for the harm and
for population statistics; Hoffer, Hubara and Soudry 2017 for ghost groups.

Measured: the paper's network after 10 epochs with training batches of 2 to 256 rows, each at the better of two learning
rates (by the mean over the seeds): test accuracy with running averages and with the statistics of the population at the
final weights, and that of a network without normalization. Ghost groups are groups of 2 to 32 rows, each normalized by
itself, in training batches of 256. A batch of 2 must lose more than 2 points against the best size; population
statistics must gain there, and ghost groups of 2 must do better than batches of 2; the share of the loss that each
repairs is reported. For each is said the size from which
on it stays within 2 points of its best, so that below it more is lost.

Unfair: to large batches and to ghost groups in them, which make fewer steps in as many epochs (256 rows a hundredth of
those of 2); as many steps would be unfair to small ones, which would see fewer rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, Role, over_seeds
from batchnorm.lab.ghosts import in_groups
from batchnorm.lab.population import with_population
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER, Trial, twins
from batchnorm.training.settings import Settings

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
GROUPS = (2, 4, 8, 32)
LARGE = 256
RATES = (0.1, 0.5)
EPOCHS, LOSES = 10, 0.02
RUNNING, POPULATION, GHOST, PLAIN = "running averages", "population statistics", "ghost groups", "no normalization"
KINDS = (RUNNING, POPULATION, GHOST, PLAIN)
ROLES: dict[str, Role] = {RUNNING: "with", PLAIN: "without"}


@dataclass(frozen=True)
class BatchSize:
    """Per kind: the sizes measured, [size][seed] test accuracies at the better rate, and that rate per size.

    large: rows of the batches that ghost groups are part of.
    """

    epochs: int
    large: int
    sizes: dict[str, tuple[int, ...]]
    accuracy: dict[str, tuple[tuple[float, ...], ...]]
    rate: dict[str, tuple[float, ...]]


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    epochs, rates = (8, RATES[1:]) if bench.quick else (EPOCHS, RATES)
    sizes: tuple[int, ...] = (2, 32) if bench.quick else SIZES
    groups: tuple[int, ...] = (2,) if bench.quick else GROUPS
    rows = min(len(bench.data(seed).x_train) for seed in bench.seeds)
    sizes = tuple(size for size in sizes if size <= rows)
    large = min(LARGE, rows)
    found: dict[tuple[str, int, float, int], float] = {}
    for (normalized, settings), size, rate, seed in bench.each(product(twins(PAPER), sizes, rates, bench.seeds)):
        trial = bench.trial(replace(settings, batch_size=size, learning_rate=rate), seed)
        for _ in trial.steps(epochs * len(trial.run.cuts)):
            pass
        found[RUNNING if normalized else PLAIN, size, rate, seed] = trial.judge()[1]
        if normalized:
            with_population(trial)
            found[POPULATION, size, rate, seed] = trial.judge()[1]
    for group, rate, seed in bench.each(product(groups, rates, bench.seeds)):
        settings = replace(PAPER, batch_size=large, learning_rate=rate)
        found[GHOST, group, rate, seed] = by_ghosts(bench, settings, seed, group, epochs).judge()[1]
    measured: dict[str, tuple[int, ...]] = dict.fromkeys(KINDS, sizes) | {GHOST: groups}
    accuracy, used = {}, {}
    for kind in KINDS:
        best = []
        for size in measured[kind]:
            tried = [(rate, tuple(found[kind, size, rate, seed] for seed in bench.seeds)) for rate in rates]
            best.append(max(tried, key=lambda pair: sum(pair[1])))
        accuracy[kind] = tuple(accuracies for _, accuracies in best)
        used[kind] = tuple(rate for rate, _ in best)
    return _outcome(BatchSize(epochs, large, measured, accuracy, used))


def by_ghosts(bench: Bench, settings: Settings, seed: int, group: int, epochs: int) -> Trial:
    """A network trained through autograd, its normalization by groups of so many rows."""
    trial = bench.trial(settings, seed, change=in_groups(group))
    optimizer, generator = trial.run.optimizer, torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(trial.train), generator=generator)
        for start, stop in trial.run.cuts:
            rows = order[start:stop]
            loss = trial.run.objective.loss(trial.network.body(trial.train.x[rows]), trial.train.y[rows])
            optimizer.zero_grad(set_to_none=False)
            torch.autograd.backward(loss)
            optimizer.step()
    return trial


def stays_from(sizes: Sequence[int], accuracies: Sequence[float]) -> int:
    """The smallest size from which on, up to the best one, none loses more than 2 points against the best.

    >>> stays_from((2, 4, 8, 16), (0.5, 0.96, 0.97, 0.93))
    4
    """
    best = max(range(len(sizes)), key=accuracies.__getitem__)
    within = best
    while within > 0 and accuracies[within - 1] >= accuracies[best] - LOSES:
        within -= 1
    return sizes[within]


def _outcome(numbers: BatchSize) -> Outcome:
    by_kind = numbers.accuracy
    best = max(map(_mean, by_kind[RUNNING]))
    at = max(range(len(by_kind[RUNNING])), key=lambda i: _mean(by_kind[RUNNING][i]))
    lost = Effect(
        f"test accuracy with batches of {numbers.sizes[RUNNING][at]}, the best size, less that with batches of 2",
        _less(by_kind[RUNNING][at], by_kind[RUNNING][0]),
        unit="points",
        asked=LOSES,
        direction="more than",
    )
    gained = tuple(
        Effect(
            f"accuracy gained by {what}",
            _less(by_kind[kind][0], by_kind[RUNNING][0]),
            unit="points",
            asked=0.0,
            direction="more than",
        )
        for kind, what in (
            (POPULATION, "population statistics at batches of 2"),
            (GHOST, f"groups of 2 in batches of {numbers.large} over batches of 2"),
        )
    )
    repaired = tuple(
        Effect(
            f"share of that loss repaired by {kind}",
            tuple(gain / loss if loss > 0 else math.nan for gain, loss in zip(gain.values, lost.values, strict=True)),
            unit="share",
        )
        for kind, gain in zip((POPULATION, GHOST), gained, strict=True)
    )
    at_two = tuple(Effect(f"test accuracy at 2 rows: {kind}", by_kind[kind][0], unit="share") for kind in KINDS)
    limits = {kind: _limits(numbers, kind) for kind in KINDS}
    from_on = tuple(
        Effect(f"rows below which more than 2 points are lost: {kind}", tuple(map(float, limits[kind])))
        for kind in KINDS
        if len(numbers.sizes[kind]) > 1
    )
    said = ", ".join(f"{_span(limits[kind])} rows ({kind})" for kind in KINDS if len(numbers.sizes[kind]) > 1)
    finding = (
        f"Batches of 2 reach {at_two[0].mean:.1%} with running averages, {at_two[1].mean:.1%} with population "
        f"statistics, groups of 2 in batches of {numbers.large} {at_two[2].mean:.1%} and a network without "
        f"normalization {at_two[3].mean:.1%}, against {best:.1%} with batches of {numbers.sizes[RUNNING][at]}; "
        f"{'depending on the seed, ' * (' to ' in said)}each loses more than 2 points against its best below {said}"
    )
    settings = PAPER.to_dict() | {"epochs": None, "steps": None, "batch_size": None, "learning_rate": None}
    return Outcome(finding, (lost, *gained, *repaired, *at_two, *from_on), _charts(numbers), numbers, settings)


def _limits(numbers: BatchSize, kind: str) -> tuple[int, ...]:
    """Per seed."""
    curves = zip(*numbers.accuracy[kind], strict=True)
    return tuple(stays_from(numbers.sizes[kind], curve) for curve in curves)


def _span(limits: Sequence[int]) -> str:
    """Over the seeds."""
    return f"{min(limits)} to {max(limits)}" if min(limits) < max(limits) else f"{max(limits)}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _less(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(first, second, strict=True))


def _charts(numbers: BatchSize) -> tuple[Chart, ...]:
    def curves(kinds: Sequence[str], bounds: tuple[float, float], label: str) -> Lines:
        return Lines(
            Axis("rows that are normalized together", log=True),
            Axis("test accuracy", percent=True, bounds=bounds),
            tuple(
                over_seeds(
                    kind,
                    numbers.sizes[kind],
                    list(zip(*numbers.accuracy[kind], strict=True)),
                    role=ROLES.get(kind, "other"),
                )
                for kind in kinds
            ),
            levels=(Level(max(map(_mean, numbers.accuracy[RUNNING])) - LOSES, "2 points below the best batch size"),),
            marked=True,
            label=label,
        )

    reading = (
        f"After {numbers.epochs} epochs. Ghost groups are parts of a batch of {numbers.large}; without normalization "
        "it is the training batch alone; the band spans the seeds."
    )
    return (
        Chart(
            "Accuracy against the batch size",
            reading,
            (curves(KINDS, (0.0, 1.02), "all"), curves(KINDS, (0.88, 1.0), "from 88 % on")),
        ),
    )
