"""average of three clients and of ten snapshots: statistics taken from the last model, averaged, merged, recalibrated.

Clients: 3 x 64 ReLU from one start, inputs moved by -1, 0 and +1 (or -2, 0 and +2), an epoch each in batches of 32 at
rate 0.02, of all training rows or of a third; tested on all test rows moved each way. Snapshots: 6 x 64 ReLU at rate
0.2, batches of 32, five epochs and then ten, one every 16 batches. Five seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from docs.guide.shown import Found, Page, percents, table

from batchnorm.lab.charts import Axis, Bar, Bars, Chart

if TYPE_CHECKING:
    from torch import Tensor, nn

PAGE: Page = "running_averages"
WAYS = {
    "last": "the last model's (`AveragedModel`)",
    "buffers": "averaged (`use_buffers=True`)",
    "merged": "merged (`average`)",
    "recalibrated": "recalibrated on everybody's rows",
}
_CASES = ("clients", "snapshots", "clients 2 apart", "clients of a third")


def measure() -> Found:
    """Accuracies by case and way, (seeds,); the clients' variances by layer as parts of the right ones, (seeds, 3)."""
    found: Found = {case: {way: [] for way in WAYS} for case in _CASES}
    found["variance"] = {"buffers": [], "merged": []}
    from docs.guide.digits import SEEDS

    for seed in SEEDS:
        for case in _CASES:
            if case == "snapshots":
                models, x, test_x, test_y = _snapshots(seed)
            else:
                models, x, test_x, test_y = _clients(seed, 2 if "2" in case else 1, 3 if "third" in case else 1)
            _compare(found, case, models, x, test_x, test_y)
    return found


def _compare(found: Found, case: str, models: Sequence[nn.Module], x: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    import copy

    from docs.guide.digits import in_random_order, share
    from torch.optim.swa_utils import AveragedModel

    from batchnorm import average, recalibrate

    made: dict[str, nn.Module] = {"merged": average(models)}
    for way, buffers in (("last", False), ("buffers", True)):
        theirs = AveragedModel(models[0], use_buffers=buffers)
        for model in models:
            theirs.update_parameters(model)
        made[way] = theirs.module
        if not buffers:  # AveragedModel keeps the buffers of the model that came last
            assert all((a == b).all() for a, b in zip(theirs.module.buffers(), models[-1].buffers(), strict=True)), (
                "torch has changed what AveragedModel does"
            )
    made["recalibrated"] = copy.deepcopy(made["merged"]).eval()
    recalibrate(made["recalibrated"], list(in_random_order(x, 256)))
    for way in WAYS:
        found[case][way].append(share(made[way], test_x, test_y))
    if case == "clients":
        for way in ("buffers", "merged"):
            layers = zip(_variances(made[way]), _variances(made["recalibrated"]), strict=True)
            found["variance"][way].append([float((ours / right).nanmedian()) for ours, right in layers])


def _variances(model: nn.Module) -> list[Tensor]:
    from batchnorm.nn import BatchNorm1d

    found = [layer.running_var for layer in model.modules() if isinstance(layer, BatchNorm1d)]
    return [variance for variance in found if variance is not None]


def _clients(seed: int, apart: float, parts: int) -> tuple[list[nn.Module], Tensor, Tensor, Tensor]:
    import copy

    import torch
    from docs.guide.digits import digits, perceptron, steps

    data, moved = digits(seed), (-apart, 0.0, apart)
    torch.manual_seed(seed)
    start, models, inputs = perceptron(3, 64, "relu"), [], []
    order = torch.randperm(len(data.x))
    for rows, by in zip(order.chunk(3) if parts == 3 else (order,) * 3, moved, strict=True):
        model = copy.deepcopy(start)
        inputs.append(data.x[rows] + by)
        for _ in steps(model, inputs[-1], data.y[rows], batch=32, epochs=1):
            pass
        models.append(model)
    test = torch.cat([data.test_x + by for by in moved])
    return list(models), torch.cat(inputs), test, data.test_y.repeat(3)


def _snapshots(seed: int) -> tuple[list[nn.Module], Tensor, Tensor, Tensor]:
    import copy

    import torch
    from docs.guide.digits import digits, perceptron, steps

    data = digits(seed)
    torch.manual_seed(seed)
    model, models, first = perceptron(6, 64, "relu"), [], 5 * (len(data.x) // 32)
    for step in steps(model, data.x, data.y, batch=32, epochs=10, rate=0.2):
        if step > first and (step - first) % 16 == 0:
            models.append(copy.deepcopy(model))
        if len(models) == 10:
            break
    return list(models), data.x, data.test_x, data.test_y


def charts(found: Found) -> dict[str, Chart]:
    """Accuracy by where the statistics come from."""
    names = ("the last model's", "averaged", "merged: average()", "recalibrated")
    panels = tuple(
        Bars(
            names,
            Axis("test accuracy of the averaged model", percent=True, bounds=(0, 1.08)),
            (
                Bar(
                    "",
                    tuple(statistics.mean(found[case][way]) for way in WAYS),
                    tuple(statistics.stdev(found[case][way]) for way in WAYS),
                ),
            ),
            label=label,
        )
        for case, label in (("clients", "3 clients, inputs 1 apart"), ("snapshots", "10 snapshots of one training"))
    )
    return {
        "statistics": Chart(
            "Where clients differ merged statistics are the best that need no data; for snapshots it hardly matters",
            "The weights are the same in every bar of a panel; means of five seeds, whiskers are "
            "standard deviations. Snapshots of one training are so "
            "near each other that it hardly matters; clients with different inputs are not.",
            panels,
        )
    }


def said(found: Found) -> dict[str, str]:
    """The table, and the numbers in the text."""
    head = (
        "statistics of the averaged model",
        "3 clients, one start, inputs -1, 0 and +1 apart, an epoch each",
        "10 snapshots of one training",
    )
    rows = [
        (name, percents(found["clients"][way], bold=way == "merged"), percents(found["snapshots"][way]))
        for way, name in WAYS.items()
    ]
    far = found["clients 2 apart"]
    without_data = [float(percents(far[way])) for way in ("last", "buffers", "merged")]
    parts = {way: [statistics.mean(layer) for layer in zip(*of, strict=True)] for way, of in found["variance"].items()}
    return {
        "table": table(head, rows),
        "far": f"{min(without_data):.0f} to {max(without_data):.0f} %",
        "third": ", ".join(percents(found["clients of a third"][way]) for way in ("last", "buffers", "merged")),
        "third recalibrated": percents(found["clients of a third"]["recalibrated"]),
        "far recalibrated": f"{float(percents(far['recalibrated'])):.0f} %",
        "first merged": f"{parts['merged'][0]:.2f}",
        "first averaged": f"{parts['buffers'][0]:.2f}",
        "above merged": " and ".join(f"{part:.2f}" for part in parts["merged"][1:]),
        "above averaged": " and ".join(f"{part:.2f}" for part in parts["buffers"][1:]),
    }
