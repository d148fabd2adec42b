"""Learning the statistics of a matrix: InputNorm.fit beside scikit-learn's StandardScaler and beside reading it once.

    python -m benchmarks.input_norm [--megabytes 256] [--repeats 9]

The answer first: means and deviations must be those of float64 sums. Then all of them in another order each time,
medians and ratios. `sum` is torch's x.sum(0), which reads every value once and rounds as float32 does: the least that
anyone could need. Memory is what the process grows by at most while it fits, beyond the matrix.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from benchmarks.machine import append_row, line
from sklearn.preprocessing import StandardScaler

from batchnorm import InputNorm

COLUMNS = (13, 64, 784)


def main() -> None:
    """Print the table and keep a CSV row per case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    print(line())
    for columns in COLUMNS:
        measure(given.megabytes * 2**20 // (4 * columns), columns, given.repeats)


def measure(rows: int, columns: int, repeats: int) -> None:
    """One matrix, float32."""
    x = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    x += 5
    tensor = torch.from_numpy(x)
    before = _peak()
    norm = InputNorm(columns).fit(x)
    grown = _peak() - before
    _check(norm, x)
    rivals: dict[str, Callable[[], object]] = {
        "InputNorm": lambda: InputNorm(columns).fit(x),
        "StandardScaler": lambda: StandardScaler().fit(x),
        "sum": lambda: tensor.sum(0),
        "sum again": lambda: tensor.sum(0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    chance = random.Random(0)
    for _ in range(repeats):
        for name, fit in chance.sample(sorted(rivals.items()), len(rivals)):
            began = time.perf_counter()
            fit()
            seconds[name].append(time.perf_counter() - began)
    rate = {name: x.nbytes / 2**30 / statistics.median(times) for name, times in seconds.items()}
    print(f"\n{rows:,} x {columns}: GiB a second, median of {repeats}; InputNorm took {grown:.0f} MiB of memory")
    for name, value in rate.items():
        print(f"  {name:15s} {value:6.2f}   InputNorm is {rate['InputNorm'] / value:6.2f}x")
    row = {"rows": rows, "columns": columns, **{f"{name} GiB/s": round(value, 2) for name, value in rate.items()}}
    row["ratio to StandardScaler"] = round(rate["InputNorm"] / rate["StandardScaler"], 2)
    row["ratio to sum"] = round(rate["InputNorm"] / rate["sum"], 3)
    append_row("input_norm", row | {"MiB": round(grown)})


def _peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _check(norm: InputNorm, x: np.ndarray) -> None:
    """The same as sums in float64, column by column."""
    for c in range(x.shape[1]):
        column = x[:, c].astype(np.float64)
        np.testing.assert_allclose(float(norm.mean[c]), column.mean(), rtol=1e-13)
        np.testing.assert_allclose(float(norm.std[c]), column.std(), rtol=1e-11)


if __name__ == "__main__":
    main()
