"""Made-up records with the shapes of real runs: nothing is trained here, the numbers only look as if."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from batchnorm.training.record import (
    Confusion,
    Curve,
    LayerStatistics,
    LayerTrace,
    Record,
    Residuals,
    Run,
    SinglePrediction,
)

NAN, INFINITE = float("nan"), float("inf")
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> <b>%{x}</b> \"'&amp;`${1}"

Norm = Literal["batch"] | None


def classification_record(
    *,
    layers: int = 3,
    neurons: int = 100,
    classes: tuple[str, ...] = tuple("0123456789"),
    twin: bool = True,
    seed: int = 0,
) -> Record:
    """Like the paper's network on scanned digits: fast with normalization, stuck for long without."""
    draw = np.random.default_rng(seed)
    runs = [_classifier(draw, "batch", layers, neurons, classes)]
    if twin:
        runs.append(_classifier(draw, None, layers, neurons, classes))
    return Record(
        title="Digits: 3 × 100 sigmoid, batch 60",
        data_name="digits",
        rows_train=1293,
        rows_valid=144,
        rows_test=360,
        features=64,
        task="classification",
        metric_name="accuracy",
        target_name="digit",
        goal=0.95,
        runs=tuple(runs),
        singles=tuple(
            SinglePrediction(row, classes[a % len(classes)], classes[b % len(classes)], p)
            for row, a, b, p in ((3, 7, 7, 0.9982), (121, 3, 9, 0.5127), (288, 0, 0, 0.98))
        ),
        settings={
            "hidden": (neurons,) * layers,
            "activation": "sigmoid",
            "placement": "before",
            "norm": "batch",
            "input norm": False,
            "batch size": 60,
            "optimizer": "sgd",
            "learning rate": 0.5,
            "momentum": 0.1,
            "eps": 1e-5,
            "dropout": 0.0,
            "weight decay": 0.0,
            "class weight": None,
            "device": "cpu",
        },
        versions={"batchnorm": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.1", "polars": "1.35.2"},
        seed=seed,
    )


def regression_record(*, seed: int = 0) -> Record:
    """Like house prices: R2, residuals, no goal; both networks learn, one sooner."""
    draw = np.random.default_rng(seed)
    true = np.exp(draw.normal(12.0, 0.5, 1500))
    runs = tuple(_regressor(draw, norm, true) for norm in _NORMS)
    return Record(
        title="California house prices",
        data_name="housing.csv",
        rows_train=14860,
        rows_valid=1652,
        rows_test=4128,
        features=15,
        task="regression",
        metric_name="R2",
        target_name="median_house_value",
        goal=None,
        runs=runs,
        singles=(
            SinglePrediction(12, "342200", "331804.4", None),
            SinglePrediction(1873, "112500", "140911.9", None),
            SinglePrediction(4001, "67000", "66120.3", None),
        ),
        settings={"hidden": (100, 100), "activation": "relu", "optimizer": "adam", "learning rate": 0.001},
        versions={"batchnorm": "0.1.0", "torch": "2.13.0"},
        seed=seed,
    )


def diverged_record() -> Record:
    """Without normalization the loss grows over all bounds and ends as no number, and nothing after it is one."""
    record = classification_record()
    main, twin = record.runs
    steps = twin.curve.steps
    alive = len(steps) // 4
    curve = Curve(
        steps=steps,
        seconds=twin.curve.seconds,
        train_loss=tuple(
            2.3 * 10.0 ** (i * i / 8) if i < alive else (INFINITE if i == alive else NAN) for i in range(len(steps))
        ),
        valid_loss=tuple(2.3 * 10.0 ** (i * i / 7) if i < alive else NAN for i in range(len(steps))),
        valid_metric=tuple(0.1 if i < alive else NAN for i in range(len(steps))),
    )
    traces = tuple(
        replace(trace, p15=_broken(trace.p15, -1), p50=_broken(trace.p50, 0.1), p85=_broken(trace.p85, 1))
        for trace in twin.traces
    )
    broken = replace(twin, curve=curve, traces=traces, test_metric=0.1, test_loss=NAN, best_step=0)
    return replace(record, runs=(main, broken))


def broken_main_record() -> Record:
    """A single run with normalization whose every number is lost."""
    record = classification_record(layers=1, neurons=3, twin=False)
    run = record.runs[0]
    lost = (NAN, INFINITE, -INFINITE)
    statistics = (LayerStatistics("layer 1", lost, lost, lost, lost, lost, lost),)
    curve = replace(run.curve, train_loss=(NAN,) * len(run.curve.steps), valid_metric=(NAN,) * len(run.curve.steps))
    traces = tuple(
        replace(t, p15=(NAN,) * len(t.steps), p50=(NAN,) * len(t.steps), p85=(INFINITE,) * len(t.steps))
        for t in run.traces
    )
    broken = replace(
        run,
        curve=curve,
        statistics=statistics,
        traces=traces,
        test_metric=NAN,
        test_loss=NAN,
        test_metric_batch_statistics=NAN,
    )
    return replace(record, runs=(broken,))


def hostile_record() -> Record:
    """Every text that a user's file can bring tries to leave its place."""
    record = classification_record(layers=1, neurons=5, classes=(HOSTILE, HOSTILE + "2", "$x^2$", "2024-01-01", "1e3"))
    runs = tuple(
        replace(
            run,
            label=f"{run.label} {HOSTILE}",
            traces=tuple(replace(trace, name=HOSTILE) for trace in run.traces),
            statistics=tuple(replace(layer, name=HOSTILE) for layer in run.statistics),
        )
        for run in record.runs
    )
    return replace(
        record,
        title=HOSTILE,
        data_name=HOSTILE,
        target_name=HOSTILE,
        metric_name=HOSTILE,
        runs=runs,
        settings={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE, "\ud800"]}},
        versions={HOSTILE: HOSTILE},
    )


