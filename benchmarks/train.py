"""Training steps per second, a small and a wide network: this package, plain torch, JAX, scikit-learn, interleaved.

    python -m benchmarks.train [--repeats 15]

The answer first: before the clock starts, one step of ours must give the gradients that autograd gives on the same
network in plain torch. Then A B C A B C ..., medians, ratios, and plain torch against itself for the noise.
Plain torch is what most people write: nn.Sequential, nn.BatchNorm1d, default SGD, indexing tensors in memory.
JAX, where it is installed, compiles the whole step into one program, rows chosen inside it (benchmarks.train_jax).
scikit-learn has no batch normalization: its MLPClassifier is the same network without, plain SGD, one epoch a time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from benchmarks.machine import append_row, line
from sklearn.neural_network import MLPClassifier
from torch import nn

from batchnorm.training.assemble import Assembly, Examples, assemble
from batchnorm.training.settings import Settings
from batchnorm.training.threads import suited_to

_PAUSE = 0.2  # seconds between rivals
CLASSES, FEATURES, RATE = 10, 784, 0.1
CASES = {"3x100, batch 60": ((100, 100, 100), 60, 200), "3x512, batch 256": ((512, 512, 512), 256, 25)}


def main() -> None:
    """Print the table and keep a CSV row per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(line())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6000, FEATURES)).astype(np.float32)
    y = rng.integers(0, CLASSES, 6000)
    for name, (hidden, batch, steps) in CASES.items():
        ours, plain = _assembled(x, y, hidden, batch), _plain(hidden)
        _check(ours, plain, batch)
        rivals: dict[str, Callable[[], None]] = {
            "batchnorm": _our_steps(ours, steps, batch),
            "plain torch": _plain_steps(plain, x, y, batch, steps),
            "plain torch again": _plain_steps(_plain(hidden), x, y, batch, steps),
            "scikit-learn": _sklearn_steps(x, y, hidden, batch, steps),
        }
        if find_spec("jax") is not None:
            from benchmarks.train_jax import jax_steps

            rivals["JAX jit"] = jax_steps(x, y, (FEATURES, *hidden, CLASSES), batch, steps, rate=RATE)
        seconds = _measure(rivals, repeats)
        rate = {rival: steps / statistics.median(times) for rival, times in seconds.items()}
        print(f"\n{name}: steps per second, median of {repeats}")
        for rival, value in rate.items():
            print(f"  {rival:18s} {value:8.0f}   ours is {rate['batchnorm'] / value:5.2f}x")
        row: dict[str, Any] = {f"{rival} steps/s": round(value, 1) for rival, value in rate.items()}
        row.setdefault("JAX jit steps/s", "")
        ratio = round(rate["batchnorm"] / rate["plain torch"], 3)
        append_row("train", {"case": name, **row, "ratio to plain torch": ratio})


def _measure(rivals: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    for steps in rivals.values():
        steps()
    seconds: dict[str, list[float]] = {rival: [] for rival in rivals}
    chance = random.Random(0)
    for _ in range(repeats):
        # In another order each time, with a pause: scikit-learn's threads go on spinning for a while after their work,
        # and whoever always came next would pay for them.
        for rival, steps in chance.sample(sorted(rivals.items()), len(rivals)):
            time.sleep(_PAUSE)
            began = time.perf_counter()
            steps()
            seconds[rival].append(time.perf_counter() - began)
    return seconds


def _assembled(x: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], batch: int) -> Assembly:
    settings = Settings(
        hidden=hidden,
        batch_size=batch,
        optimizer="gd",
        learning_rate=RATE,
        input_norm=False,
        steps=10**9,
        patience=None,
    )
    return assemble(Examples(x, y), None, settings, task="classification", outputs=CLASSES)


def _our_steps(assembly: Assembly, steps: int, batch: int) -> Callable[[], None]:
    assembly.network.train()

    def run() -> None:
        with suited_to(assembly.network, batch):
            for _ in range(steps):
                assembly.run.step()

    return run


def _plain(hidden: tuple[int, ...]) -> nn.Sequential:
    sizes, layers = (FEATURES, *hidden), []
    for inputs, outputs in zip(sizes, hidden, strict=False):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES))


def _plain_steps(network: nn.Sequential, x: np.ndarray, y: np.ndarray, batch: int, steps: int) -> Callable[[], None]:
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimizer, loss_of = torch.optim.SGD(network.parameters(), lr=RATE), nn.CrossEntropyLoss()

    def run() -> None:
        order = torch.randperm(len(rows))
        for step in range(steps):
            start = step * batch % (len(rows) - batch)
            chosen = order[start : start + batch]
            optimizer.zero_grad()
            loss_of(network(rows[chosen]), labels[chosen]).backward()
            optimizer.step()

    return run


def _sklearn_steps(x: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], batch: int, steps: int) -> Callable[[], None]:
    rows = batch * steps  # partial_fit passes once over what it is given
    model = MLPClassifier(hidden, solver="sgd", momentum=0.0, learning_rate_init=RATE, batch_size=batch, alpha=0.0)
    repeated = np.resize(np.arange(len(x)), rows)
    xs, ys = x[repeated], y[repeated]

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it did not converge, nor was it asked to
            model.partial_fit(xs, ys, classes=np.arange(CLASSES))

    return run


def _check(ours: Assembly, plain: nn.Sequential, batch: int) -> None:
    """Same weights, same batch: the same gradients, to float32 rounding."""
    network, rows = ours.network, ours.run.train
    linears = [m for m in plain if isinstance(m, nn.Linear)]
    mine = [*(layer.linear for layer in network.layers), network.head]
    with torch.no_grad():
        for theirs, own in zip(linears, mine, strict=True):
            theirs.weight.copy_(own.weight)
        linears[-1].bias.copy_(network.head.bias)
    x, y = rows.x[:batch], rows.y[:batch]
    network.train()
    ours.run.formulas.gradients(x, y, counts=None, weights=None)
    nn.CrossEntropyLoss()(plain(x), y).backward()
    for theirs, own in zip(linears, mine, strict=True):
        torch.testing.assert_close(own.weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main()
