"""Prediction: one row in process, a batch, the whole command for one row, and lines per second through it.

    python -m benchmarks.prediction [--repeats 101] [--tiles]

The answer first: before the clock starts, our scores must be torch's to float32 rounding, a row must get the same bits
alone and in a batch, and the command must print what the library says. Rivals take turns in random order; medians,
ratios. Three rivals for one row, in evaluation mode under torch.inference_mode, one thread: the network as it was
trained, in this package's layers; the same work in torch.nn's layers; and torch's best case, these layers on a row in
float32 that somebody has normalized already.

--tiles shows why a tile of the product is one row (`predictor/product.py`): the same product in tiles of more rows, as
the time of a row alone and of a row within a batch, and whether a row's bits depend on its place or on threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from benchmarks.machine import append_row, line
from threadpoolctl import threadpool_limits
from torch import nn

from batchnorm.data.column import Column, Target
from batchnorm.data.schema import Schema
from batchnorm.model_file import ModelFile, write_model_file
from batchnorm.nn import InputNorm
from batchnorm.predictor import Predictor
from batchnorm.training.assemble import network_spec, network_tensors
from batchnorm.training.network import Network
from batchnorm.training.settings import Settings

CASES = {
    "13-64-3": (13, (64,), 3),
    "13-32-16-3": (13, (32, 16), 3),
    "13-100-100-100-3": (13, (100, 100, 100), 3),
    "784-100-100-100-10": (784, (100, 100, 100), 10),
}
STREAMED = "13-100-100-100-3"
LINES, BATCH = 60_000, 4096

Micro: TypeAlias = dict[str, float]
"""Microseconds by rival."""


def main() -> None:
    """Print the tables and keep CSV rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=101)
    parser.add_argument("--tiles", action="store_true", help="Tiles of more rows than one, and nothing else.")
    arguments = parser.parse_args()
    print(line())
    torch.set_num_threads(1)
    if arguments.tiles:
        _tiles(arguments.repeats)
        return
    for name, sizes in CASES.items():
        _in_process(name, sizes, arguments.repeats)
    _as_command(arguments.repeats // 5)


def _in_process(name: str, sizes: tuple[int, tuple[int, ...], int], repeats: int) -> None:
    network, predictor, x = _case(*sizes)
    bare = _bare(network)
    row, record = x[:1], dict(zip(predictor.schema.names, x[0].tolist(), strict=True))
    tensor = torch.from_numpy(row).float()
    assert network.input_norm is not None
    with torch.inference_mode():
        normalized = network.input_norm(torch.from_numpy(x)).float()
        together = predictor.decision_scores(x)
        np.testing.assert_allclose(together, network(torch.from_numpy(x).float()).numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(together, bare(normalized).numpy(), rtol=1e-4, atol=1e-4)
        assert all(predictor.decision_scores(x[i : i + 1]).tobytes() == together[i].tobytes() for i in range(100))
        first, raw = normalized[:1].clone(), torch.from_numpy(row)
        mean, std = network.input_norm.mean, network.input_norm.std
        rivals: dict[str, tuple[Callable[[], object], int]] = {
            "scores": (lambda: predictor.decision_scores(row), 50),
            "class": (lambda: predictor.predict(row), 50),
            "class and probabilities": (lambda: predictor.predictions(row), 50),
            "class and probabilities of a dict": (lambda: predictor.predict_records([record]), 50),
            "the trained network": (lambda: network(tensor), 10),
            "torch.nn": (lambda: bare(((raw - mean) / std).float()), 50),
            "torch.nn, normalized row": (lambda: bare(first), 50),
            "scores, batch": (lambda: predictor.decision_scores(x), 1),
            "torch.nn, batch": (lambda: bare(normalized), 1),
        }
        medians, fastest = _measure(rivals, repeats)
    print(
        f"\n{name}: microseconds for one row, median of {repeats} and fastest; times what scores take; load {_load()}"
    )
    for rival in [r for r in rivals if "batch" not in r]:
        ratios = medians[rival] / medians["scores"], fastest[rival] / fastest["scores"]
        print(f"  {rival:36s} {medians[rival]:8.1f} {fastest[rival]:8.1f}   {ratios[0]:5.1f} {ratios[1]:5.1f}")
    for rival in ("scores, batch", "torch.nn, batch"):
        medians[rival] /= BATCH
        print(f"  {rival:36s} {medians[rival]:8.2f} {fastest[rival] / BATCH:8.2f}   a row of {BATCH}")
    numbers = {f"{rival} us": round(value, 2) for rival, value in medians.items()}
    for rival, short in (
        ("the trained network", "trained network"),
        ("torch.nn", "torch.nn"),
        ("torch.nn, normalized row", "torch.nn normalized"),
    ):
        numbers[f"{short} / scores"] = round(medians[rival] / medians["scores"], 2)
        numbers[f"{short} / scores, fastest"] = round(fastest[rival] / fastest["scores"], 2)
    append_row("prediction", {"case": name, "load": _load(), **numbers})


def _as_command(repeats: int) -> None:
    """The whole process, from its start to its end, for one line and for many."""
    _, predictor, x = _case(*CASES[STREAMED])
    records = [dict(zip(predictor.schema.names, row, strict=True)) for row in np.round(x, 4).tolist()]
    with tempfile.TemporaryDirectory() as folder:
        model, one, many = (Path(folder) / name for name in ("m.safetensors", "one.jsonl", "many.jsonl"))
        write_model_file(model, predictor.model_file)
        texts = [json.dumps(record) + "\n" for record in records]
        one.write_text(texts[0])
        many.write_text("".join(texts[number % BATCH] for number in range(LINES)))
        answers = [json.loads(answer) for answer in _run(model, many).splitlines()]
        assert [answer["prediction"] for answer in answers[:BATCH]] == predictor.predict_records(
            records
        ).values.tolist()
        seconds: dict[str, list[float]] = {"one": [], "many": [], "one, processor": [], "many, processor": []}
        for _ in range(repeats):
            for name, lines in (("one", one), ("many", many)):
                began, before = time.perf_counter(), os.times()
                _run(model, lines)
                seconds[name].append(time.perf_counter() - began)
                seconds[f"{name}, processor"].append(_spent(before, os.times()))
    start, best = statistics.median(seconds["one"]), min(seconds["one"])
    whole = statistics.median(seconds["many"])
    print(f"\nbatchnorm predict, {STREAMED}, whole processes, median of {repeats}, load {_load()}")
    busy, busy_many = (statistics.median(seconds[f"{name}, processor"]) for name in ("one", "many"))
    print(f"  one line: {start:.3f} s, fastest {best:.3f} s, of a processor {busy:.3f} s")
    print(f"  {LINES:,} lines: {whole:.2f} s, {LINES / whole:,.0f} a second; of a processor {LINES / busy_many:,.0f}")
    numbers = {
        "one line s": round(start, 4),
        "one line s, fastest": round(best, 4),
        "one line s, processor": round(busy, 4),
        "lines/s": round(LINES / whole),
        "lines/s, processor": round(LINES / busy_many),
    }
    append_row("prediction_command", {"case": STREAMED, "load": _load(), **numbers})


def _spent(before: os.times_result, after: os.times_result) -> float:
    """Processor seconds of the processes that ended in between: on a busy machine, what is left to compare."""
    return after.children_user + after.children_system - before.children_user - before.children_system


def _tiles(repeats: int) -> None:
    rng = np.random.default_rng(0)
    for features, outputs in ((13, 32), (100, 100), (784, 33), (784, 100)):
        weight = rng.standard_normal((outputs, features)).astype(np.float32).T
        rivals: dict[str, tuple[Callable[[], object], int]] = {}
        kinds = {}  # of bits that one row gets
        for rows in (1, 2, 4, 6, 8, 16, 32, 64):
            tile = np.zeros((1, rows, features), np.float32)
            batch = rng.standard_normal((960 // rows, rows, features)).astype(np.float32)
            rivals[f"{rows} alone"] = (partial(np.matmul, tile, weight), 100)
            rivals[f"{rows} batch"] = (partial(np.matmul, batch, weight), 1)
            same, found = np.repeat(batch[:1, :1], rows, axis=1), set()
            for threads in (1, 2, 3):
                with threadpool_limits(threads, "blas"):
                    found |= {row.tobytes() for row in np.matmul(same, weight)[0]}
            kinds[rows] = len(found)
        with threadpool_limits(1, "blas"):
            micro, _ = _measure(rivals, repeats)
        print(
            f"\n{features} x {outputs}, float32, one thread: microseconds of a row alone, of a row within a batch; how"
        )
        print("many results the same row gets at other places of its tile and with other numbers of threads")
        for rows, count in kinds.items():
            in_batch = micro[f"{rows} batch"] / (960 // rows * rows)
            print(f"  tile of {rows:2d}  {micro[f'{rows} alone']:8.2f} {in_batch:8.3f}   {count}")


def _measure(rivals: dict[str, tuple[Callable[[], object], int]], repeats: int) -> tuple[Micro, Micro]:
    """Microseconds of one call, median and fastest of `repeats` turns of so many calls, in another order each time."""
    seconds: dict[str, list[float]] = {rival: [] for rival in rivals}
    chance = random.Random(0)
    for _ in range(repeats):
        for rival, (call, calls) in chance.sample(list(rivals.items()), len(rivals)):
            call()  # what the rival before has pushed out of the cache comes back
            began = time.perf_counter()
            for _ in range(calls):
                call()
            seconds[rival].append((time.perf_counter() - began) / calls)
    medians = {rival: 1e6 * statistics.median(times) for rival, times in seconds.items()}
    return medians, {rival: 1e6 * min(times) for rival, times in seconds.items()}


def _case(features: int, hidden: tuple[int, ...], outputs: int) -> tuple[Network, Predictor, np.ndarray]:
    """A network whose statistics come from rows, its predictor, and rows to predict (BATCH, features) float64."""
    x = np.random.default_rng(0).normal(5.0, 3.0, (BATCH, features))
    settings = Settings(hidden=hidden)
    norm = InputNorm(features)
    norm.partial_fit(torch.from_numpy(x))
    network = Network(features, outputs, settings, input_norm=norm)
    with torch.no_grad():
        for start in range(0, BATCH, 256):
            network(torch.from_numpy(x[start : start + 256]).float())
    network.eval()
    columns = tuple(Column(f"column {number}", "number", fill=5.0) for number in range(features))
    schema = Schema(columns, Target("kind", "class", tuple(f"class {number}" for number in range(outputs))))
    file = ModelFile(network_tensors(network, None), network_spec(network, settings), schema, {})
    return network, Predictor(file), x


def _bare(network: Network) -> nn.Sequential:
    """The network after the normalization of its inputs, in torch.nn's own layers."""
    layers: list[nn.Module] = []
    for layer in network.layers:
        outputs, inputs = layer.linear.weight.shape
        linear, norm = nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, eps=layer.norm.eps)
        linear.load_state_dict(layer.linear.state_dict())
        norm.load_state_dict(layer.norm.state_dict())
        layers += [linear, norm, nn.ReLU()]
    return nn.Sequential(*layers, network.head).eval()


def _run(model: Path, lines: Path) -> bytes:
    with lines.open("rb") as stdin:
        command = [sys.executable, "-m", "batchnorm", "predict", str(model), "-"]
        return subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, check=True).stdout


def _load() -> float:
    return round(os.getloadavg()[0], 2)


if __name__ == "__main__":
    main()