def hostile_regression_record() -> Record:
    """The same where the target is a number."""
    record = regression_record()
    singles = (SinglePrediction(0, HOSTILE, HOSTILE, None),)
    return replace(record, target_name=HOSTILE, metric_name=HOSTILE, singles=singles)


def one_evaluation_record() -> Record:
    """A run stopped after its first evaluation."""
    record = classification_record(layers=1, neurons=1, classes=("no", "yes"))
    runs = tuple(
        replace(
            run,
            curve=Curve((10,), (0.01,), (0.7,), (0.69,), (0.5,)),
            traces=tuple(LayerTrace(t.name, (10,), (-1.0,), (0.0,), (1.0,)) for t in run.traces),
            steps=10,
            best_step=10,
            steps_to_goal=None,
        )
        for run in record.runs
    )
    return replace(record, runs=runs)


def bare_record() -> Record:
    """Logistic regression: no hidden layer, no twin, no curve, nothing kept about the test rows."""
    run = replace(
        classification_record(twin=False).runs[0],
        curve=Curve(),
        traces=(),
        statistics=(),
        test_metric_batch_statistics=None,
        steps_to_goal=None,
        confusion=None,
    )
    return replace(classification_record(), runs=(run,), singles=(), settings={}, versions={})


def untested_record() -> Record:
    """All rows were used for training: nothing to validate and nothing to test on."""
    record = classification_record()
    runs = tuple(
        replace(
            run,
            curve=replace(run.curve, valid_loss=(), valid_metric=()),
            test_metric=NAN,
            test_loss=NAN,
            test_metric_batch_statistics=None,
            steps_to_goal=None,
            confusion=None,
        )
        for run in record.runs
    )
    return replace(record, runs=runs, rows_valid=0, rows_test=0, goal=None, singles=())


def many_runs_record() -> Record:
    """Four networks on the same axes, two of each kind."""
    record = classification_record(neurons=20)
    others = tuple(
        replace(run, label=f"{run.label}, inputs normalized", test_metric=metric)
        for run, metric in zip(record.runs, (0.975, 0.92), strict=True)
    )
    return replace(record, runs=(*record.runs, *others))


def deep_record() -> Record:
    """Thirty layers of a thousand neurons each, a hundred classes."""
    return classification_record(layers=30, neurons=1000, classes=tuple(f"species {i}" for i in range(100)))


_NORMS: tuple[Norm, Norm] = ("batch", None)
_LABELS = {"batch": "with batch normalization", None: "without"}


def _classifier(draw: np.random.Generator, norm: Norm, layers: int, neurons: int, classes: tuple[str, ...]) -> Run:
    steps = np.arange(10, 510, 10)
    reached = 0.975 * (1 - np.exp(-steps / 45)) if norm else 0.1 + 0.33 / (1 + np.exp(-(steps - 430) / 22))
    metric = np.clip(reached + draw.normal(0, 0.006, steps.size), 0, 1)
    loss = (2.3 * np.exp(-steps / 60) + 0.02) if norm else 2.31 - 1.1 / (1 + np.exp(-(steps - 430) / 25))
    loss = loss * np.exp(draw.normal(0, 0.04, steps.size))
    curve = Curve(
        steps=tuple(int(s) for s in steps),
        seconds=tuple(float(s) for s in steps * (0.0011 if norm else 0.0007)),
        train_loss=_floats(loss),
        valid_loss=_floats(loss * 1.08 + (0.06 * (1 - np.exp(-steps / 200)) if norm else 0.01)),
        valid_metric=_floats(metric),
    )
    at_goal = np.flatnonzero(metric >= 0.95)
    best = int(np.argmax(metric))
    return Run(
        label=_LABELS[norm],
        norm=norm,
        curve=curve,
        traces=tuple(_trace(draw, norm, i, steps) for i in range(layers)),
        statistics=tuple(_statistics(draw, i, neurons) for i in range(layers)) if norm else (),
        test_metric=0.9722 if norm else 0.4139,
        test_loss=0.1043 if norm else 1.3127,
        test_metric_batch_statistics=0.9694 if norm else None,
        steps=500,
        best_step=int(steps[best]),
        seconds=0.55 if norm else 0.35,
        steps_to_goal=int(steps[at_goal[0]]) if at_goal.size else None,
        confusion=_confusion(draw, classes, 0.972 if norm else 0.41),
        residuals=None,
    )


