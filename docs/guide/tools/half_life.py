"""half_life in rows at batches of 4 and 32: 6 x 64 ReLU, SGD 0.02 with momentum 0.9, 5 epochs, five seeds."""

from __future__ import annotations

from docs.guide.shown import ACCURACY, Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "running_averages"
SIZES = ("4", "32")
ROWS = (26, 100, 400, 1600, 6400)
"""Half-lives; 26 rows are torch's momentum of 0.1 at batches of 4."""


def measure() -> Found:
    """Accuracies after training, by the batch's size and the half-life: (seeds,)."""
    import torch
    from docs.guide.digits import SEEDS, digits, network, share, steps

    from batchnorm import half_life
    from batchnorm.nn import BatchNorm1d

    found: Found = {size: {str(rows): [] for rows in ROWS} for size in SIZES}
    for seed in SEEDS:
        data = digits(seed)
        for size in SIZES:
            for rows in ROWS:

                def layer(width: int, momentum: float = half_life(rows / int(size))) -> BatchNorm1d:
                    return BatchNorm1d(width, momentum=momentum, debias=True, activation="relu")

                torch.manual_seed(seed)
                model = network(6, 64, layer)
                for _ in steps(model, data.x, data.y, batch=int(size), epochs=5):
                    pass
                found[size][str(rows)].append(share(model, data.test_x, data.test_y))
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Accuracy over the half-life, for each size of batch."""
    series = tuple(
        over_seeds(f"batches of {size}", range(len(ROWS)), _by_rows(found[size]), role=role)  # type: ignore[arg-type]
        for size, role in zip(SIZES, ("without", "other"), strict=True)
    )
    panel = Lines(
        Axis("half-life of the running average, rows", names=tuple(map(str, ROWS))), ACCURACY, series, marked=True
    )
    return {
        "in-rows": Chart(
            "After tiny batches a longer running average helps a little, after usual ones it does not",
            "Means of five seeds, bands from the lowest to the highest; debias=True. 26 rows are momentum 0.1 at "
            "batches of 4; the training set has 1257 rows and is read five times.",
            (panel,),
        )
    }


def _by_rows(found: Found) -> list[list[float]]:
    return [list(one) for one in zip(*(found[str(rows)] for rows in ROWS), strict=True)]


def said(found: Found) -> dict[str, str]:
    """The table, and the best half-life at batches of 4."""
    rows = [(f"batches of {size}", *(percents(found[size][str(at)]) for at in ROWS)) for size in SIZES]
    mean = {at: sum(found["4"][str(at)]) / len(found["4"][str(at)]) for at in ROWS}
    best = max(ROWS, key=lambda at: mean[at])
    return {
        "table": table(("half-life in rows", *map(str, ROWS)), rows),
        "best": str(best),
        "gain": f"{100 * (mean[best] - mean[ROWS[0]]):.1f}",
    }
