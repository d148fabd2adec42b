"""The bias before batch normalization is redundant.

Source: Ioffe and Szegedy 2015, section 3.2: the mean of z = W x + b moves with b, and its subtraction cancels b.

Measured: the paper's network in float64, once with and once without a bias b ~ N(0, 1) in every hidden layer, same
weights and batches, 500 steps. The norm of the loss's gradient in b, divided by that in W, must be rounding (at most
1e-10) at every evaluation, and the test accuracy must be the same at the end. As a check of the measurement, the same
share is shown for the network without normalization, where b matters.

Unfair: never for the gradient, which is 0 whatever the data. After normalization, or with statistics that do not come
from the batch, a bias is not redundant: a running mean that begins at 0, as is usual, has to learn b first, and differs
by 0.9^t b after t steps. Here it begins as the plain average of the first batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import Trial
from batchnorm.training.network import HiddenLayer, Network

ROUNDING = 1e-10
"""Gradients of the weights' size are summed in float64: what is left of a sum that is 0 is about 1e-16 of it."""

STEPS, EVERY = 500, 25


@dataclass(frozen=True)
class Bias:
    """Per seed: share of the gradient in b of that in W at each of `steps`, and accuracies at each of `steps`."""

    steps: tuple[int, ...]
    share_normalized: tuple[tuple[float, ...], ...]
    share_plain: tuple[tuple[float, ...], ...]
    metric_with_bias: tuple[tuple[float, ...], ...]
    metric_without_bias: tuple[tuple[float, ...], ...]
    bias_moved: tuple[float, ...]  # largest |b - its initial value| after training


@dataclass(frozen=True)
class _Path:
    shares: tuple[float, ...]
    metrics: tuple[float, ...]
    moved: float


def measure(bench: Bench) -> Outcome:
    """See above."""
    steps = 100 if bench.quick else STEPS
    paper = replace(bench.paper, warm_statistics=True)
    runs: dict[str, list[_Path]] = {"biased": [], "free": [], "plain": []}
    metric = ""
    for seed in bench.seeds:
        for kind in bench.each(runs):
            settings = replace(paper, norm=None) if kind == "plain" else paper
            change = _draw_biases if kind == "biased" else None
            trial = bench.trial(settings, seed, dtype=torch.float64, change=change)
            runs[kind].append(_follow(trial, steps))
            metric = trial.metric_name
    biased, free, plain = runs.values()
    numbers = Bias(
        tuple(range(EVERY, steps + 1, EVERY)),
        tuple(path.shares for path in biased),
        tuple(path.shares for path in plain),
        tuple(path.metrics for path in biased),
        tuple(path.metrics for path in free),
        tuple(path.moved for path in biased),
    )
    share = Effect(
        "largest gradient in b, as a share of that in W",
        tuple(max(path.shares) for path in biased),
        asked=ROUNDING,
        direction="at most",
        note="exactly 0 in exact arithmetic; what is left is rounding in float64",
    )
    apart = Effect(
        f"difference in test {metric} with and without b",
        tuple(abs(w.metrics[-1] - f.metrics[-1]) for w, f in zip(biased, free, strict=True)),
        unit="points" if metric == "accuracy" else "",
        asked=ROUNDING,
        direction="at most",
    )
    unnormalized = Effect(
        "the same share without normalization", tuple(min(path.shares) for path in plain), note="smallest seen"
    )
    finding = (
        f"The gradient in b never exceeds {share.mean:.1e} of that in W (without normalization it is at least "
        f"{unnormalized.mean:.2g}), and after {steps} steps test {metric} is "
        f"{'the same' if apart.mean <= ROUNDING else f'{apart.mean:.2g} apart'} with and without b"
    )
    return Outcome(finding, (share, apart, unnormalized), _charts(numbers, metric), numbers, paper.to_dict())


def _charts(numbers: Bias, metric: str) -> tuple[Chart, ...]:
    gradients = Lines(
        Axis("step"),
        Axis("|gradient in b| / |gradient in W|", log=True),
        (
            over_seeds("with normalization", numbers.steps, numbers.share_normalized, role="with"),
            over_seeds("without normalization", numbers.steps, numbers.share_plain, role="without"),
        ),
        levels=(Level(ROUNDING, "asked: at most 1e-10"),),
    )
    accuracies = Lines(
        Axis("step"),
        Axis(f"test {metric}", percent=metric == "accuracy"),
        (
            over_seeds("normalized, without b", numbers.steps, numbers.metric_without_bias, role="with"),
            over_seeds("normalized, with b", numbers.steps, numbers.metric_with_bias),
        ),
    )
    return (
        Chart(
            "What the loss says about the bias",
            "With normalization nothing but rounding is left of the gradient: b is never moved.",
            (gradients,),
        ),
        Chart(
            "Learning with and without the bias",
            "Two networks, one with a bias that normalization takes away again: the curves lie on each other.",
            (accuracies,),
        ),
    )


def _follow(trial: Trial, steps: int) -> _Path:
    """Train, and look every EVERY steps."""
    shares, metrics = [], []
    before = [layer.linear.bias.detach().clone() for layer in trial.layers if layer.linear.bias is not None]
    for step in trial.steps(steps):
        if step % EVERY == 0:
            shares.append(_share(trial))
            metrics.append(trial.judge()[1])
    after = [layer.linear.bias for layer in trial.layers if layer.linear.bias is not None]
    moved = max((float((a.detach() - b).abs().max()) for a, b in zip(after, before, strict=True)), default=0.0)
    return _Path(tuple(shares), tuple(metrics), moved)


def _share(trial: Trial) -> float:
    """|gradient in all b| / |gradient in all W| of the hidden layers, in the step just made."""
    biases = [layer.linear.bias.grad for layer in trial.layers if layer.linear.bias is not None]
    weights = [layer.linear.weight.grad for layer in trial.layers]
    return _norm(biases) / max(_norm(weights), 1e-300)


def _norm(gradients: list[torch.Tensor | None]) -> float:
    return math.sqrt(sum(float((g * g).sum()) for g in gradients if g is not None))


def _draw_biases(network: Network) -> None:
    """Give every hidden layer a bias b ~ N(0, 1), the same for the same weights."""
    for layer in network.layers:
        assert isinstance(layer, HiddenLayer)
        weight = layer.linear.weight
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=True, dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.normal_()
        layer.linear = linear
