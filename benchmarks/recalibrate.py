"""recalibrate beside torch's update_bn: what one more batch costs, on torch's layers and on this package's.

    python -m benchmarks.recalibrate [--seconds 20]

The answer first: both must find the same average of batches, on a network without dropout. Then both over few batches
and over many, in random order, process time, medians; what a batch costs is the difference by the number of batches
between. What a run costs besides its batches (the record, with its standard errors, and the guard around the model) is
printed apart. update_bn runs on torch's layers alone: it sets momentum=None.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from benchmarks.machine import append_row, line
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from batchnorm import convert, recalibrate

FEW = 4


@dataclass(frozen=True)
class Case:
    """A network, the shape of a batch, and how many batches make a long run."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    many: int


def perceptron() -> nn.Module:
    """6 x 64, ReLU."""
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def convolutions() -> nn.Module:
    """Four blocks, 16 to 64 channels."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 32, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


CASES = (
    Case("6x64, batch 4", perceptron, (4, 64), 600),
    Case("6x64, batch 64", perceptron, (64, 64), 600),
    Case("4 conv, 16x3x16x16", convolutions, (16, 3, 16, 16), 80),
    Case("4 conv, 64x3x32x32", convolutions, (64, 3, 32, 32), 12),
)


def main() -> None:
    """Print the table and keep a CSV row per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of measuring each case")
    given = parser.parse_args()
    print(line())
    for case in CASES:
        measure(case, given.seconds)


def measure(case: Case, seconds: float) -> None:
    """One case: the answer, then the clock."""
    torch.manual_seed(0)
    theirs = case.make()
    ours = copy.deepcopy(theirs)
    convert(ours)
    batches = list(torch.randn(case.many, *case.shape).unbind(0))
    check(theirs, batches[:FEW])
    rivals: dict[str, Callable[[list[Tensor]], object]] = {
        "update_bn": lambda some: update_bn(some, theirs),
        "recalibrate, torch.nn": lambda some: recalibrate(theirs, some, progress=False),
        "recalibrate, batchnorm": lambda some: recalibrate(ours, some, progress=False),
    }
    each, besides = per_batch(rivals, batches, seconds)
    print(f"\n{case.name}: microseconds a batch; besides, milliseconds a run")
    for name in rivals:
        ratio = each[name] / each["update_bn"]
        print(f"  {name:24s} {1e6 * each[name]:9.1f}   {ratio:5.2f}x update_bn   {1e3 * besides[name]:6.2f}")
    row: dict[str, object] = {"case": case.name}
    for name in rivals:
        row[f"{name} us"] = round(1e6 * each[name], 1)
    row["ratio on torch.nn"] = round(each["recalibrate, torch.nn"] / each["update_bn"], 3)
    row["ratio on batchnorm"] = round(each["recalibrate, batchnorm"] / each["update_bn"], 3)
    append_row("recalibrate", row)


def per_batch(
    rivals: dict[str, Callable[[list[Tensor]], object]], batches: list[Tensor], seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Median process time of one more batch, and of a run without any."""
    taken: dict[tuple[str, int], list[float]] = {(name, n): [] for name in rivals for n in (FEW, len(batches))}
    chance, end = random.Random(0), time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < end or rounds < 7:
        for name, n in chance.sample(sorted(taken), len(taken)):
            began = time.process_time()
            rivals[name](batches[:n])
            taken[name, n].append(time.process_time() - began)
        rounds += 1
    middle = {key: statistics.median(times[1:]) for key, times in taken.items()}
    many = len(batches)
    each = {name: (middle[name, many] - middle[name, FEW]) / (many - FEW) for name in rivals}
    return each, {name: middle[name, FEW] - FEW * each[name] for name in rivals}


def check(model: nn.Module, batches: list[Tensor]) -> None:
    """Both must find the plain average of batches."""
    theirs, ours = copy.deepcopy(model), copy.deepcopy(model)
    update_bn(batches, theirs)
    recalibrate(ours, batches, statistics="average", progress=False)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
