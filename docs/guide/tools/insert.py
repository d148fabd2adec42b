"""insert into networks that were trained for 5 epochs without batch norm, and 5 epochs more with it and without.

6 x 64 ReLU and 6 x 64 sigmoid, SGD 0.02 with momentum 0.9, batches of 32; statistics from the first 256 training rows.
"""

from __future__ import annotations

from docs.guide.shown import ACCURACY, Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Level, Lines, over_seeds

PAGE: Page = "insert"
WAYS = {"without": "without it", "inserted": "after `insert`", "reset": "after `insert` and `reset_parameters()`"}
NETWORKS = {"relu": "6 x 64 ReLU", "sigmoid": "6 x 64 sigmoid"}
_EPOCHS, _BATCH, _EVERY = 5, 32, 13  # three looks an epoch


def measure() -> Found:
    """Accuracies on the way, by network: before, and each way after; (seeds, looks), the first look before any step."""
    import copy

    import torch
    from docs.guide.digits import SEEDS, Digits, digits, network, share, steps
    from torch import nn

    from batchnorm import insert
    from batchnorm.nn import BatchNorm1d

    def looks(model: nn.Module, optimizer: torch.optim.Optimizer, data: Digits) -> list[tuple[int, float]]:
        training = steps(model, data.x, data.y, batch=_BATCH, epochs=_EPOCHS, optimizer=optimizer)
        seen = [(0, share(model, data.test_x, data.test_y))]
        return seen + [(step, share(model, data.test_x, data.test_y)) for step in training if step % _EVERY == 0]

    found: Found = {"steps": []} | {name: {way: [] for way in ("before", *WAYS)} for name in NETWORKS}
    for name, activation in (("relu", nn.ReLU), ("sigmoid", nn.Sigmoid)):
        for seed in SEEDS:
            data = digits(seed)
            torch.manual_seed(seed)
            model: nn.Module = network(6, 64, lambda _, kind=activation: kind(), bias=True)
            optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)

            before = looks(model, optimizer, data)
            found["steps"] = [step for step, _ in before]
            found[name]["before"].append([accuracy for _, accuracy in before])
            for way in WAYS:
                copied, its_optimizer = copy.deepcopy((model, optimizer))
                if way != "without":
                    insert(copied, data.x[:256], optimizer=its_optimizer)
                if way == "reset":
                    for layer in copied.modules():
                        if isinstance(layer, BatchNorm1d):
                            layer.reset_parameters()
                torch.manual_seed(seed + 100)  # the same order of rows for every way
                found[name][way].append([accuracy for _, accuracy in looks(copied, its_optimizer, data)])
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Ten epochs, of which the second five differ."""
    an_epoch = found["steps"][-1] / _EPOCHS
    epochs = [step / an_epoch for step in found["steps"]]
    later = [_EPOCHS + at for at in epochs]
    panels = []
    for name, label in NETWORKS.items():
        before = over_seeds("without it", epochs + later, _joined(found[name], "without"), role="without")
        series = [over_seeds("insert", later, found[name]["inserted"], role="with"), before]
        if name == "sigmoid":
            series.append(over_seeds("insert, then reset", later, found[name]["reset"]))
        panels.append(
            Lines(
                Axis("epochs", bounds=(0, 2 * _EPOCHS)),
                Axis(ACCURACY.title, percent=True, bounds=(0, 1.02)),
                tuple(series),
                (Level(_EPOCHS, "inserted here", upright=True),),
                label=label,
            )
        )
    return {
        "training-goes-on": Chart(
            "Networks that do not learn begin to learn where batch norm is inserted",
            "Lines are means of five seeds, bands go from the lowest to the highest. At the dotted line itself nothing "
            "changes: the network learns from there. In the sigmoid network signals have died out, and their scale is "
            "what `insert` keeps; only with gamma = 1 and beta = 0 does it learn.",
            tuple(panels),
        )
    }


def _joined(found: Found, way: str) -> list[list[float]]:
    return [[*before, *after] for before, after in zip(found["before"], found[way], strict=True)]


def said(found: Found) -> dict[str, str]:
    """The table of the ReLU network, and the sigmoid network's numbers in the text."""
    relu, sigmoid = found["relu"], found["sigmoid"]
    rows = [
        ("5 epochs", percents([one[-1] for one in relu["before"]])),
        ("at once after `insert`", percents([one[0] for one in relu["inserted"]])),
        ("5 further epochs without it", percents([one[-1] for one in relu["without"]])),
        ("5 further epochs after `insert`", percents([one[-1] for one in relu["inserted"]], bold=True)),
    ]
    return {
        "table": table(("", "accuracy"), rows),
        "sigmoid kept": percents([one[-1] for one in sigmoid["inserted"]]),
        "sigmoid reset": percents([one[-1] for one in sigmoid["reset"]]),
    }
