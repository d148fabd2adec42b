"""Dropout before batch normalization shifts the variance between training and test.

Source: Li, Chen, Hu and Yang 2019, "Understanding the Disharmony between Dropout and Batch Normalization by Variance
Shift", CVPR. Dropout with share p multiplies each a by 0 or by 1 / (1 - p). The mean stays, the variance does not: that
of a becomes (c^2 + v) / (1 - p) - c^2, with c and v its mean and variance at test time; and that of z = w a, for the
masks are independent (law of total variance), grows by p / (1 - p) times the sum of w_j^2 E[a_j^2]. Normalization
learns the variance of training and divides by it at test time, when it is smaller.

Measured: the paper's network trained for 500 steps with dropout of 0.1 to 0.7 after every hidden layer; then its
weights are held, all training rows pass 20 times with masks and once without, and the variance without is divided by
that with: for what enters normalization directly after dropout (a), and through a linear layer (z). The mean over the
second layer's neurons must be within 2 % of that of the predicted ratios for every share, and less than 100 %. Shown
besides: the ratio layer by layer, and what the shift costs: test loss with the running statistics against statistics
measured without dropout.

Unfair: where dropout comes after the last normalization there is no shift, and no disharmony. In deeper layers rows
that passed several masks enter, for which the ratio is no longer that of one: shown, not predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Bar, Bars, Chart, Level, Lines, Role, Series, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import Trial
from batchnorm.moments import Moments
from batchnorm.statistics import recalibrate
from batchnorm.training.settings import Settings

SHARES = (0.1, 0.3, 0.5, 0.7)
SHOWN = 0.5
PASSES, QUICK_PASSES = 20, 8
ASKED = 0.02


@dataclass(frozen=True)
class Dropout:
    """Per share and seed: (shares, seeds). Ratios: variance without dropout, divided by that with; mean over neurons.

    direct, direct_predicted: of the first hidden layer's outputs a; linear, linear_predicted: of z = w a of the second.
    layers: for SHOWN, (seeds, hidden layers), of what enters each layer's normalization.
    loss_running, loss_measured: on test rows with the running statistics and with those measured without dropout; the
    same for metric: accuracy, or R2.
    """

    shares: tuple[float, ...]
    direct: tuple[tuple[float, ...], ...]
    direct_predicted: tuple[tuple[float, ...], ...]
    linear: tuple[tuple[float, ...], ...]
    linear_predicted: tuple[tuple[float, ...], ...]
    layers: tuple[tuple[float, ...], ...]
    loss_running: tuple[tuple[float, ...], ...]
    loss_measured: tuple[tuple[float, ...], ...]
    metric_running: tuple[tuple[float, ...], ...]
    metric_measured: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class _Shift:
    """direct and linear: (measured, predicted)."""

    direct: tuple[float, float]
    linear: tuple[float, float]
    layers: tuple[float, ...]
    running: tuple[float, float]  # (loss, metric)
    measured: tuple[float, float]


def measure(bench: Bench) -> Outcome:
    """See above."""
    shares = (0.3, SHOWN) if bench.quick else SHARES
    steps, passes = (100, QUICK_PASSES) if bench.quick else (500, PASSES)
    found: list[list[_Shift]] = []
    metric = ""
    for share in shares:
        found.append([])
        for seed in bench.each(bench.seeds):
            trial = bench.trial(replace(bench.paper, dropout=share), seed)
            for _ in trial.steps(steps):
                pass
            found[-1].append(_shift(trial, share, passes))
            metric = trial.metric_name
    numbers = Dropout(
        shares,
        _each(found, lambda shift: shift.direct[0]),
        _each(found, lambda shift: shift.direct[1]),
        _each(found, lambda shift: shift.linear[0]),
        _each(found, lambda shift: shift.linear[1]),
        tuple(shift.layers for shift in found[shares.index(SHOWN)]),
        _each(found, lambda shift: shift.running[0]),
        _each(found, lambda shift: shift.measured[0]),
        _each(found, lambda shift: shift.running[1]),
        _each(found, lambda shift: shift.measured[1]),
    )
    return _outcome(numbers, metric, bench.paper, steps)


def _each(found: list[list[_Shift]], value: Callable[[_Shift], float]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(value, shifts)) for shifts in found)


@torch.no_grad()
def _shift(trial: Trial, share: float, passes: int) -> _Shift:
    """The variances with and without masks, at the weights of now."""
    x = trial.train.x
    masked = _with_masks(trial, x, share, passes)
    ratios = [now.variance() / then.variance() for now, then in zip(_without(trial, x, masked), masked, strict=True)]
    a = trial.layers[0].entering_activation(x)[1].double()
    variance, mean = torch.var_mean(a, dim=0, correction=0)
    spread = torch.cat([F.dropout(a, share) for _ in range(passes)]).var(dim=0, correction=0)
    predicted = variance / ((mean**2 + variance) / (1 - share) - mean**2)
    weight = trial.layers[1].linear.weight.double()
    through = (a @ weight.T).var(dim=0, correction=0)
    masks = share / (1 - share) * (weight**2 @ (mean**2 + variance))
    running = trial.judge()
    recalibrate(trial.network, [x], call=lambda _, rows: trial.network.body(rows), sequential=True, progress=False)
    return _Shift(
        (_mean(variance / spread), _mean(predicted)),
        (_mean(ratios[1]), _mean(through / (through + masks))),
        tuple(map(_mean, ratios)),
        running,
        trial.judge(),
    )


def _mean(values: Tensor) -> float:
    """Over neurons; one that is always the same has no ratio."""
    return float(values[torch.isfinite(values)].mean())


def _with_masks(trial: Trial, x: Tensor, share: float, passes: int) -> list[Moments]:
    """Of what enters each layer's normalization over several passes of all rows, each with masks of its own."""
    found: list[Moments] = []
    for _ in range(passes):
        a = x
        for i, layer in enumerate(trial.layers):
            moments = Moments.of(layer.linear(a), dims=0)
            found[i : i + 1] = [found[i].merge(moments) if i < len(found) else moments]
            a = F.dropout(layer.entering_activation(a)[1], share)
    return found


