"""recalibrate after training batches of 4 to 32: 6 x 64 ReLU, SGD 0.02 with momentum 0.9, 5 epochs, five seeds."""

from __future__ import annotations

import copy
from typing import Any

from docs.guide.shown import Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "recalibrate"
SIZES = (4, 8, 16, 32)
WAYS = {"running": "running average", "by_4": "recalibrated, batches of 4", "by_256": "batches of 256"}
_ACCURACY = Axis("test accuracy", percent=True, bounds=(0.2, 1.0))
_EVERY = 78  # steps, a quarter of an epoch of batches of 4


def measure() -> Found:
    """Accuracies after training for every size, and on the way at batches of 4; (seeds,) or (seeds, times)."""
    import torch
    from docs.guide.digits import SEEDS, digits, in_random_order, perceptron, share, steps
    from torch import nn

    from batchnorm import recalibrate

    def recalibrated(model: nn.Module, x: torch.Tensor, size: int, **options: Any) -> nn.Module:
        copied = copy.deepcopy(model).eval()
        recalibrate(copied, list(in_random_order(x, size)), **options)
        return copied

    end: Found = {str(size): {way: [] for way in WAYS} for size in SIZES}
    way: Found = {"rows": [], "running": [], "recalibrated": []}
    sequential: list[float] = []
    for seed in SEEDS:
        data = digits(seed)
        test = data.test_x, data.test_y
        for size in SIZES:
            torch.manual_seed(seed)
            model = perceptron(6, 64, "relu")
            seen = [
                (4 * step, share(model, *test), share(recalibrated(model, data.x, 4), *test))
                for step in steps(model, data.x, data.y, batch=size, epochs=5)
                if size == 4 and step % _EVERY == 0
            ]
            end[str(size)]["running"].append(share(model, *test))
            for rows in (4, 256):
                end[str(size)][f"by_{rows}"].append(share(recalibrated(model, data.x, rows), *test))
            if size == 4:
                sequential.append(share(recalibrated(model, data.x, 256, sequential=True), *test))
                way["rows"] = [rows for rows, _, _ in seen]
                way["running"].append([running for _, running, _ in seen])
                way["recalibrated"].append([after for _, _, after in seen])
    return {"end": end, "way": way, "sequential": sequential}


def charts(found: Found) -> dict[str, Chart]:
    """On the way at batches of 4, and at the end by the size of the batch."""
    way, end = found["way"], found["end"]
    trained_on = 4 * 314
    epochs = [rows / trained_on for rows in way["rows"]]
    on_the_way = Lines(
        Axis("epochs of training, in batches of 4", bounds=(0, 5)),
        _ACCURACY,
        (
            over_seeds("recalibrated", epochs, way["recalibrated"], role="with"),
            over_seeds("running average", epochs, way["running"], role="without"),
        ),
        label="On the way, batches of 4",
    )
    at_the_end = Lines(
        Axis("rows in a training batch", names=tuple(map(str, SIZES))),
        _ACCURACY,
        (
            over_seeds("recalibrated", range(4), _by_seed(end, "by_4"), role="with"),
            over_seeds("running average", range(4), _by_seed(end, "running"), role="without"),
        ),
        marked=True,
        label="After five epochs",
    )
    return {
        "before-and-after": Chart(
            "After tiny batches the same weights are better recalibrated than by the running average",
            "Test accuracy on digits; lines are means of five seeds, bands go from the lowest to the highest. Training "
            "is the same: only the statistics that evaluation normalizes by differ.",
            (on_the_way, at_the_end),
        )
    }


def _by_seed(end: Found, way: str) -> list[list[float]]:
    return [list(values) for values in zip(*(end[str(size)][way] for size in SIZES), strict=True)]


def said(found: Found) -> dict[str, str]:
    """The table, and the numbers in the text."""
    end = found["end"]
    rows = [
        (str(size), *(percents(end[str(size)][way], bold=(size, way) == (4, "by_4")) for way in WAYS)) for size in SIZES
    ]
    return {
        "table": table(("training batch", *WAYS.values()), rows),
        "sequential": percents(found["sequential"]),
        "at once": percents(end["4"]["by_256"]),
        "gain": f"{100 * _gain(end['4']):.1f}",
        "gain at 32": f"{100 * _gain(end['32']):.1f}",
    }


def _gain(end: Found) -> float:
    return (sum(end["by_4"]) - sum(end["running"])) / len(end["running"])
