"""Speed, drift, landscape, test time and shift on binarized MNIST: the paper's network, 50,000 steps of 60 rows.

    python -m benchmarks.lab_mnist [--data FOLDER] [--steps 50000] [--seeds 3] [--only drift,shift]

FOLDER holds the four IDX files of MNIST, .gz or not; by default it is $BATCHNORM_MNIST, or else ../shared/data/mnist
beside this repository. Where they are not there, this says so and ends with 1. Rows of a full run are kept in
results/lab_mnist.csv, which `make bench` renders; fewer steps only show that it works. Full, it takes an
hour or two on one core.

60,000 images train and 2,000 of the 10,000 test images judge; a pixel is 1 from 128 on, as the paper binarizes them.
All but shift normalize each pixel by the training images, as the laboratory does everywhere; speed_raw takes them as
they are, as the paper does. The landscape is that of 8 layers of 100 ReLU. Speed is that of rate 0.5: steps to 90, 95
and 97 %, looked at every 50.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.machine import append_row, line

from batchnorm.data import Prepared, prepare
from batchnorm.lab.bench import Bench
from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds
from batchnorm.lab.experiment import seeds_of
from batchnorm.lab.material import Material
from batchnorm.lab.questions import drift, landscape, shift, test_time
from batchnorm.lab.record import Effect, Outcome, verdict_of
from batchnorm.lab.trial import PAPER, twins
from batchnorm.lab.watch import Watch
from batchnorm.training.threads import one_thread

FULL_STEPS = 50_000
GOALS = (0.9, 0.95, 0.97)
ASKED_AT = 0.95  # five times as many steps without
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def main() -> None:
    """Print what is found, and keep a CSV row per quantity of a full run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the four IDX files")
    parser.add_argument("--steps", type=int, default=FULL_STEPS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"some of {','.join(EXPERIMENTS)}")
    given = parser.parse_args()
    names = [name for name in given.only.split(",") if name] or list(EXPERIMENTS)
    unknown = sorted(set(names) - set(EXPERIMENTS))
    if unknown:
        parser.error(f"--only expected some of {', '.join(EXPERIMENTS)}, got {', '.join(unknown)}")
    folder = given.data or Path(os.environ.get("BATCHNORM_MNIST") or _beside())
    material = Mnist(*(_file(folder, name) for name in FILES))
    print(line())
    seeds = seeds_of(given.seeds)
    with one_thread():
        for name in names:
            began = time.perf_counter()
            outcome = EXPERIMENTS[name](Bench(material, seeds, False, Dots()), given.steps)
            minutes = (time.perf_counter() - began) / 60
            print(f"\n{name}: {verdict_of(outcome.effects)}, {minutes:.1f} minutes\n{outcome.finding}.", flush=True)
            for effect in outcome.effects:
                _say(name, effect, given.steps, seeds)
    if given.steps != FULL_STEPS:
        print(f"\nnothing is kept: these were {given.steps} steps, not {FULL_STEPS}")


def _beside() -> Path:
    return Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mnist"


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    sys.exit(
        f"benchmarks.lab_mnist expected MNIST's {name}.gz in {folder}, which is not there: give the folder of the four "
        "IDX files by --data or BATCHNORM_MNIST"
    )


class Mnist(Material):
    """The usual split: 60,000 images to train on, whatever the seed, which then decides weights and order alone."""

    def __init__(self, images: Path, labels: Path, test_images: Path, test_labels: Path) -> None:
        super().__init__(images)
        found = prepare(
            images, labels=labels, test=test_images, test_labels=test_labels, validation_fraction=0.0, seed=0
        )
        self._binarized = replace(found, x_train=_binarized(found.x_train), x_test=_binarized(found.x_test))

    def of(self, seed: int) -> Prepared:
        """The same rows for every seed."""
        return self._binarized


def _binarized(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (x >= 128).astype(np.float32)


class Dots(Watch):
    """A dot on standard error for every case."""

    def advanced(self) -> None:
        """One case is done."""
        print(".", end="", file=sys.stderr, flush=True)


def speed(bench: Bench, steps: int, *, input_norm: bool = True) -> Outcome:
    """The paper's figure 1a: test accuracy over the steps, with and without."""
    every = max(1, min(50, steps // 20))
    at = tuple(range(every, steps + 1, every))
    curves: dict[bool, list[list[float]]] = {True: [], False: []}
    for seed in bench.seeds:
        for normalized, settings in bench.each(twins(replace(PAPER, input_norm=input_norm))):
            trial = bench.trial(settings, seed)
            curves[normalized].append([trial.judge()[1] for step in trial.steps(steps) if step % every == 0])
    effects = []
    for goal in GOALS:
        arrivals = {
            kind: [next((s for s, a in zip(at, curve, strict=True) if a >= goal), math.inf) for curve in found]
            for kind, found in curves.items()
        }
        late = sum(map(math.isinf, arrivals[False]))
        effects.append(
            Effect(
                f"steps to {goal:.0%} without, divided by those with",
                tuple(
                    min(b, steps) / a if a < math.inf else math.nan
                    for a, b in zip(arrivals[True], arrivals[False], strict=True)
                ),
                unit="times",
                asked=5.0 if goal == ASKED_AT else None,
                note=f"a lower bound: {late} never got there" if late else "",
            )
        )
    effects += [
        Effect(f"test accuracy at the end {said}", tuple(curve[-1] for curve in curves[kind]), unit="share")
        for kind, said in ((True, "with normalization"), (False, "without"))
    ]
    reached = [
        f"{effect.mean:.1f} times as many steps to {goal:.0%}"
        for goal, effect in zip(GOALS, effects, strict=False)
        if math.isfinite(effect.mean)
    ]
    took = ", ".join(reached) or "more steps than there were"
    finding = (
        f"Without normalization it takes {took}; it ends at {effects[-1].mean:.2%}, with it at {effects[-2].mean:.2%}"
    )
    lines = Lines(Axis("step"), Axis("test accuracy", percent=True), (over_seeds("with", at, curves[True]),))
    return Outcome(finding, tuple(effects), (Chart("Accuracy", "", (lines,)),), at)


EXPERIMENTS: dict[str, Callable[[Bench, int], Outcome]] = {
    "speed": speed,
    "speed_raw": lambda bench, steps: speed(bench, steps, input_norm=False),
    "drift": lambda bench, steps: drift.measure(bench, steps=steps),
    "landscape": lambda bench, steps: landscape.measure(bench, steps=steps),
    "test_time": lambda bench, steps: test_time.measure(bench, steps=steps),
    "shift": lambda bench, steps: shift.measure(bench, steps=steps),
}


def _say(name: str, effect: Effect, steps: int, seeds: Sequence[int]) -> None:
    row = {
        "claim": name,
        "what": effect.what,
        "mean": f"{effect.mean:.4g}",
        "spread": f"{effect.spread:.2g}",
        "asked": "" if effect.asked is None else f"{effect.direction} {effect.asked:g}",
        "verdict": effect.verdict or "",
        "note": effect.note,
        "seeds": len(seeds),
        "steps": steps,
    }
    print(f"  {row['what']}: {row['mean']} ± {row['spread']}  {row['asked']}  {row['verdict']}")
    if steps == FULL_STEPS:
        append_row("lab_mnist", row)


if __name__ == "__main__":
    main()
