"""fold: seconds of inference with and without, and answers beside those of torch's own fx fuse.

Time: 6 x 64 ReLU, one thread, in turns, medians. Answers: networks trained on digits for 5 epochs that have a pair
which must not be folded: a Linear on (N, L, C) before BatchNorm1d, and a pair called twice; five seeds.
"""

from __future__ import annotations

import statistics

from docs.guide.shown import Found, Page, percents, table

from batchnorm.lab.charts import Axis, Bar, Bars, Chart, Points, Series

PAGE: Page = "fold"
LAYERS = {"torch": "6 x 64 Linear, BatchNorm1d of torch, ReLU", "batchnorm": "the same with this package's BatchNorm1d"}
ROWS = (1, 256)
PAIRS = {"three dimensions": "Linear on (N, L, C), BatchNorm1d", "called twice": "A pair called twice"}
_TURNS, _REPEATS, _SHOWN = 120, 20, 8


def measure() -> Found:
    """Seconds by rows and rival, one for each turn; accuracies by pair; some answers of seed 0."""
    return {"seconds": _seconds(), "answers": _answers()}


def _seconds() -> Found:
    import time

    import torch
    from torch import nn

    from batchnorm import BatchNorm1d, fold

    found: Found = {}
    for rows in ROWS:
        rivals: dict[str, nn.Module] = {}
        x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(0))
        for name, layer in (("torch", nn.BatchNorm1d), ("batchnorm", BatchNorm1d)):
            torch.manual_seed(0)
            hidden = [part for _ in range(6) for part in (nn.Linear(64, 64, bias=False), layer(64), nn.ReLU())]
            model = nn.Sequential(*hidden, nn.Linear(64, 10))
            for _ in range(20):
                model(torch.randn(256, 64))
            rivals[name] = model.eval()
            rivals[f"{name} folded"] = fold(model, x)
            assert torch.allclose(rivals[f"{name} folded"](x), model(x), atol=1e-5)
        turns: Found = {name: [] for name in rivals}
        with torch.no_grad():
            for turn in range(_TURNS):
                first = turn % len(rivals)  # nobody always comes after the same one
                for name in [*rivals, *rivals][first : first + len(rivals)]:
                    model = rivals[name]
                    began = time.perf_counter()
                    for _ in range(_REPEATS):
                        model(x)
                    turns[name].append((time.perf_counter() - began) / _REPEATS)
        found[str(rows)] = turns
    return found


def _answers() -> Found:
    import warnings

    import torch
    from docs.guide.digits import SEEDS, digits, share, steps
    from torch import nn

    from batchnorm import fold

    class Twice(nn.Module):
        """Linear, BatchNorm1d and ReLU, two times the same."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(64, 64), nn.BatchNorm1d(64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.linear(x)))
            return torch.relu(self.norm(self.linear(x)))

    def network(pair: str) -> nn.Module:
        usual = (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
        if pair == "called twice":
            return nn.Sequential(Twice(), *usual)
        rows = (nn.Unflatten(1, (8, 8)), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*rows, *usual)

    def by_fx(model: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own module, where it is imported
            from torch.fx.experimental import optimization

            return optimization.fuse(model)  # type: ignore[no-any-return]

    found: Found = {}
    for pair in PAIRS:
        here: Found = {"model": [], "fold": [], "fx": [], "expected": [], "by_fold": [], "by_fx": []}
        for seed in SEEDS:
            data = digits(seed)
            torch.manual_seed(seed)
            model = network(pair)
            for _ in steps(model, data.x, data.y, batch=32, epochs=5):
                pass
            folded, fused = fold(model.eval(), data.test_x[:8]), by_fx(model)
            assert len(folded.fold_report.folded) == 1  # type: ignore[union-attr]
            for kind, one in (("model", model), ("fold", folded), ("fx", fused)):
                here[kind].append(share(one, data.test_x, data.test_y))
            if seed == 0:
                with torch.no_grad():
                    for kind, one in (("expected", model), ("by_fold", folded), ("by_fx", fused)):
                        here[kind] = one(data.test_x[:_SHOWN]).flatten().tolist()
        found[pair] = here
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Microseconds as bars; answers of folded networks against the network's own."""
    panels = []
    for rows in ROWS:
        bars = []
        for name, ending, role in (("unfolded", "", "without"), ("folded", " folded", "with")):
            heights = tuple(_share(found["seconds"][str(rows)], f"{layer}{ending}") for layer in LAYERS)
            bars.append(Bar(name, heights, role=role))  # type: ignore[arg-type]
        label = "One row at a time" if rows == 1 else f"{rows} rows at a time"
        time = Axis("time of a forward, torch's layers unfolded = 100 %", percent=True)
        panels.append(Bars(("torch's BatchNorm1d", "this package's"), time, tuple(bars), label=label))
    speed = Chart(
        "The same answers in less time: a network before and after fold",
        "6 x 64 ReLU on one CPU thread; medians over turns, in each of which all four take part.",
        tuple(panels),
    )
    answers = []
    for pair, label in PAIRS.items():
        here = found["answers"][pair]
        expected = tuple(here["expected"])
        series = (
            Series("fold", expected, tuple(here["by_fold"]), "with"),
            Series("torch's fx fuse", expected, tuple(here["by_fx"]), "without"),
        )
        answers.append(
            Points(Axis("output of the network"), Axis("output of what was made of it"), series, label=label)
        )
    right = Chart(
        "Where a pair must not be folded: fold leaves it, torch's fx fuse folds it and answers something else",
        "Ten outputs for each of 8 test digits, seed 0. What is right lies on the diagonal; `fold` folded the other "
        "pair of the network and named this one.",
        tuple(answers),
    )
    return {"time": speed, "answers": right}


def said(found: Found) -> dict[str, str]:
    """Tables of time and of accuracy."""
    lines = []
    for layer, name in LAYERS.items():
        for rows in ROWS:
            turns = found["seconds"][str(rows)]
            ratio = statistics.median(a / b for a, b in zip(turns[layer], turns[f"{layer} folded"], strict=True))
            shares = (f"{100 * _share(turns, rival):.0f}" for rival in (layer, f"{layer} folded"))
            lines.append((f"{name}; {'one row' if rows == 1 else f'{rows} rows'}", *shares, f"{ratio:.2f}"))
    answers = [
        (label, *(percents(found["answers"][pair][kind]) for kind in ("model", "fold", "fx")))
        for pair, label in PAIRS.items()
    ]
    return {
        "time": table(("", "unfolded", "folded", "times as fast"), lines),
        "answers": table(("test accuracy with", "the network", "`fold`", "torch's `fx` fuse"), answers),
    }


def _share(turns: Found, rival: str) -> float:
    """Of the time that torch's layers take unfolded, turn by turn."""
    return statistics.median(a / b for a, b in zip(turns[rival], turns["torch"], strict=True))
