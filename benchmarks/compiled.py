"""Whole networks under torch.compile: a training step with this package's layers and with torch's, eager and compiled.

    python -m benchmarks.compiled [--seconds 15]

A compiled graph costs some hundred microseconds to call, whatever is in it; so networks are compiled as a whole, as
people do. The same weights throughout; gradients of the compiled network must be the eager one's before the clock
starts. Random order, medians.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from benchmarks.clock import medians
from benchmarks.machine import append_row, line
from benchmarks.resnet import check, step
from tests.surgery.libraries import loaded
from torch import nn
from torch._inductor.utils import fresh_cache

import batchnorm


def main() -> None:
    """Print a line and keep a CSV row for each network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="per network")
    seconds = parser.parse_args().seconds
    print(line())
    print("ours eager over ours compiled; torch's layers compiled over ours compiled, and eager over ours eager")
    for name, model, x in networks():
        y = torch.randint(0, 10, (len(x),))
        with fresh_cache():  # a kept one may hold graphs of other operators than these
            found = medians(rivals(model, x, y), seconds=seconds)
        row = {
            "case": name,
            "ours: eager / compiled": round(found["ours"] / found["ours compiled"], 3),
            "compiled: torch's / ours": round(found["torch's compiled"] / found["ours compiled"], 3),
            "eager: torch's / ours": round(found["torch's"] / found["ours"], 3),
            "control": round(found["ours again"] / found["ours"], 3),
        }
        print(f"  {', '.join(f'{what} {value}' for what, value in row.items())}", flush=True)
        append_row("compiled", row)


def networks() -> list[tuple[str, nn.Module, torch.Tensor]]:
    """With torch's layers."""
    torch.manual_seed(0)
    return [
        ("1 x 100, batch 64", perceptron(100, 1), torch.randn(64, 100)),
        ("20 x 100, batch 64", perceptron(100, 20), torch.randn(64, 100)),
        ("5 x 512, batch 256", perceptron(512, 5), torch.randn(256, 512)),
        ("ResNet-18, batch 8 at 64 x 64", loaded("torchvision").models.resnet18(), torch.randn(8, 3, 64, 64)),
    ]


def perceptron(width: int, depth: int) -> nn.Module:
    """Linear, BatchNorm1d, ReLU, `depth` times, and a head."""
    hidden = [
        part for _ in range(depth) for part in (nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def rivals(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, Callable[[], object]]:
    """A training step of each."""
    torch._dynamo.reset()  # it stops compiling after a number of networks
    ours = copy.deepcopy(model)
    batchnorm.convert(ours)
    compiled = {name: torch.compile(copy.deepcopy(m)) for name, m in (("torch's", model), ("ours", ours))}
    for network in (ours, *compiled.values()):
        check(copy.deepcopy(model), network, x, y)
    return {
        "torch's": step(model, x, y),
        "torch's compiled": step(compiled["torch's"], x, y),
        "ours": step(ours, x, y),
        "ours again": step(ours, x, y),
        "ours compiled": step(compiled["ours"], x, y),
    }


if __name__ == "__main__":
    main()
