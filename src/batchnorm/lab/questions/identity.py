"""Gamma and beta can undo the normalization.

Source: Ioffe and Szegedy 2015, section 3: with gamma = sqrt(sigma2 + eps) and beta = mu the transform represents the
identity, so that the network loses nothing that it could express without.

Measured: the paper's network in float64, every layer's gamma and beta set to sqrt(sigma2 + eps) and mu of all training
rows, layer by layer. Its scores for these rows must then be those of the same weights without normalization, to 1e-10
of the largest. Trained from there for 500 steps, and trained from gamma = 1, beta = 0 as usual, it is shown how far
gamma and beta move: from 1 and 0 the mean of |gamma - 1| and of |beta| must be more than 0.

Unfair: the identity is exact for the rows that mu and sigma2 were taken from and only nearly so for each mini-batch,
so that training from there is not training without normalization.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import Trial
from batchnorm.training.settings import Settings

SAME = 1e-10
"""Of the largest score: float64 keeps 16 digits, of which three layers of sums lose a few."""

STEPS, EVERY = 500, 25


@dataclass(frozen=True)
class Identity:
    """Per seed: the largest difference of scores at the start, as a share of the largest score; and paths over `steps`.

    gamma_moved and beta_moved: mean over neurons of |gamma - 1| and |beta|, from gamma = 1 and beta = 0.
    """

    steps: tuple[int, ...]
    apart: tuple[float, ...]
    gamma_moved: tuple[tuple[float, ...], ...]
    beta_moved: tuple[tuple[float, ...], ...]
    metric_from_identity: tuple[tuple[float, ...], ...]
    metric_from_one: tuple[tuple[float, ...], ...]
    metric_plain: tuple[tuple[float, ...], ...]
    way_gamma: tuple[float, ...]  # from the identity: mean of |gamma - its start| / its start, at the end


def measure(bench: Bench) -> Outcome:
    """See above."""
    steps = 100 if bench.quick else STEPS
    paper = bench.paper
    at = tuple(range(0, steps + 1, EVERY))
    apart, moves, metrics, ways = [], [], [], []
    metric = ""
    for seed in bench.each(bench.seeds):
        undone, usual = (bench.trial(paper, seed, dtype=torch.float64) for _ in range(2))
        plain = bench.trial(replace(paper, norm=None), seed, dtype=torch.float64)
        undo(undone)
        apart.append(_apart(undone, plain))
        start = [norm.weight.detach().clone() for norm in undone.norms]
        moves.append(_moves(usual))
        from_one, from_identity, without = [usual.judge()[1]], [undone.judge()[1]], [plain.judge()[1]]
        for step, _, _ in zip(usual.steps(steps), undone.steps(steps), plain.steps(steps), strict=True):
            if step % EVERY == 0:
                moves[-1] += _moves(usual)
                for curve, trial in ((from_one, usual), (from_identity, undone), (without, plain)):
                    curve.append(trial.judge()[1])
        metrics.append((tuple(from_identity), tuple(from_one), tuple(without)))
        ends = [norm.weight.detach() for norm in undone.norms]
        ways.append(_mean([(e - s).abs() / s for e, s in zip(ends, start, strict=True)]))
        metric = usual.metric_name
    numbers = Identity(
        at,
        tuple(apart),
        tuple(tuple(gamma for gamma, _ in moved) for moved in moves),
        tuple(tuple(beta for _, beta in moved) for moved in moves),
        tuple(m[0] for m in metrics),
        tuple(m[1] for m in metrics),
        tuple(m[2] for m in metrics),
        tuple(ways),
    )
    return _outcome(numbers, metric, paper)


@torch.no_grad()
def undo(trial: Trial) -> None:
    """Set every layer's gamma and beta, and its running statistics, to those of all training rows as they reach it."""
    x = trial.train.x
    for layer in trial.layers:
        z = layer.linear(x)
        norm = layer.norm
        assert norm is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(z, dim=0, correction=0)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        x = ACTIVATIONS[layer.activation].value(z)


@torch.no_grad()
def _apart(undone: Trial, plain: Trial) -> float:
    """The largest difference of the scores for all training rows, as a share of the largest score."""
    x = undone.train.x
    undone.network.eval()
    scores, wanted = undone.network.body(x), plain.network.body(x)
    undone.network.train()
    return float((scores - wanted).abs().max() / wanted.abs().max())


def _moves(trial: Trial) -> tuple[tuple[float, float], ...]:
    """Mean of |gamma - 1| and of |beta| over all layers' neurons."""
    gamma = _mean([(norm.weight.detach() - 1).abs() for norm in trial.norms])
    return ((gamma, _mean([norm.bias.detach().abs() for norm in trial.norms])),)


def _mean(values: list[Tensor]) -> float:
    return float(torch.cat(values).mean())


def _outcome(numbers: Identity, metric: str, paper: Settings) -> Outcome:
    exact = Effect(
        "difference of scores from those without normalization",
        numbers.apart,
        asked=SAME,
        direction="at most",
        note="as a share of the largest score, in float64",
    )
    gamma = Effect("mean |gamma - 1| after training", _last(numbers.gamma_moved), asked=0.0, direction="more than")
    beta = Effect("mean |beta| after training", _last(numbers.beta_moved), asked=0.0, direction="more than")
    way = Effect("change of gamma from the identity, relative", numbers.way_gamma, unit="share")
    ends = [
        Effect(f"{metric} trained from {name}", _last(paths), unit="share" if metric == "accuracy" else "")
        for name, paths in (
            ("the identity", numbers.metric_from_identity),
            ("1 and 0", numbers.metric_from_one),
            ("the same weights without normalization", numbers.metric_plain),
        )
    ]
    finding = (
        f"Set to undo it, the layers give the scores of the network without normalization to {exact.mean:.0e} of the "
        f"largest; trained as usual, gamma moves {gamma.mean:.2g} from 1 and beta {beta.mean:.2g} from 0 on average "
        f"in {numbers.steps[-1]} steps"
    )
    return Outcome(finding, (exact, gamma, beta, way, *ends), _charts(numbers, metric), numbers, paper.to_dict())


def _last(paths: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    return tuple(path[-1] for path in paths)


def _charts(numbers: Identity, metric: str) -> tuple[Chart, ...]:
    moved = Lines(
        Axis("step"),
        Axis("mean distance"),
        (
            over_seeds("gamma from 1", numbers.steps, numbers.gamma_moved),
            over_seeds("beta from 0", numbers.steps, numbers.beta_moved),
        ),
    )
    learning = Lines(
        Axis("step"),
        Axis(f"test {metric}", percent=metric == "accuracy"),
        (
            over_seeds("from gamma 1, beta 0", numbers.steps, numbers.metric_from_one, role="with"),
            over_seeds("from the identity", numbers.steps, numbers.metric_from_identity),
            over_seeds("without normalization", numbers.steps, numbers.metric_plain, role="without"),
        ),
        levels=() if metric == "accuracy" else (Level(0.0, "no better than the mean"),),
    )
    return (
        Chart(
            "How far gamma and beta move",
            "Mean over all neurons of the three layers, from gamma = 1 and beta = 0; the band spans the seeds.",
            (moved,),
        ),
        Chart(
            "Learning from the identity",
            "From the identity the first scores are those of the network without normalization; what follows is not, "
            "for each mini-batch has statistics of its own.",
            (learning,),
        ),
    )