def _without(trial: Trial, x: Tensor, masked: list[Moments]) -> list[Moments]:
    """The same at test time: no masks, each layer normalized by the statistics that it had with them."""
    found, a = [], x
    for layer, then in zip(trial.layers, masked, strict=True):
        z = layer.linear(a)
        found.append(Moments.of(z, dims=0))
        norm = layer.norm
        assert norm is not None
        scale = norm.weight.double() / (then.variance() + norm.eps).sqrt()
        a = ACTIVATIONS[layer.activation].value(((z - then.mean) * scale + norm.bias).to(x.dtype))
    return found


def _outcome(numbers: Dropout, metric: str, paper: Settings, steps: int) -> Outcome:
    at = numbers.shares.index(SHOWN)
    ratio = Effect(
        f"variance at test, of that in training, dropout {SHOWN:g}",
        numbers.linear[at],
        unit="share",
        asked=1.0,
        direction="less than",
    )
    running, measured = numbers.loss_running[at], numbers.loss_measured[at]
    effects = (
        _law(
            "dropout, linear layer, normalization: distance from the prediction",
            numbers.linear,
            numbers.linear_predicted,
        ),
        _law(
            "dropout right before normalization: distance from the prediction", numbers.direct, numbers.direct_predicted
        ),
        ratio,
        Effect("the same right after dropout", numbers.direct[at], unit="share"),
        Effect("the same in the last hidden layer", tuple(run[-1] for run in numbers.layers), unit="share"),
        Effect(f"test loss with running statistics, dropout {SHOWN:g}", running),
        Effect("test loss with statistics measured without dropout", measured),
        Effect(
            f"test {metric}, measured less running",
            tuple(a - b for a, b in zip(numbers.metric_measured[at], numbers.metric_running[at], strict=True)),
            unit="points" if metric == "accuracy" else "",
        ),
    )
    wanted = sum(numbers.linear_predicted[at]) / len(numbers.linear_predicted[at])
    finding = (
        f"With dropout {SHOWN:g} the variance that the next layer's normalization meets at test time "
        f"is {ratio.mean:.1%} of what it learnt in training (predicted {wanted:.1%}; all shares to "
        f"{effects[0].mean:.1%}), and measuring the statistics anew without dropout takes the test loss from "
        f"{effects[5].mean:.3f} to {effects[6].mean:.3f}"
    )
    kept = paper.to_dict() | {"steps": steps}
    kept.pop("dropout")
    return Outcome(finding, effects, _charts(numbers), numbers, kept)


def _law(what: str, measured: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]]) -> Effect:
    """The largest relative distance over the shares, per seed."""
    distances = [[abs(m / p - 1) for m, p in zip(*pair, strict=True)] for pair in zip(measured, predicted, strict=True)]
    worst = tuple(map(max, zip(*distances, strict=True)))
    return Effect(what, worst, unit="share", asked=ASKED, direction="at most", note="the worst share")


def _charts(numbers: Dropout) -> tuple[Chart, ...]:
    shares, x = numbers.shares, Axis("share dropped", percent=True)

    def over(name: str, values: Sequence[Sequence[float]], role: Role = "other") -> Series:
        return over_seeds(name, shares, list(zip(*values, strict=True)), role=role)

    ratios = tuple(
        Lines(
            x,
            Axis("variance at test / in training", percent=True),
            (over("measured", measured, "with"), over("predicted", predicted)),
            marked=True,
            label=label,
        )
        for label, measured, predicted in (
            ("right after dropout", numbers.direct, numbers.direct_predicted),
            ("after dropout and a linear layer", numbers.linear, numbers.linear_predicted),
        )
    )
    depth = len(numbers.layers[0])
    layers = Bars(
        tuple(f"layer {i + 1}" for i in range(depth)),
        Axis("variance at test / in training", percent=True),
        (_bar(f"dropout {SHOWN:g}", [[run[i] for run in numbers.layers] for i in range(depth)]),),
        levels=(Level(1.0, ""),),
    )
    losses = Lines(
        x,
        Axis("test loss"),
        (
            over("running statistics, of training with dropout", numbers.loss_running, "with"),
            over("statistics measured without dropout", numbers.loss_measured),
        ),
        marked=True,
    )
    return (
        Chart(
            "The variance shift",
            "At 100 % nothing would shift; mean over neurons, in a band over the seeds.",
            ratios,
        ),
        Chart(
            "The shift, layer by layer",
            "Nothing is dropped before the first layer; whiskers are a standard deviation over the seeds.",
            (layers,),
        ),
        Chart(
            "What the shift costs",
            "The same weights, judged with the running statistics and with statistics measured anew.",
            (losses,),
        ),
    )


def _bar(name: str, values: Sequence[Sequence[float]]) -> Bar:
    effects = [Effect(name, tuple(of)) for of in values]
    return Bar(name, tuple(effect.mean for effect in effects), tuple(effect.spread for effect in effects), "with")
