"""debias=True evaluated early: 6 x 64 ReLU, batches of 32, SGD 0.02 with momentum 0.9, five seeds."""

from __future__ import annotations

from docs.guide.shown import ACCURACY, Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "running_averages"
MOMENTA = ("0.1", "0.01")
LOOKS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300)
_TABLE = (10, 30, 100, 300)


def measure() -> Found:
    """Accuracies after so many batches, (seeds, looks), by momentum without and with debias."""
    import torch
    from docs.guide.digits import SEEDS, digits, network, share, steps

    from batchnorm.nn import BatchNorm1d

    found: Found = {momentum: {"plain": [], "debias": []} for momentum in MOMENTA}
    for seed in SEEDS:
        data = digits(seed)
        for momentum in MOMENTA:
            for way in ("plain", "debias"):

                def layer(width: int, momentum: str = momentum, way: str = way) -> BatchNorm1d:
                    return BatchNorm1d(width, momentum=float(momentum), debias=way == "debias", activation="relu")

                torch.manual_seed(seed)
                model, seen = network(6, 64, layer), []
                for step in steps(model, data.x, data.y, batch=32, epochs=10):
                    if step in LOOKS:
                        seen.append(share(model, data.test_x, data.test_y))
                    if step == LOOKS[-1]:
                        break
                found[momentum][way].append(seen)
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Accuracy over batches, a panel for each momentum."""
    panels = tuple(
        Lines(
            Axis("batches trained on", log=True, bounds=(1, LOOKS[-1])),
            Axis(ACCURACY.title, percent=True, bounds=(0, 1)),
            (
                over_seeds("debias=True", LOOKS, found[momentum]["debias"], role="with"),
                over_seeds("without", LOOKS, found[momentum]["plain"], role="without"),
            ),
            marked=True,
            label=f"momentum {momentum}",
        )
        for momentum in MOMENTA
    )
    return {
        "evaluated-early": Chart(
            "Evaluated early, the running average without debias still holds its start, and the network guesses",
            "The networks are the same and trained the same: only the averages that evaluation normalizes by differ. "
            "Lines are means of five seeds, bands go from the lowest to the highest.",
            panels,
        )
    }


def said(found: Found) -> dict[str, str]:
    """The table."""
    head = ("batches", "momentum 0.1", "with debias", "momentum 0.01", "with debias")
    rows = []
    for batches in _TABLE:
        at = LOOKS.index(batches)
        cells = [
            percents([one[at] for one in found[momentum][way]], bold=way == "debias" and batches < 100)
            for momentum in MOMENTA
            for way in ("plain", "debias")
        ]
        rows.append((str(batches), *cells))
    return {"table": table(head, rows)}
