"""The running average replaces the batch at test time.

Source: Ioffe and Szegedy 2015, section 3.1: at test time the output should depend on the input alone, so that the
statistics are those of the population, for which moving averages are tracked.

Measured: the paper's network after 500 steps, judged with its running averages (momentum 0.1), with the statistics of
the population (all training rows, at the final weights) and with those of each test batch, of 1 to 256 rows. The
running average must be at most 2 points worse than own statistics at 256 rows, and better than those of a single row,
which is always normalized to 0. How far the average is from the population, at the weights of that moment, is measured
for momenta from 0.001 to 1 over the steps: for means in standard deviations, root mean square over the neurons of all
layers, for variances as |ratio - 1| likewise.

Unfair: to own statistics of few rows, from which nobody asked for an answer; and test rows come in random order, as
training rows did: sorted ones are another question (shift).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds
from batchnorm.lab.population import with_population
from batchnorm.lab.record import Effect, Outcome, Unit
from batchnorm.lab.trial import Trial
from batchnorm.training.settings import Settings

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOMENTA = (0.001, 0.01, 0.1, 0.3, 1.0)
USUAL = 0.1
LOOKS = (1, 3, 10, 20, 30, 50, 70, 100, 140, 200, 300, 500, 700, 1000, 1400, 2000)
STEPS, WATCHED, LOSES = 500, 2000, 0.02
ROUNDS = 4  # orders of the test rows: so that 256 of them are not judged in one batch alone


@dataclass(frozen=True)
class AtTestTime:
    """Per seed: the test metric with each kind of statistics, and how far averages are from the population.

    own: [seed][size]; mean_error, variance_error: by momentum, [seed][look at `looks`].
    """

    sizes: tuple[int, ...]
    running: tuple[float, ...]
    population: tuple[float, ...]
    own: tuple[tuple[float, ...], ...]
    looks: tuple[int, ...]
    momenta: tuple[float, ...]
    mean_error: dict[float, tuple[tuple[float, ...], ...]]
    variance_error: dict[float, tuple[tuple[float, ...], ...]]


def measure(bench: Bench, *, steps: int | None = None) -> Outcome:
    """See above. steps: before the judging; None: 500, or 200 to be quick. The averages are watched four times as long,
    at most 2000 steps."""
    paper = bench.paper
    judged = (200 if bench.quick else STEPS) if steps is None else steps
    watched = min(judged, 200) if bench.quick else min(4 * judged, WATCHED)
    looks = tuple(look for look in LOOKS if look <= watched)
    running, population, own, means, variances = [], [], [], [], []
    metric = ""
    for seed in bench.each(bench.seeds):
        trial = bench.trial(paper, seed)
        for _ in trial.steps(judged):
            pass
        metric = trial.metric_name
        running.append(trial.judge()[1])
        sizes = tuple(size for size in SIZES if size <= len(trial.test))
        own.append(tuple(_by_own(trial, size, seed) for size in sizes))
        with_population(trial)
        population.append(trial.judge()[1])
        mean, variance = _watch(bench, paper, seed, looks)
        means.append(mean)
        variances.append(variance)
    numbers = AtTestTime(
        sizes,
        tuple(running),
        tuple(population),
        tuple(own),
        looks,
        MOMENTA,
        {m: tuple(found[m] for found in means) for m in MOMENTA},
        {m: tuple(found[m] for found in variances) for m in MOMENTA},
    )
    return _outcome(numbers, metric, paper, judged)


@torch.no_grad()
def _by_own(trial: Trial, size: int, seed: int) -> float:
    """The test metric where every batch of `size` rows in random order is normalized by itself."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(ROUNDS):
        order = torch.randperm(len(trial.test), generator=generator)
        order = order[: len(order) // size * size]  # what is left over would be judged at another size
        scores = torch.cat([own_scores(trial, block) for block in torch.split(trial.test.x[order], size)])
        found.append(trial.run.objective.metric(scores, trial.test.y[order], None))
    return math.fsum(found) / ROUNDS


def own_scores(trial: Trial, x: Tensor) -> Tensor:
    """Scores of rows (N, F) as one batch normalized by itself; nothing is updated."""
    for layer in trial.layers:
        norm = layer.norm
        assert norm is not None
        # Of one row nothing is left but beta: layers refuse that, for there is nothing to learn from.
        z = norm.by_batch(layer.linear(x)) if len(x) > 1 else norm.bias.expand(1, -1)
        x = ACTIVATIONS[layer.activation].value(z)
    return trial.network.head(x)  # type: ignore[no-any-return]


def _watch(
    bench: Bench, paper: Settings, seed: int, looks: tuple[int, ...]
) -> tuple[dict[float, tuple[float, ...]], dict[float, tuple[float, ...]]]:
    """How far averages with each of MOMENTA are from the population: of means and of variances, at each look."""
    trial = bench.trial(replace(paper, momentum=1.0), seed)  # then the running statistics are those of the last batch
    averages = {m: (torch.zeros(1), torch.ones(1)) for m in MOMENTA}
    mean_error: dict[float, list[float]] = {m: [] for m in MOMENTA}
    variance_error: dict[float, list[float]] = {m: [] for m in MOMENTA}
    for step in trial.steps(looks[-1]):
        mean, variance = _statistics(trial)
        for m, (old_mean, old_variance) in averages.items():
            averages[m] = (1 - m) * old_mean + m * mean, (1 - m) * old_variance + m * variance
        if step in looks:
            with_population(trial)
            true_mean, true_variance = _statistics(trial)
            for m, (average_mean, average_variance) in averages.items():
                apart = (average_mean - true_mean) / true_variance.sqrt()
                mean_error[m].append(float(apart.square().mean().sqrt()))
                variance_error[m].append(float((average_variance / true_variance - 1).square().mean().sqrt()))
    return {m: tuple(e) for m, e in mean_error.items()}, {m: tuple(e) for m, e in variance_error.items()}


def _statistics(trial: Trial) -> tuple[Tensor, Tensor]:
    """Running means and variances of all layers' neurons, (C,) each."""
    means = [norm.running_mean for norm in trial.norms if norm.running_mean is not None]
    variances = [norm.running_var for norm in trial.norms if norm.running_var is not None]
    return torch.cat(means).clone(), torch.cat(variances).clone()


def _outcome(numbers: AtTestTime, metric: str, paper: Settings, steps: int) -> Outcome:
    is_share = metric == "accuracy"
    largest = numbers.sizes[-1]
    alone = tuple(own[0] for own in numbers.own)
    most = tuple(own[-1] for own in numbers.own)
    replaced = Effect(
        f"test {metric} with own statistics of {largest} rows, less that with running averages",
        _less(most, numbers.running),
        unit="points" if is_share else "",
        asked=LOSES,
        direction="at most",
    )
    needed = Effect(
        f"test {metric} with running averages, less that with own statistics of 1 row",
        _less(numbers.running, alone),
        unit="points" if is_share else "",
        asked=0.0,
        direction="more than",
    )
    unit: Unit = "share" if is_share else ""
    reported = tuple(
        Effect(f"test {metric} with {kind}", values, unit=unit)
        for kind, values in (
            ("running averages", numbers.running),
            ("population statistics", numbers.population),
            ("own statistics of 1 row", alone),
            ("own statistics of 8 rows", tuple(own[numbers.sizes.index(8)] for own in numbers.own)),
            (f"own statistics of {largest} rows", most),
        )
    )
    errors = tuple(
        Effect(
            f"distance of the average mean from the population, momentum {m:g}, after {numbers.looks[-1]} steps",
            tuple(path[-1] for path in numbers.mean_error[m]),
            note="in standard deviations, root mean square over the neurons",
        )
        for m in numbers.momenta
    )
    best = min(errors, key=lambda effect: effect.mean)
    usual = errors[numbers.momenta.index(USUAL)]
    finding = (
        f"Running averages give {metric} {_said(reported[0], is_share)}, population statistics "
        f"{_said(reported[1], is_share)}, own statistics {_said(reported[4], is_share)} with {largest} rows, "
        f"{_said(reported[3], is_share)} with 8 and {_said(reported[2], is_share)} with 1; after {numbers.looks[-1]} "
        f"steps the average mean with momentum {USUAL:g} is {usual.mean:.3f} standard deviations off, and least with "
        f"momentum {numbers.momenta[errors.index(best)]:g}, {best.mean:.3f}"
    )
    settings = paper.to_dict() | {"steps": steps}
    return Outcome(finding, (replaced, needed, *reported, *errors), _charts(numbers, metric), numbers, settings)


def _less(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(first, second, strict=True))


def _said(effect: Effect, is_share: bool) -> str:
    return f"{effect.mean:.1%}" if is_share else f"{effect.mean:.3f}"


def _charts(numbers: AtTestTime, metric: str) -> tuple[Chart, ...]:
    is_share = metric == "accuracy"
    flat = len(numbers.sizes)
    judged = Lines(
        Axis("rows of a test batch", log=True),
        Axis(f"test {metric}", percent=is_share),
        (
            over_seeds("running averages", numbers.sizes, [(v,) * flat for v in numbers.running], role="with"),
            over_seeds("population statistics", numbers.sizes, [(v,) * flat for v in numbers.population]),
            over_seeds("the test batch's own", numbers.sizes, numbers.own),
        ),
        marked=True,
    )

    def errors(label: str, unit: str, found: dict[float, tuple[tuple[float, ...], ...]]) -> Lines:
        return Lines(
            Axis("step", log=True),
            Axis(unit, log=True),
            tuple(
                over_seeds(f"momentum {m:g}", numbers.looks, found[m], role="with" if m == USUAL else "other")
                for m in numbers.momenta
            ),
            marked=True,
            label=label,
        )

    return (
        Chart(
            "Statistics at test time",
            "Running averages and population statistics do not depend on the batch; the band spans the seeds.",
            (judged,),
        ),
        Chart(
            "How far the average is from the population",
            "At first it remembers mean 0 and variance 1, then it lags behind the weights; in the end the noise of the "
            "last batches is left, the more of it the larger the momentum (the weight of the new batch).",
            (
                errors("means", "standard deviations off", numbers.mean_error),
                errors("variances", "|ratio - 1|", numbers.variance_error),
            ),
        ),
    )
