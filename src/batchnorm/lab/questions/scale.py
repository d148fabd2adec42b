"""The scale of the weights before batch normalization stops mattering.

Source: Ioffe and Szegedy 2015, section 3.3: BN((a W) u) = BN(W u), so that the gradient in a W is that in W, divided by
a. The loss does not change along w, hence <w, grad w> = 0 for each neuron's weights w (differentiate L(a w) = L(w) in a
at a = 1). A step of plain gradient descent with rate r then stands at right angles to w: |w|^2 grows by exactly
r^2 |grad w|^2 (Pythagoras), and the direction w / |w| moves with an effective rate of r / |w|^2 (van Laarhoven 2017,
arXiv 1706.05350; Hoffer et al. 2018, arXiv 1803.01814; Arora, Li and Lyu 2019, arXiv 1812.03981).

Measured: the paper's network in float64, with an eps of 1e-30 that leaves the laws exact, 500 steps. The largest cosine
between a neuron's w and its gradient, the difference of a grad(a w) from grad(w) for all hidden W times a = 0.01 to
100, and that of |w|^2 from the sum of squares may be rounding alone: at most 1e-10 each. Shown besides: the effective
rate over training from four initial scales, the cosine with the usual eps, and the same without normalization.

Unfair: never for the laws, which hold for all data; but eps breaks them by a share of about eps / (sigma2 + eps), which
is much where weights are tiny, and weight decay or a rate that adapts (Adam) takes the growth of |w| away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, Series, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import Trial
from batchnorm.training.settings import Settings

ROUNDING = 1e-10
"""Sums of some thousand products in float64 keep 12 digits or more."""

NO_EPS = 1e-30
FACTORS = (0.01, 0.1, 0.5, 3.0, 10.0, 100.0)
STARTS = (0.03, 0.1, 0.3, 1.0)  # standard deviations of the initial weights; the paper's is 0.1
PAPERS = 0.1
STEPS, LOOKS = 500, 50
ROWS = 500


@dataclass(frozen=True)
class Scale:
    """Per seed, unless said otherwise.

    cosine, cosine_usual_eps, cosine_plain: largest |<w, grad w>| / (|w| |grad w|) over neurons and looks.
    gradient_apart: largest |a grad(a w) - grad(w)| / |grad w| over factors and layers.
    size, size_plain: (seeds, factors), |grad(a w)| / |grad w| of all hidden W together.
    pythagoras: |w|^2 at the end less (its start plus the sum of (rate |grad w|)^2), as a share of the end.
    rate: by initial scale, (seeds, looks): rate / |w|^2, mean over the neurons of all hidden layers.
    """

    factors: tuple[float, ...]
    steps: tuple[int, ...]
    cosine: tuple[float, ...]
    cosine_usual_eps: tuple[float, ...]
    cosine_plain: tuple[float, ...]
    gradient_apart: tuple[float, ...]
    size: tuple[tuple[float, ...], ...]
    size_plain: tuple[tuple[float, ...], ...]
    pythagoras: tuple[float, ...]
    rate: dict[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True)
class _Path:
    cosine: float
    pythagoras: float
    rates: tuple[float, ...]


def measure(bench: Bench) -> Outcome:
    """See above."""
    steps = 100 if bench.quick else STEPS
    exact = replace(bench.paper, eps=NO_EPS)
    kinds = {f"start {start:g}": replace(exact, weight_scale=start) for start in STARTS}
    kinds |= {"usual eps": bench.paper, "plain": replace(bench.paper, norm=None)}
    paths: dict[str, list[_Path]] = {kind: [] for kind in kinds}
    scaled: dict[bool, list[tuple[float, list[float]]]] = {True: [], False: []}
    for seed in bench.seeds:
        for kind, settings in bench.each(kinds.items()):
            trial = bench.trial(settings, seed, dtype=torch.float64)
            if kind in (f"start {PAPERS:g}", "plain"):
                scaled[kind != "plain"].append(_scaled(trial))
            paths[kind].append(_follow(trial, steps))
    papers = paths[f"start {PAPERS:g}"]
    numbers = Scale(
        FACTORS,
        tuple(range(0, steps + 1, steps // LOOKS)),
        tuple(path.cosine for path in papers),
        tuple(path.cosine for path in paths["usual eps"]),
        tuple(path.cosine for path in paths["plain"]),
        tuple(apart for apart, _ in scaled[True]),
        tuple(tuple(sizes) for _, sizes in scaled[True]),
        tuple(tuple(sizes) for _, sizes in scaled[False]),
        tuple(path.pythagoras for path in papers),
        {f"{start:g}": tuple(path.rates for path in paths[f"start {start:g}"]) for start in STARTS},
    )
    return _outcome(numbers, exact)


def _weights(trial: Trial) -> list[Tensor]:
    return [layer.linear.weight for layer in trial.layers]


def _scaled(trial: Trial) -> tuple[float, list[float]]:
    """How far a grad(a w) is from grad(w), relative, at most; and |grad(a w)| / |grad w| for each factor."""
    rows, weights = trial.batch(ROWS), _weights(trial)
    before = [w.detach().clone() for w in weights]
    first = torch.autograd.grad(trial.loss(rows), weights)
    apart, sizes = 0.0, []
    for factor in FACTORS:
        _put(weights, [factor * w for w in before])
        now = torch.autograd.grad(trial.loss(rows), weights)
        apart = max(apart, *(float((factor * b - a).norm() / a.norm()) for a, b in zip(first, now, strict=True)))
        sizes.append(_size(now) / _size(first))
    _put(weights, before)
    return apart, sizes


@torch.no_grad()
def _put(weights: list[Tensor], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def _size(gradients: tuple[Tensor, ...]) -> float:
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def _follow(trial: Trial, steps: int) -> _Path:
    """Train, and hold every step's gradient against the weights that it was taken at."""
    rate, weights = trial.settings.rate, _weights(trial)
    before = [w.detach().clone() for w in weights]
    grown = _squares(before)
    cosine, rates = 0.0, [_effective(rate, before)]
    for step in trial.steps(steps):
        gradients = [w.grad for w in weights if w.grad is not None]
        for w, g in zip(before, gradients, strict=True):
            sizes = w.norm(dim=1) * g.norm(dim=1)
            cosine = max(cosine, float(((w * g).sum(dim=1).abs() / sizes.clamp_min(1e-300)).max()))
        grown += rate**2 * _squares(gradients)
        before = [w.detach().clone() for w in weights]
        if step % (steps // LOOKS) == 0:
            rates.append(_effective(rate, before))
    end = _squares(before)
    return _Path(cosine, abs(end - grown) / end, tuple(rates))


def _squares(tensors: list[Tensor]) -> float:
    return sum(float(t.square().sum()) for t in tensors)


def _effective(rate: float, weights: list[Tensor]) -> float:
    """rate / |w|^2, mean over neurons."""
    return float(torch.cat([rate / w.square().sum(dim=1) for w in weights]).mean())


def _outcome(numbers: Scale, settings: Settings) -> Outcome:
    note = "0 in exact arithmetic; what is left is rounding in float64"
    papers = numbers.rate[f"{PAPERS:g}"]
    extremes = [numbers.rate[f"{start:g}"] for start in (STARTS[0], STARTS[-1])]

    def asked(what: str, values: tuple[float, ...]) -> Effect:
        return Effect(what, values, asked=ROUNDING, direction="at most", note=note)

    def apart(look: int) -> tuple[float, ...]:
        return tuple(small[look] / large[look] for small, large in zip(*extremes, strict=True))

    ends = f"weights that begin at {STARTS[0]:g} and at {STARTS[-1]:g}"
    effects = (
        asked("largest cosine between a neuron's weights and their gradient", numbers.cosine),
        asked("largest difference of a grad(a w) from grad(w), relative", numbers.gradient_apart),
        asked("difference of |w|^2 from its start plus all squared steps, relative", numbers.pythagoras),
        Effect("effective rate at the end, of that at the start", tuple(p[-1] / p[0] for p in papers), unit="share"),
        Effect(f"effective rates of {ends}, divided, at the start", apart(0), unit="times"),
        Effect(f"effective rates of {ends}, divided, at the end", apart(-1), unit="times"),
        Effect("the same cosine with the usual eps", numbers.cosine_usual_eps, note="eps 1e-5"),
        Effect("the same cosine without normalization", numbers.cosine_plain),
    )
    finding = (
        f"Multiplying the hidden weights by a divides their gradient by a (to {effects[1].mean:.0e}), which stands at "
        f"right angles to them (cosine at most {effects[0].mean:.0e}; without normalization up to "
        f"{effects[7].mean:.2f}), so that weights only grow: in {numbers.steps[-1]} steps the "
        f"effective learning rate falls to {effects[3].mean:.0%} of its start, and rates that begin "
        f"{effects[4].mean:,.0f} times apart end {effects[5].mean:,.1f} times apart"
    )
    return Outcome(finding, effects, _charts(numbers), numbers, settings.to_dict())


def _charts(numbers: Scale) -> tuple[Chart, ...]:
    a = numbers.factors
    gradients = Lines(
        Axis("factor a on all hidden weights", log=True),
        Axis("|grad(a w)| / |grad(w)|", log=True),
        (
            over_seeds("with normalization", a, numbers.size, role="with"),
            over_seeds("without normalization", a, numbers.size_plain, role="without"),
            Series("predicted with normalization: 1/a", a, tuple(1 / factor for factor in a)),
        ),
        levels=(Level(1.0, ""),),
    )
    rates = Lines(
        Axis("step"),
        Axis("effective learning rate", log=True),
        tuple(
            over_seeds(
                f"initial scale {start}{' (the paper)' * (start == f'{PAPERS:g}')}",
                numbers.steps,
                runs,
                role="with" if start == f"{PAPERS:g}" else "other",
            )
            for start, runs in numbers.rate.items()
        ),
    )
    return (
        Chart(
            "The gradient against the weights' scale",
            "At the first step, both axes logarithmic: with normalization the gradient is inversely proportional to "
            "the scale, whatever the data; without, sigmoids saturate and it is anything.",
            (gradients,),
        ),
        Chart(
            "The effective learning rate over training",
            "Learning rate / |w|^2, mean over all hidden neurons: weights that begin small take large turns, grow "
            "by them, and so slow themselves down.",
            (rates,),
        ),
    )
