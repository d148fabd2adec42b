"""Inner layers see a steadier input.

Source: Ioffe and Szegedy 2015, section 2 and figure 1b, c (percentiles of a sigmoid's input over training), who call
the change of the layers' inputs internal covariate shift. Against it Santurkar et al. 2018, definition 2.1 and figure
2, who measure it as the change of a layer's gradient once the layers before it have made their step, and do not find
it reduced.

Measured: the paper's network over 3000 steps, looked at every 50. What enters each neuron's activation, over up to 1000
training rows: from one look to the next, how far its mean moves in standard deviations, how far its 15th, 50th and 85th
percentiles do, and how far the logarithm of its variance does, averaged over neurons, layers and looks. Internal
covariate shift: |g - g'| / |g|, g being the gradient in a layer's weights and g' the same once all layers before it
have made the step of that batch. Without normalization divided by with, each of the four must be more than 1. The
cosine of g and g', and |g - g'| itself, are reported. What is constrained is z, not the weights: the largest deviation
of the normalized z from mean 0 and variance 1 is reported beside how the weights' standard deviation grows.

Unfair: to the network that learns faster, for weights that move more move what comes after them; and |g - g'| as such
depends on the weights' scale, which normalization leaves free, so that the ratio is asked of |g - g'| / |g|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, Role, Series, over_seeds
from batchnorm.lab.entering import Look
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import Trial, twins

STEPS, LOOKS = 3000, 60
PROBE_ROWS = 1000
KINDS: tuple[Role, Role] = ("with", "without")


@dataclass(frozen=True)
class Path:
    """One network's, at each look; [look][layer] unless said otherwise.

    Attributes:
        percentiles: of what enters the first neuron of each hidden layer: [look][layer][percentile].
        mean, variance: over the layer's neurons: of the magnitude of a neuron's mean, and of its variance.
        mean_moved, percentiles_moved, variance_moved: since the look before, averaged over the neurons.
        shift, cosine, difference: |g - g'| / |g|, cos(g, g') and |g - g'| of every weight matrix, the head's as well.
        weights: the standard deviation of W's entries.
        off: largest deviation of the normalized z from mean 0 and variance 1; empty without normalization.
        metric: on the test rows: [look].
    """

    percentiles: tuple[tuple[tuple[float, ...], ...], ...]
    mean: tuple[tuple[float, ...], ...]
    variance: tuple[tuple[float, ...], ...]
    mean_moved: tuple[tuple[float, ...], ...]
    percentiles_moved: tuple[tuple[float, ...], ...]
    variance_moved: tuple[tuple[float, ...], ...]
    shift: tuple[tuple[float, ...], ...]
    cosine: tuple[tuple[float, ...], ...]
    difference: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    off: tuple[float, ...]
    metric: tuple[float, ...]


@dataclass(frozen=True)
class Drift:
    """A path per seed, by "with" and "without"; steps: looked at."""

    steps: tuple[int, ...]
    paths: dict[str, tuple[Path, ...]]


def measure(bench: Bench, *, steps: int | None = None) -> Outcome:
    """See above. steps: 3000 by default, 400 to be quick; there are 60 looks, 8 to be quick."""
    steps = (400 if bench.quick else STEPS) if steps is None else steps
    every = max(1, steps // (8 if bench.quick else LOOKS))
    paper = bench.paper
    paths: dict[str, list[Path]] = {kind: [] for kind in KINDS}
    metric = ""
    for seed in bench.seeds:
        for normalized, settings in bench.each(twins(paper)):
            trial = bench.trial(settings, seed)
            paths["with" if normalized else "without"].append(_follow(trial, steps, every))
            metric = trial.metric_name
    numbers = Drift(tuple(range(0, steps + 1, every)), {kind: tuple(found) for kind, found in paths.items()})
    return _outcome(numbers, metric, paper.to_dict() | {"steps": steps})


def _follow(trial: Trial, steps: int, every: int) -> Path:
    probe = trial.batch(PROBE_ROWS).x
    looks = [Look(trial, probe, None, 0)]
    for step in trial.steps(steps):
        if step % every == 0:
            looks.append(Look(trial, probe, looks[-1], step))
    moved = looks[1:]
    return Path(
        percentiles=tuple(tuple(tuple(q[:, 0].tolist()) for q in look.quantiles) for look in looks),
        mean=tuple(tuple(float(mean.abs().mean()) for mean in look.means) for look in looks),
        variance=tuple(tuple(float(v.mean()) for v in look.variances) for look in looks),
        mean_moved=tuple(look.mean_moved for look in moved),
        percentiles_moved=tuple(look.percentiles_moved for look in moved),
        variance_moved=tuple(look.variance_moved for look in moved),
        shift=tuple(look.shift.relative for look in looks),
        cosine=tuple(look.shift.cosine for look in looks),
        difference=tuple(look.shift.difference for look in looks),
        weights=tuple(look.weights for look in looks),
        off=tuple(look.off for look in looks if look.off is not None),
        metric=tuple(look.metric for look in looks),
    )


def _outcome(numbers: Drift, metric: str, settings: dict[str, object]) -> Outcome:
    ours, theirs = numbers.paths["with"], numbers.paths["without"]
    every = numbers.steps[1]

    def ratio(what: str, field: str) -> Effect:
        pairs = zip(theirs, ours, strict=True)
        values = tuple(_mean(getattr(plain, field)) / _mean(getattr(normed, field)) for plain, normed in pairs)
        return Effect(f"{what}, without divided by with", values, unit="times", asked=1.0, direction="more than")

    ratios = (
        ratio(f"how far a neuron's mean moves in {every} steps", "mean_moved"),
        ratio(f"how far its percentiles move in {every} steps", "percentiles_moved"),
        ratio(f"how far the logarithm of its variance moves in {every} steps", "variance_moved"),
        ratio("internal covariate shift |g - g'| / |g|", "shift"),
    )
    said = {"with": "with normalization", "without": "without"}
    reported = [
        Effect(f"{what} {said[kind]}", tuple(_mean(getattr(path, field)) for path in numbers.paths[kind]))
        for what, field in (
            ("|g - g'| / |g|", "shift"),
            ("cosine of g and g'", "cosine"),
            ("|g - g'|", "difference"),
        )
        for kind in KINDS
    ]
    reported += [
        Effect(
            f"test {metric} at the end {said[kind]}",
            tuple(path.metric[-1] for path in numbers.paths[kind]),
            unit="share" if metric == "accuracy" else "",
        )
        for kind in KINDS
    ]
    off = Effect("largest deviation of normalized z from mean 0, variance 1", tuple(max(p.off) for p in ours))
    grown = Effect(
        "standard deviation of W at the end, divided by that at the start",
        tuple(math.fsum(path.weights[-1]) / math.fsum(path.weights[0]) for path in ours),
        unit="times",
        note="with normalization: z is constrained, W is not",
    )
    finding = (
        f"Without normalization a neuron's mean moves {ratios[0].mean:.0f} times as far as with it, its percentiles "
        f"{ratios[1].mean:.1f} and its variance {ratios[2].mean:.1f} times, and a layer's "
        f"gradient changes {ratios[3].mean:.2f} times as much by the steps of the layers before it (by "
        f"{reported[0].mean:.2f} of its length with normalization, {reported[1].mean:.2f} without)"
    )
    return Outcome(finding, (*ratios, *reported, off, grown), _charts(numbers), numbers, dict(settings))


def _mean(table: Sequence[Sequence[float]]) -> float:
    """Over looks and layers."""
    return math.fsum(map(math.fsum, table)) / sum(map(len, table))


def _charts(numbers: Drift) -> tuple[Chart, ...]:
    hidden = range(len(numbers.paths["with"][0].mean[0]))
    names = {"with": "with normalization", "without": "without normalization"}

    def lines(
        field: str, layer: int, label: str, y: Axis, steps: Sequence[int], levels: tuple[Level, ...] = ()
    ) -> Lines:
        series = tuple(
            over_seeds(names[kind], steps, [_column(getattr(p, field), layer) for p in numbers.paths[kind]], role=kind)
            for kind in KINDS
        )
        return Lines(Axis("step"), y, series, levels, label=label)

    def of_first_neuron(kind: Role, layer: int) -> Series:
        low, middle, high = zip(*(look[layer] for look in numbers.paths[kind][0].percentiles), strict=True)
        return Series(names[kind], tuple(map(float, numbers.steps)), middle, kind, low, high)

    percentiles = tuple(
        Lines(
            Axis("step"),
            Axis("what enters the activation"),
            tuple(of_first_neuron(kind, k) for kind in KINDS),
            label=f"layer {k + 1}",
        )
        for k in hidden
    )
    means = tuple(lines("mean", k, f"layer {k + 1}", Axis("mean |mean| of a neuron"), numbers.steps) for k in hidden)
    variances = tuple(
        lines("variance", k, f"layer {k + 1}", Axis("mean variance of a neuron", log=True), numbers.steps)
        for k in hidden
    )
    moved = tuple(
        lines(
            "mean_moved",
            k,
            f"layer {k + 1}",
            Axis(f"standard deviations in {numbers.steps[1]} steps", log=True),
            numbers.steps[1:],
        )
        for k in hidden
    )
    shifts = tuple(
        lines(
            "shift",
            k,
            f"layer {k + 2}" if k + 1 < len(hidden) else "last layer",
            Axis("|g - g'| / |g|", log=True),
            numbers.steps,
        )
        for k in hidden
    )
    weights = Lines(
        Axis("step"),
        Axis("standard deviation, divided by that at the start"),
        tuple(
            over_seeds(
                f"W of layer {k + 1}", numbers.steps, [_grown(path.weights, k) for path in numbers.paths["with"]]
            )
            for k in hidden
        ),
        levels=(Level(1.0, "normalized z, all layers"),),
    )
    return (
        Chart(
            "What enters one neuron's activation",
            "The first neuron of each layer, first seed: its median, in a band from its 15th to its 85th percentile.",
            percentiles,
        ),
        Chart("Means", "Of a neuron over the rows; its magnitude, averaged over the layer's neurons.", means),
        Chart(
            "Variances",
            "Of a neuron over the rows, averaged over the layer's neurons; bands span the seeds.",
            variances,
        ),
        Chart("How far means move", "From look to look, in a neuron's standard deviations.", moved),
        Chart(
            "Internal covariate shift as gradient change",
            "How much a layer's gradient changes when the layers before it make their step: 0 is not at all, 1 as much "
            "as the gradient is long.",
            shifts,
        ),
        Chart(
            "What is constrained is z, not W",
            "With normalization: z keeps its standard deviation of 1 whatever the weights do.",
            (weights,),
        ),
    )


def _column(table: Sequence[Sequence[float]], layer: int) -> list[float]:
    return [row[layer] for row in table]


def _grown(table: Sequence[Sequence[float]], layer: int) -> list[float]:
    return [row[layer] / table[0][layer] for row in table]