def _regressor(draw: np.random.Generator, norm: Norm, true: np.ndarray) -> Run:
    steps = np.arange(0, 4100, 100)
    pace = 500 if norm else 1100
    metric = 0.79 - (5 if norm else 12) * np.exp(-steps / pace) + draw.normal(0, 0.004, steps.size)
    loss = 0.21 + 0.8 * np.exp(-steps / pace) + np.abs(draw.normal(0, 0.01, steps.size))
    train = _floats(loss)
    off = true * draw.normal(0, 0.2 if norm else 0.24, true.size)
    return Run(
        label=_LABELS[norm],
        norm=norm,
        curve=Curve(
            steps=tuple(int(s) for s in steps),
            seconds=tuple(float(s) for s in steps * (0.0019 if norm else 0.0012)),
            train_loss=(NAN, *train[1:]),
            valid_loss=_floats(loss * 1.05),
            valid_metric=_floats(metric),
        ),
        traces=tuple(_trace(draw, norm, i, steps) for i in range(2)),
        statistics=tuple(_statistics(draw, i, 100) for i in range(2)) if norm else (),
        test_metric=0.7934 if norm else 0.7412,
        test_loss=0.2081 if norm else 0.2604,
        test_metric_batch_statistics=0.7702 if norm else None,
        steps=4000,
        best_step=int(steps[int(np.argmax(metric))]),
        seconds=7.62 if norm else 4.81,
        steps_to_goal=None,
        confusion=None,
        residuals=Residuals(_floats(true), _floats(true + off)),
    )


def _trace(draw: np.random.Generator, norm: Norm, index: int, steps: np.ndarray) -> LayerTrace:
    """With: a steady band around 0. Without: a band that drifts and widens."""
    noise = draw.normal(0, 0.03, (3, steps.size))
    if norm:
        middle = 0.12 * np.sin(steps / steps[-1] * 3 + index)
        half = 1.02 + 0.18 * steps / steps[-1]
    else:
        middle = (0.9 + 0.35 * index) * np.tanh((steps - 0.6 * steps[-1]) / (0.25 * steps[-1])) * (-1) ** index
        half = 0.5 + 1.6 * (steps / steps[-1]) ** 2 + 0.2 * index
    low, mid, high = middle - half + noise[0], middle + noise[1], middle + half + noise[2]
    return LayerTrace(f"layer {index + 1}", tuple(int(s) for s in steps), _floats(low), _floats(mid), _floats(high))


def _statistics(draw: np.random.Generator, index: int, neurons: int) -> LayerStatistics:
    true_mean = draw.normal(0, 0.8, neurons)
    true_var = np.exp(draw.normal(-0.5 + 0.1 * index, 0.7, neurons))
    return LayerStatistics(
        name=f"layer {index + 1}",
        gamma=_floats(1 + draw.normal(0.1, 0.22, neurons)),
        beta=_floats(draw.normal(-0.05, 0.2, neurons)),
        running_mean=_floats(true_mean + draw.normal(0, 0.05, neurons) * np.sqrt(true_var)),
        running_var=_floats(true_var * np.exp(draw.normal(0, 0.07, neurons))),
        true_mean=_floats(true_mean),
        true_var=_floats(true_var),
    )


def _confusion(draw: np.random.Generator, classes: tuple[str, ...], accuracy: float) -> Confusion:
    per_class = max(5, 360 // len(classes))
    favourite = draw.integers(0, len(classes), 3)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    for i in range(len(classes)):
        right = int(draw.binomial(per_class, accuracy))
        counts[i, i] += right
        for j in draw.choice(favourite, per_class - right):
            counts[i, j] += 1
    return Confusion(classes, tuple(tuple(int(c) for c in row) for row in counts))


def _broken(values: tuple[float, ...], direction: float) -> tuple[float, ...]:
    alive = len(values) // 4
    return tuple(direction * math.exp(2.5 * i) if i < alive else NAN for i in range(len(values)))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
