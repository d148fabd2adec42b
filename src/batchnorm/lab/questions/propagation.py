"""At initialization gradients grow with depth by a known factor per normalized layer, a residual sum's variance only
linearly.

Source: Yang et al. 2019, "A Mean Field Theory of Batch Normalization", arXiv 1902.08129. In a wide network of random
weights, W of variance 1/inputs, the rows of a batch become equally far apart after some layers. One layer's variance is
then (1 - 1/pi) / 2 after a ReLU (E a^2 = 1/2, less (E a)^2 = 1/(2 pi)); on the way back the ReLU halves the squared
gradient and normalization divides it by that variance: a growth of pi/(pi - 1) = 1.467 per layer, in the limit of large
batches. For B rows it is ((B - 1 + J'(c)) / (1 - J(c)) - 1) / (B - 3), c = -1/(B - 1), with J the arc-cosine kernel
(sqrt(1 - c^2) + (pi - arccos c) c) / pi. Without activation (identity) normalization removes two of B dimensions,
(B - 2)/(B - 1), and E[1/sigma^2] of B - 1 normal numbers is (B - 1)/(B - 3): (B - 2)/(B - 3) per layer. De and Smith
2020, arXiv 2002.10444: a residual block x + W ReLU(BN(x)), W of variance 2/inputs, adds 1 - 1/pi to the variance.

Measured: 50 layers of 512 neurons, fresh weights, fed with batches of the data's training rows; squared gradients of a
random linear loss, geometric mean of the growth per layer past the first 20, in which the rows' distances settle. ReLU
with 64 rows must be within 5 % of pi/(pi - 1) (the limit itself is 2 % off there) and within 2 % of the formula for 64
rows, identity with 8 rows within 2 % of 6/5, and the slope of the variance over 50 residual blocks within 5 % of
1 - 1/pi. Shown besides: other batch sizes, and the same networks without normalization.

Unfair: to trained networks, of which it says nothing; and at the first layers, where the data's own distances between
rows still show. A residual sum keeps them longer: rows of unequal length make tails, which add a little more. Data of
fewer than B - 1 independent features keep less than B - 1 dimensions without activation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, Points, Series, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER
from batchnorm.nn import BatchNorm1d

WIDTH, DEPTH, SETTLED = 512, 50, 20
SIZES = (5, 8, 16, 32, 64)
IDENTITY_ROWS, RELU_ROWS = 8, 64
LIMIT = math.pi / (math.pi - 1)
SLOPE = 1 - 1 / math.pi
CLOSE, NEAR = 0.02, 0.05
DRAWS = 4  # networks per seed and batch size
KINDS = ("ReLU", "identity")


@dataclass(frozen=True)
class Propagation:
    """growth: by "ReLU" and "identity", per batch size the factor of each seed; predicted: the same, one per size.

    profile: by "ReLU with", "ReLU without", ..., (seeds, layers): squared gradient at each layer, that of the last 1.
    variance, variance_plain: (seeds, blocks + 1), over the batch, mean over neurons, of the residual sum.
    """

    sizes: tuple[int, ...]
    growth: dict[str, tuple[tuple[float, ...], ...]]
    predicted: dict[str, tuple[float, ...]]
    profile: dict[str, tuple[tuple[float, ...], ...]]
    variance: tuple[tuple[float, ...], ...]
    variance_plain: tuple[tuple[float, ...], ...]

    def at(self, kind: str, rows: int) -> tuple[float, ...]:
        """The growth with so many rows, per seed."""
        return self.growth[kind][self.sizes.index(rows)]


def relu_growth(rows: int) -> float:
    """Growth of the squared gradient per BN-ReLU layer for batches of `rows` > 3, Yang et al. 2019.

    >>> round(relu_growth(10**9), 6) == round(math.pi / (math.pi - 1), 6)
    True
    """
    c = -1 / (rows - 1)
    rest = math.pi - math.acos(c)
    kernel, slope = (math.sqrt(1 - c * c) + rest * c) / math.pi, rest / math.pi
    return ((rows - 1 + slope) / (1 - kernel) - 1) / (rows - 3)


def identity_growth(rows: int) -> float:
    """The same without activation.

    >>> identity_growth(8)
    1.2
    """
    return (rows - 2) / (rows - 3)


def measure(bench: Bench) -> Outcome:
    """See above."""
    sizes, draws = ((IDENTITY_ROWS, RELU_ROWS), 2) if bench.quick else (SIZES, DRAWS)
    growth: dict[str, list[list[float]]] = {kind: [[] for _ in sizes] for kind in KINDS}
    profile: dict[str, list[tuple[float, ...]]] = {f"{kind} {n}": [] for kind in KINDS for n in ("with", "without")}
    variance: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
    for seed in bench.each(bench.seeds):
        trial = bench.trial(PAPER, seed)
        generator = torch.Generator().manual_seed(seed)
        for i, rows in enumerate(sizes):
            batches = [trial.batch(rows, seed=draw).x for draw in range(draws)]
            for kind in KINDS:
                logs = [_gradients(x, kind, True, generator) for x in batches]
                growth[kind][i].append(math.exp(_mean([_per_layer(log) for log in logs])))
                if rows == (RELU_ROWS if kind == "ReLU" else IDENTITY_ROWS):
                    profile[f"{kind} with"].append(_average(logs))
                    plain = [_gradients(x, kind, False, generator) for x in batches]
                    profile[f"{kind} without"].append(_average(plain))
        for normalized, paths in variance.items():
            batches = [trial.batch(RELU_ROWS, seed=draw).x for draw in range(draws)]
            runs = [_residual(x, normalized, generator) for x in batches]
            paths.append(tuple(_mean(list(column)) for column in zip(*runs, strict=True)))
    numbers = Propagation(
        sizes,
        {kind: tuple(map(tuple, found)) for kind, found in growth.items()},
        {"ReLU": tuple(map(relu_growth, sizes)), "identity": tuple(map(identity_growth, sizes))},
        {key: tuple(tuple(map(math.exp, log)) for log in logs) for key, logs in profile.items()},
        tuple(variance[True]),
        tuple(variance[False]),
    )
    return _outcome(numbers)


def _gradients(x: Tensor, kind: str, normalized: bool, generator: torch.Generator) -> tuple[float, ...]:
    """ln of the squared gradient in every layer's W x, the last layer's less itself; x: (B, features)."""
    norm = BatchNorm1d(WIDTH, affine=False, track_running_stats=False)
    gain = 2.0 if kind == "ReLU" and not normalized else 1.0  # without normalization nothing else keeps the scale
    a = x.float()
    sums: list[Tensor] = []
    for _ in range(DEPTH):
        z = a @ _draw(a.shape[1], gain, generator)
        if not sums:
            z.requires_grad_()
        z.retain_grad()
        sums.append(z)
        a = norm(z) if normalized else z
        a = torch.relu(a) if kind == "ReLU" else a
    torch.autograd.backward(a, torch.randn(a.shape, generator=generator))
    squares = [float(z.grad.double().square().sum()) for z in sums if z.grad is not None]
    return tuple(math.log(square / squares[-1]) for square in squares)


@torch.no_grad()
def _residual(x: Tensor, normalized: bool, generator: torch.Generator) -> tuple[float, ...]:
    """The variance over the batch of x, x + W ReLU(BN(x)), ..., mean over neurons; begins at 1."""
    norm = BatchNorm1d(WIDTH, affine=False, track_running_stats=False)
    total = norm(x.float() @ _draw(x.shape[1], 1.0, generator))
    found = [_variance(total)]
    for _ in range(DEPTH):
        entering = norm(total) if normalized else total
        total = total + torch.relu(entering) @ _draw(WIDTH, 2.0, generator)
        found.append(_variance(total))
    return tuple(found)


def _draw(inputs: int, gain: float, generator: torch.Generator) -> Tensor:
    """(inputs, WIDTH) of variance gain / inputs."""
    return torch.randn(inputs, WIDTH, generator=generator) * math.sqrt(gain / inputs)


def _variance(total: Tensor) -> float:
    return float(total.double().var(dim=0, correction=0).mean())


def _per_layer(logs: tuple[float, ...]) -> float:
    """ln of the growth from a layer to the one before it, mean over the layers past the first SETTLED."""
    return (logs[SETTLED] - logs[-1]) / (len(logs) - 1 - SETTLED)


def _average(runs: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(_mean(list(column)) for column in zip(*runs, strict=True))


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _outcome(numbers: Propagation) -> Outcome:
    relu, identity = numbers.at("ReLU", RELU_ROWS), numbers.at("identity", IDENTITY_ROWS)
    slopes = tuple((path[-1] - path[0]) / (len(path) - 1) for path in numbers.variance)

    def apart(what: str, values: tuple[float, ...], predicted: float, asked: float) -> Effect:
        distances = tuple(abs(value / predicted - 1) for value in values)
        return Effect(what, distances, unit="share", asked=asked, direction="at most")

    formula, exact = relu_growth(RELU_ROWS), identity_growth(IDENTITY_ROWS)
    ends = tuple(path[-1] for path in numbers.variance_plain)
    effects = (
        apart(f"ReLU, {RELU_ROWS} rows: distance of the growth from pi/(pi - 1) = {LIMIT:.3f}", relu, LIMIT, NEAR),
        apart(f"the same from the formula for {RELU_ROWS} rows, {formula:.3f}", relu, formula, CLOSE),
        apart(f"identity, {IDENTITY_ROWS} rows: distance from (B - 2)/(B - 3) = {exact:.3f}", identity, exact, CLOSE),
        apart(f"residual blocks: distance of the variance's slope from 1 - 1/pi = {SLOPE:.3f}", slopes, SLOPE, NEAR),
        Effect("growth per BN-ReLU layer", relu, unit="times"),
        Effect("growth per BN layer without activation", identity, unit="times"),
        Effect("variance added per residual block", slopes),
        Effect(f"variance after {DEPTH} residual blocks without normalization", ends),
    )
    finding = (
        f"The squared gradient grows {effects[4].mean:.3f} times per BN-ReLU layer with {RELU_ROWS} rows (predicted "
        f"{formula:.3f}, and {LIMIT:.3f} = pi/(pi - 1) for large batches) and {effects[5].mean:.3f} times without "
        f"activation with {IDENTITY_ROWS} rows (predicted {exact:.3f}), while a residual sum's variance gains "
        f"{effects[6].mean:.3f} per block (predicted 1 - 1/pi = {SLOPE:.3f}) instead of nearly doubling"
    )
    settings = {"hidden": [WIDTH], "depth": DEPTH, "weights": "normal, variance 1/inputs; 2/inputs in residual blocks"}
    return Outcome(finding, effects, _charts(numbers), numbers, settings)


def _charts(numbers: Propagation) -> tuple[Chart, ...]:
    layers = tuple(range(1, DEPTH + 1))
    profiles = tuple(
        Lines(
            Axis("layer"),
            Axis("squared gradient", log=True),
            (
                over_seeds("with normalization", layers, numbers.profile[f"{kind} with"], role="with"),
                over_seeds("without normalization", layers, numbers.profile[f"{kind} without"], role="without"),
                Series("predicted", layers, tuple(factor ** (DEPTH - layer) for layer in layers)),
            ),
            label=f"{kind}, {rows} rows",
        )
        for kind, rows, factor in (
            ("ReLU", RELU_ROWS, relu_growth(RELU_ROWS)),
            ("identity", IDENTITY_ROWS, identity_growth(IDENTITY_ROWS)),
        )
    )
    factors = Points(
        Axis("rows in the batch", log=True),
        Axis("growth per layer"),
        tuple(
            over_seeds(name, numbers.sizes, values)
            for kind in KINDS
            for name, values in (
                (f"{kind}, measured", list(zip(*numbers.growth[kind], strict=True))),
                (f"{kind}, predicted", [numbers.predicted[kind]]),
            )
        ),
        levels=(Level(LIMIT, "pi/(pi - 1), for large batches"),),
    )
    blocks = tuple(range(DEPTH + 1))
    variances = Lines(
        Axis("residual blocks"),
        Axis("variance over the batch", log=True),
        (
            over_seeds("with normalization", blocks, numbers.variance, role="with"),
            over_seeds("without normalization", blocks, numbers.variance_plain, role="without"),
            Series("predicted: slope 1 - 1/pi", blocks, tuple(1 + SLOPE * block for block in blocks)),
        ),
    )
    return (
        Chart(
            "Gradients on their way back",
            "As a multiple of the last layer's; read from right to left. A straight line is the same factor at every "
            "layer: normalization alone makes gradients explode with depth, the more the smaller the batch.",
            profiles,
        ),
        Chart(
            "The growth per layer against the batch size",
            "Measured with whiskers from the lowest to the highest seed, and as predicted for that many rows.",
            (factors,),
        ),
        Chart(
            "The variance of a residual sum",
            "Logarithmic: without normalization each block nearly doubles the variance; with it each adds a constant, "
            "so that deeper blocks change the sum less and less.",
            (variances,),
        ),
    )
