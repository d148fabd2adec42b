"""Many more hyperparameters work.

Source: Ioffe and Szegedy 2015, section 3.3 (higher learning rates, less care about initialization), and the courses
that teach it so.

Measured: the paper's network for 500 steps at learning rates from 0.001 to 10 and initial standard deviations of the
weights from 0.01 to 1, both in half decades. A cell works if its test accuracy is within 2 points of the best cell of
both networks. The share of cells that work must be at least twice as large with normalization. The width is that of
the longest row of neighbouring rates that work at the best scale, each rate standing for half a decade.

Unfair: as far as the grid is a choice. Plain gradient descent is what it is about: Adam adapts to scales by itself and
narrows the gap. 500 steps count slow learning as not working.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Bar, Bars, Chart, HeatMap
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.trial import PAPER, twins

RATES = (0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316, 1.0, 3.16, 10.0)
SCALES = (0.01, 0.0316, 0.1, 0.316, 1.0)
WITHIN = 0.02
ASKED = 2.0

Grid = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class Robustness:
    """Test accuracies per seed, scale and rate; shares of cells that work and widths in decades per seed."""

    rates: tuple[float, ...]
    scales: tuple[float, ...]
    steps: int
    normalized: Grid
    plain: Grid
    share_normalized: tuple[float, ...]
    share_plain: tuple[float, ...]
    width_normalized: tuple[float, ...]
    width_plain: tuple[float, ...]


def measure(bench: Bench) -> Outcome:
    """See above."""
    bench.require_classes()
    rates, scales, steps = (RATES[1::2], SCALES[::2], 150) if bench.quick else (RATES, SCALES, 500)
    found: dict[tuple[bool, int, float, float], float] = {}
    for (normalized, settings), seed, scale, rate in bench.each(product(twins(PAPER), bench.seeds, scales, rates)):
        trial = bench.trial(replace(settings, weight_scale=scale, learning_rate=rate), seed)
        for _ in trial.steps(steps):
            pass
        found[normalized, seed, scale, rate] = trial.judge()[1]

    def grid(normalized: bool) -> Grid:
        return tuple(
            tuple(tuple(found[normalized, seed, scale, rate] for rate in rates) for scale in scales)
            for seed in bench.seeds
        )

    ours, theirs = grid(True), grid(False)
    least = [max(max(map(max, a)), max(map(max, b))) - WITHIN for a, b in zip(ours, theirs, strict=True)]
    decades = 2 * 0.5 if bench.quick else 0.5
    numbers = Robustness(
        rates,
        scales,
        steps,
        ours,
        theirs,
        tuple(_share(cells, bar) for cells, bar in zip(ours, least, strict=True)),
        tuple(_share(cells, bar) for cells, bar in zip(theirs, least, strict=True)),
        tuple(decades * _width(cells, bar) for cells, bar in zip(ours, least, strict=True)),
        tuple(decades * _width(cells, bar) for cells, bar in zip(theirs, least, strict=True)),
    )
    return _outcome(numbers)


def _outcome(numbers: Robustness) -> Outcome:
    one_cell = 1 / (len(numbers.rates) * len(numbers.scales))
    none = sum(share == 0 for share in numbers.share_plain)
    ratio = Effect(
        "share of settings that work with normalization, divided by that without",
        tuple(a / max(b, one_cell) for a, b in zip(numbers.share_normalized, numbers.share_plain, strict=True)),
        unit="times",
        asked=ASKED,
        note=f"a lower bound: in {none} of the seeds not one works without, counted as one" if none else "",
    )
    effects = (
        ratio,
        Effect("settings that work with normalization", numbers.share_normalized, unit="share"),
        Effect("settings that work without", numbers.share_plain, unit="share"),
        Effect("width of learning rates at the best scale, with", numbers.width_normalized, unit="decades"),
        Effect("width of learning rates at the best scale, without", numbers.width_plain, unit="decades"),
    )
    finding = (
        f"Of {len(numbers.rates) * len(numbers.scales)} pairs of learning rate and initial scale "
        f"{effects[1].mean:.0%} work with normalization and {effects[2].mean:.0%} without, "
        f"{'at least ' * bool(none)}{ratio.mean:.1f} times as many; at the best scale learning rates may span "
        f"{effects[3].mean:.1f} decades against {effects[4].mean:.1f}"
    )
    return Outcome(finding, effects, _charts(numbers), numbers, PAPER.to_dict() | {"steps": numbers.steps})


def _share(cells: Sequence[Sequence[float]], least: float) -> float:
    works = [accuracy >= least for row in cells for accuracy in row]
    return sum(works) / len(works)


def _width(cells: Sequence[Sequence[float]], least: float) -> int:
    """The longest run of neighbouring rates that work, at the scale where it is longest."""
    longest = 0
    for row in cells:
        run = 0
        for accuracy in row:
            run = run + 1 if accuracy >= least else 0
            longest = max(longest, run)
    return longest


def _charts(numbers: Robustness) -> tuple[Chart, ...]:
    maps = Chart(
        "Test accuracy over learning rate and initial scale",
        f"In %, mean over the seeds after {numbers.steps} steps: the more cells near the best, the less care it takes.",
        (_map(numbers, numbers.normalized, True), _map(numbers, numbers.plain, False)),
    )
    shares = Bars(
        tuple(f"{scale:g}" for scale in numbers.scales),
        Axis("rates that work", percent=True, bounds=(0.0, 1.0)),
        (
            Bar("with normalization", _per_scale(numbers, numbers.normalized), role="with"),
            Bar("without normalization", _per_scale(numbers, numbers.plain), role="without"),
        ),
    )
    per_scale = Chart(
        "Share of learning rates that work, per initial scale",
        "Groups are standard deviations of the initial weights; a rate works if it ends within 2 points of the best "
        "cell of both networks.",
        (shares,),
    )
    return maps, per_scale


def _map(numbers: Robustness, grid: Grid, normalized: bool) -> HeatMap:
    mean = tuple(
        tuple(sum(cells) / len(cells) for cells in zip(*rows, strict=True)) for rows in zip(*grid, strict=True)
    )
    return HeatMap(
        tuple(f"{rate:.2g}" for rate in numbers.rates),
        tuple(f"{scale:.2g}" for scale in numbers.scales),
        "learning rate",
        "initial scale",
        mean,
        0.0,
        1.0,
        "test accuracy",
        percent=True,
        label="with normalization" if normalized else "without normalization",
        role="with" if normalized else "without",
    )


def _per_scale(numbers: Robustness, grid: Grid) -> tuple[float, ...]:
    """Mean over the seeds of the share of rates that work."""
    both = zip(numbers.normalized, numbers.plain, strict=True)
    least = [max(max(map(max, a)), max(map(max, b))) - WITHIN for a, b in both]
    return tuple(
        sum(_share([cells[i]], bar) for cells, bar in zip(grid, least, strict=True)) / len(grid)
        for i in range(len(numbers.scales))
    )
