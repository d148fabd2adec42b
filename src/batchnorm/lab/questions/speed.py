"""Normalizing activations speeds up learning.

Source: Ioffe and Szegedy 2015, section 4.1 and figure 1a: the same network with and without, three layers of 100
sigmoids, weights from N(0, 0.1^2), batches of 60.

Measured: steps until the test accuracy first reaches 95 % (on data where neither network does, the highest of 90, 80,
... % that both do), looked at every 5 steps, over five learning rates. At the paper's setting with a rate of 0.5 the
network without must need at least 5 times as many. Both get inputs normalized by the training rows.

Unfair: to the normalized network where a step costs more, for steps are counted and not seconds; to the other where
the rate suits it badly, which is why each at its own best rate is reported as well; and on raw inputs, which are kept
out of it, because they would slow down the network without alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Level, Lines, Series, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER, twins

GOALS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
RATES = (0.05, 0.15, 0.5, 1.5, 5.0)
MOST_STEPS, EVERY, SHOWN = 3000, 5, 1000
ASKED = 5.0


@dataclass(frozen=True)
class Speed:
    """Steps to the goal per rate and seed; infinite where it was not reached within `most_steps`."""

    goal: float
    most_steps: int
    rates: tuple[float, ...]
    steps_normalized: tuple[tuple[float, ...], ...]
    steps_plain: tuple[tuple[float, ...], ...]
    curve_steps: tuple[int, ...]
    curve_normalized: tuple[tuple[float, ...], ...]  # per seed, at the paper's rate
    curve_plain: tuple[tuple[float, ...], ...]


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    most, drawn = (1500, 300) if bench.quick else (MOST_STEPS, SHOWN)
    rates = (PAPER.rate,) if bench.quick else RATES
    curves: dict[tuple[bool, float, int], list[float]] = {}
    for (normalized, settings), rate, seed in bench.each(product(twins(PAPER), rates, bench.seeds)):
        shown = drawn if rate == PAPER.rate else 0
        trial = bench.trial(replace(settings, learning_rate=rate), seed)
        curve = curves[normalized, rate, seed] = []
        for step in trial.steps(most):
            if step % EVERY == 0:
                curve.append(trial.judge()[1])
                if step >= shown and max(curve) >= GOALS[0]:
                    break
    goal = _goal([curves[True, PAPER.rate, seed] for seed in bench.seeds], curves, bench.seeds)

    def steps(normalized: bool) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(_first(curves[normalized, rate, seed], goal) for seed in bench.seeds) for rate in rates)

    points = drawn // EVERY
    numbers = Speed(
        goal,
        most,
        rates,
        steps(True),
        steps(False),
        tuple(range(EVERY, EVERY * points + 1, EVERY)),
        tuple(tuple(curves[True, PAPER.rate, seed][:points]) for seed in bench.seeds),
        tuple(tuple(curves[False, PAPER.rate, seed][:points]) for seed in bench.seeds),
    )
    return _outcome(numbers, len(bench.seeds))


def _outcome(numbers: Speed, seeds: int) -> Outcome:
    at = numbers.rates.index(PAPER.rate)
    theirs, ours = numbers.steps_plain[at], numbers.steps_normalized[at]
    lost = sum(map(math.isinf, theirs))
    note = f"a lower bound: {lost} of {seeds} never got there in {numbers.most_steps:,} steps" if lost else ""
    fewer = Effect(
        f"steps to {numbers.goal:.0%} without, divided by those with, at the paper's setting",
        _ratios(theirs, ours, numbers.most_steps),
        unit="times",
        asked=ASKED,
        note=note,
    )
    best = Effect(
        "the same with each at its own best rate",
        _ratios(_best(numbers.steps_plain), _best(numbers.steps_normalized), numbers.most_steps),
        unit="times",
    )
    effects = (fewer,) if len(numbers.rates) == 1 else (fewer, best)
    finding = (
        f"With normalization {numbers.goal:.0%} test accuracy takes {_needed(ours, numbers.most_steps)} steps, without "
        f"{_needed(theirs, numbers.most_steps)}"
    )
    if not math.isnan(fewer.mean):
        finding += f": {'at least ' * bool(lost)}{fewer.mean:.1f} times as many"
    if len(effects) > 1 and not math.isnan(best.mean):
        finding += f" ({best.mean:.1f} times with each at its best learning rate)"
    return Outcome(finding, effects, _charts(numbers), numbers, PAPER.to_dict())


def _goal(
    at_paper: Sequence[Sequence[float]], curves: dict[tuple[bool, float, int], list[float]], seeds: Sequence[int]
) -> float:
    """95 %, or where that is out of reach of both networks, the highest round accuracy that both reach."""
    plain = [curves[False, PAPER.rate, seed] for seed in seeds]
    reached = min(max(max(a), max(b)) for a, b in zip(at_paper, plain, strict=True))
    if reached >= GOALS[0]:
        return GOALS[0]
    common = min(max(curve) for curve in (*at_paper, *plain))
    return next((goal for goal in GOALS if goal <= common), GOALS[-1])


def _first(curve: Sequence[float], goal: float) -> float:
    """The step of the first look at which the goal was reached."""
    return next((float(EVERY * (i + 1)) for i, accuracy in enumerate(curve) if accuracy >= goal), math.inf)


def _best(steps: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Per seed, at the best rate."""
    return tuple(map(min, zip(*steps, strict=True)))


def _ratios(theirs: Sequence[float], ours: Sequence[float], most: int) -> tuple[float, ...]:
    """Per seed; not a number where the normalized network never got there."""
    return tuple(math.nan if math.isinf(b) else min(a, most) / b for a, b in zip(theirs, ours, strict=True))


def _needed(steps: Sequence[float], most: int) -> str:
    """In words, mean over the seeds; those that never got there count as all steps."""
    more = "more than " * any(map(math.isinf, steps))
    return f"{more}{sum(min(s, most) for s in steps) / len(steps):,.0f}"


def _charts(numbers: Speed) -> tuple[Chart, ...]:
    curves = Lines(
        Axis("step", log=True),
        Axis("test accuracy", percent=True),
        (
            over_seeds("with normalization", numbers.curve_steps, numbers.curve_normalized, role="with"),
            over_seeds("without normalization", numbers.curve_steps, numbers.curve_plain, role="without"),
        ),
        levels=(Level(numbers.goal, f"goal {numbers.goal:.0%}"),),
    )
    found = [
        Chart(
            "Learning at the paper's setting",
            "Mean over the seeds in a band from the lowest to the highest; steps on a logarithmic scale, so that a "
            "shift to the left is a factor.",
            (curves,),
        )
    ]
    if len(numbers.rates) > 1:
        rates = Lines(
            Axis("learning rate", log=True),
            Axis(f"steps to {numbers.goal:.0%}", log=True),
            (
                _over_rates("with normalization", numbers, numbers.steps_normalized, "with"),
                _over_rates("without normalization", numbers, numbers.steps_plain, "without"),
            ),
            marked=True,
        )
        found.append(
            Chart(
                "Steps over learning rates",
                f"A gap is a rate at which a seed never got there in {numbers.most_steps:,} steps.",
                (rates,),
            )
        )
    return tuple(found)


def _over_rates(name: str, numbers: Speed, steps: Sequence[Sequence[float]], role: str) -> Series:
    per_seed = list(zip(*steps, strict=True))
    return over_seeds(name, numbers.rates, per_seed, role="with" if role == "with" else "without")
