"""New data with another distribution is misread; new statistics mend contrast and tints, not an inverted polarity.

Source: Ioffe and Szegedy 2015, section 1, for covariate shift; Schneider et al. 2020, arXiv 2006.16971, for new
statistics at test time; a course's example of cats, black ones alone in training, for data that keep their labels and
change their looks.

Measured: test accuracy of the paper's network after 500 steps, in a stream of batches of 64: with the source's running
averages, with new statistics of each batch alone, and with those that the library's `adapting` uses by default: mixed
with the source as 16 rows, under its guard. Brightness + 0.3 of the range, contrast x 0.3, noise of 0.3, inverted; and
a network trained on dark-on-light rows alone, tested on grey ink, on grey paper and on inverted polarity. Each shift
must cost the source statistics more than 2 points. New statistics must gain on all but the inverted, and must leave
these more than 2 points short. The counter-example is a stream sorted by label, which is not shifted at all: there new
statistics must lose more than 2 points, and the guard at most 2. Pictures are divided by their range and not
normalized pixel by pixel, which would magnify whatever happens at their edges.

Unfair: to new statistics, for the source's need no batch at all; and to the guard, which takes the first two batches to
decide. On data that do not look like pictures (as many numbers as a square has pixels, most with the same lowest value)
shifts are made feature by feature, in standard deviations from the mean, with nothing clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from batchnorm.data import Prepared
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Bar, Bars, Chart, Level, Lines, Role, over_seeds
from batchnorm.lab.record import Effect, Outcome
from batchnorm.lab.shifted import Array, Shifts
from batchnorm.lab.trial import MOST_JUDGED, PAPER, Trial
from batchnorm.statistics import adapting
from batchnorm.training.network import Network
from batchnorm.training.settings import Settings

BATCH, STEPS, LOSES = 64, 500, 0.02
STRENGTH = 0.3
CONTRAST_LOST = 0.7
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
SOURCE, NEW, GUARDED = "source statistics", "new statistics alone", "mixed and guarded"
WAYS = (SOURCE, NEW, GUARDED)
ROLES: dict[str, Role] = {SOURCE: "with", NEW: "other", GUARDED: "other"}
CLEAN, SORTED = "as trained", "sorted by label"
LOOKS = ("brightness", "contrast", "noise", "inverted")
TINTS = {"grey ink": (1.0, 0.5), "grey paper": (0.5, 0.0), "inverted polarity": (0.0, 1.0)}
BEYOND = ("inverted", "inverted polarity")
"""What no new statistics can mend: z changes its sign, and they know no sign."""


@dataclass(frozen=True)
class Shift:
    """Test accuracies by way of taking statistics, then by case: [seed].

    usual: of the network trained on the data as they are; dark: of that trained on dark-on-light rows. by_strength: of
    brightness, contrast and noise: [strength][seed].
    """

    are_pixels: bool
    usual: dict[str, dict[str, tuple[float, ...]]]
    dark: dict[str, dict[str, tuple[float, ...]]]
    strengths: tuple[float, ...]
    by_strength: dict[str, dict[str, tuple[tuple[float, ...], ...]]]


def measure(bench: Bench, *, steps: int | None = None) -> Outcome:
    """See above. steps: 500 by default, 200 to be quick."""
    bench.require_classes()
    steps = (200 if bench.quick else STEPS) if steps is None else steps
    strengths = (0.0, 0.3, 0.7) if bench.quick else STRENGTHS
    usual: list[dict[str, dict[str, float]]] = []
    dark: list[dict[str, dict[str, float]]] = []
    by_strength: list[dict[str, dict[str, list[float]]]] = []
    pixels = False
    for seed in bench.each(bench.seeds):
        data = bench.data(seed)
        shifts = Shifts.of(data)
        pixels = shifts.are_pixels
        network, x, y = _trained(data, seed, steps)
        cases = {
            CLEAN: x,
            "brightness": shifts.brighter(x, STRENGTH),
            "contrast": shifts.paler(x, CONTRAST_LOST),
            "noise": shifts.noisy(x, STRENGTH, seed),
            "inverted": shifts.inverted(x),
        }
        found = {way: {case: _accuracy(network, rows, y, way) for case, rows in cases.items()} for way in WAYS}
        order = torch.argsort(y, stable=True)
        for way in WAYS:
            found[way][SORTED] = _accuracy(network, x[order.numpy()], y[order], way)
        usual.append(found)
        changed = {
            "brightness": [shifts.brighter(x, by) for by in strengths],
            "contrast": [shifts.paler(x, by) for by in strengths],
            "noise": [shifts.noisy(x, by, seed) for by in strengths],
        }
        by_strength.append(
            {way: {s: [_accuracy(network, rows, y, way) for rows in rs] for s, rs in changed.items()} for way in WAYS}
        )
        x_train = shifts.inverted(data.x_train)  # ink, which is high, becomes dark
        printed = replace(data, x_train=x_train, x_test=shifts.inverted(data.x_test))
        network, x, y = _trained(printed, seed, steps)
        cases = {CLEAN: x} | {tint: shifts.tinted(x, *colours) for tint, colours in TINTS.items()}
        dark.append({way: {case: _accuracy(network, rows, y, way) for case, rows in cases.items()} for way in WAYS})
    numbers = Shift(
        pixels,
        _by_seed(usual),
        _by_seed(dark),
        strengths,
        {
            way: {
                case: tuple(tuple(seed[way][case][i] for seed in by_strength) for i in range(len(strengths)))
                for case in LOOKS[:3]
            }
            for way in WAYS
        },
    )
    return _outcome(numbers, _settings(bench.data(bench.seeds[0])).to_dict() | {"steps": steps})


def _by_seed(found: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, tuple[float, ...]]]:
    return {way: {case: tuple(seed[way][case] for seed in found) for case in found[0][way]} for way in WAYS}


def _trained(data: Prepared, seed: int, steps: int) -> tuple[Network, Array, Tensor]:
    """A network in eval mode, and test rows in random order with their labels: raw (N, F), (N,)."""
    trial = Trial(data, replace(_settings(data), seed=seed))
    for _ in trial.steps(steps):
        pass
    order = torch.randperm(len(data.x_test), generator=torch.Generator().manual_seed(seed))[:MOST_JUDGED].numpy()
    return trial.network.eval(), data.x_test[order], torch.from_numpy(data.y_test[order])


def _settings(data: Prepared) -> Settings:
    shifts = Shifts.of(data)
    if not shifts.are_pixels:
        return PAPER
    # A pixel that hardly varies, divided by its deviation, would turn any shift into a blow.
    return replace(PAPER, input_norm=False, divide_by=float(shifts.span))


@torch.no_grad()
def _accuracy(network: Network, x: Array, y: Tensor, way: str) -> float:
    """Of a stream of batches; the network is left as it is."""
    rows = torch.from_numpy(x).float()
    if way == SOURCE:
        scores = network(rows)
    else:
        adapted = adapting(network, prior=0, guard=False) if way == NEW else adapting(network)
        blocks = list(torch.split(rows, BATCH))
        if len(blocks) > 1 and len(blocks[-1]) < BATCH:
            blocks[-2:] = [torch.cat(blocks[-2:])]  # a few rows left over would say nothing of their distribution
        scores = torch.cat([adapted(block) for block in blocks])
    return float((scores.argmax(1) == y).double().mean())


def _outcome(numbers: Shift, settings: dict[str, object]) -> Outcome:
    effects: list[Effect] = []
    for found, cases in ((numbers.usual, LOOKS), (numbers.dark, tuple(TINTS))):
        for case in cases:
            effects += _effects(found, case)
    sorted_lost, sorted_guarded = (
        _less(numbers.usual[SOURCE][SORTED], numbers.usual[way][SORTED]) for way in (NEW, GUARDED)
    )
    effects += [
        Effect(
            "sorted by label: accuracy lost by new statistics",
            sorted_lost,
            unit="points",
            asked=LOSES,
            direction="more than",
        ),
        Effect(
            "sorted by label: accuracy lost under the guard",
            sorted_guarded,
            unit="points",
            asked=LOSES,
            direction="at most",
        ),
    ]

    def path(found: dict[str, dict[str, tuple[float, ...]]], case: str) -> str:
        return f"{_mean(found[SOURCE][case]):.1%} to {_mean(found[NEW][case]):.1%} ({case})"

    kind = "" if numbers.are_pixels else ", shifts being made feature by feature since these are no pictures"
    finding = (
        f"Accuracy is {_mean(numbers.usual[SOURCE][CLEAN]):.1%} on rows as trained; new statistics take shifted "
        f"ones from {', '.join(path(numbers.usual, case) for case in LOOKS)}; trained on dark on light alone, from "
        f"{', '.join(path(numbers.dark, tint) for tint in TINTS)}; a stream sorted by label they ruin, from "
        f"{_mean(numbers.usual[SOURCE][SORTED]):.1%} to {_mean(numbers.usual[NEW][SORTED]):.1%}, unless guarded, "
        f"{_mean(numbers.usual[GUARDED][SORTED]):.1%}{kind}"
    )
    return Outcome(finding, tuple(effects), _charts(numbers), numbers, settings)


def _effects(found: dict[str, dict[str, tuple[float, ...]]], case: str) -> list[Effect]:
    lost = _less(found[SOURCE][CLEAN], found[SOURCE][case])
    gained = _less(found[NEW][case], found[SOURCE][case])
    short = _less(found[SOURCE][CLEAN], found[NEW][case])
    mends = case not in BEYOND
    return [
        Effect(f"{case}: accuracy lost", lost, unit="points", asked=LOSES, direction="more than"),
        Effect(
            f"{case}: accuracy gained by new statistics",
            gained,
            unit="points",
            asked=0.0 if mends else None,
            direction="more than",
        ),
        Effect(
            f"{case}: accuracy still lost with new statistics",
            short,
            unit="points",
            asked=None if mends else LOSES,
            direction="more than",
        ),
    ]


def _less(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(first, second, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _charts(numbers: Shift) -> tuple[Chart, ...]:
    accuracy = Axis("test accuracy", percent=True, bounds=(0.0, 1.02))

    def bars(found: dict[str, dict[str, tuple[float, ...]]], cases: Sequence[str]) -> Bars:
        drawn = []
        for way in WAYS:
            effects = [Effect(case, found[way][case]) for case in cases]
            heights, spreads = tuple(e.mean for e in effects), tuple(e.spread for e in effects)
            drawn.append(Bar(way, heights, spreads, ROLES[way]))
        return Bars(tuple(cases), accuracy, tuple(drawn))

    curves = tuple(
        Lines(
            Axis({"brightness": "added, in ranges", "contrast": "contrast lost", "noise": "noise, in ranges"}[case]),
            accuracy,
            tuple(
                over_seeds(
                    way,
                    numbers.strengths,
                    list(zip(*numbers.by_strength[way][case], strict=True)),
                    role=ROLES[way],
                )
                for way in WAYS
            ),
            levels=(Level(CONTRAST_LOST if case == "contrast" else STRENGTH, "what is asked about", upright=True),),
            marked=True,
            label=case,
        )
        for case in LOOKS[:3]
    )
    whiskers = "Mean over the seeds and standard deviation."
    return (
        Chart(
            "Accuracy on shifted rows",
            f"{whiskers} Under the guard the first two of the batches are judged by the source statistics.",
            (bars(numbers.usual, (CLEAN, *LOOKS)),),
        ),
        Chart(
            "Trained on dark on light alone",
            f"{whiskers} Another tint is a factor and an offset, which the first layer's new statistics take away; "
            "an inverted polarity turns the sign of z, which they cannot know.",
            (bars(numbers.dark, (CLEAN, *TINTS)),),
        ),
        Chart("Accuracy against the strength of the shift", "The band spans the seeds.", curves),
        Chart(
            "The counter-example: the same rows in another order",
            f"{whiskers} Sorted by label, a batch's statistics say which digit it holds, and take that away.",
            (bars(numbers.usual, (CLEAN, SORTED)),),
        ),
    )
