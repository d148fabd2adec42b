"""BatchRenorm at training batches of 4: 6 x 64 ReLU, SGD 0.02 with momentum 0.9, 5 epochs, five seeds."""

from __future__ import annotations

from docs.guide.shown import ACCURACY, Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "small_batches"
WAYS = {
    "batchnorm": "`BatchNorm1d`, batches of 4",
    "slow": "the same, momentum 0.01",
    "renorm": "`BatchRenorm1d`, batches of 4, momentum 0.1, limits opening from 100 to 600",
    "slow renorm": "`BatchRenorm1d`, batches of 4, momentum 0.01, as above",
    "large": "`BatchNorm1d`, batches of 32",
}
_LOOKS = 20  # in 5 epochs


def measure() -> Found:
    """Accuracies on the way, (seeds, 20), and the epochs at which they were taken."""
    import torch
    from docs.guide.digits import SEEDS, digits, network, share, steps

    from batchnorm.nn import BatchNorm1d, BatchRenorm1d, Ramp

    def renorm(width: int, momentum: float, r_opens: tuple[int, int], d_opens: tuple[int, int]) -> BatchRenorm1d:
        r_max = Ramp(first=r_opens[0], last=r_opens[1], start=1.0, end=3.0)
        d_max = Ramp(first=d_opens[0], last=d_opens[1], start=0.0, end=5.0)
        return BatchRenorm1d(width, momentum=momentum, r_max=r_max, d_max=d_max, activation="relu")

    makes = {
        "batchnorm": lambda width: BatchNorm1d(width, activation="relu"),
        "slow": lambda width: BatchNorm1d(width, momentum=0.01, activation="relu"),
        "renorm": lambda width: renorm(width, 0.1, (100, 600), (100, 600)),
        "slow renorm": lambda width: renorm(width, 0.01, (300, 900), (300, 600)),
        "large": lambda width: BatchNorm1d(width, activation="relu"),
    }
    found: Found = {"epochs": {}, "accuracy": {way: [] for way in WAYS}}
    for seed in SEEDS:
        data = digits(seed)
        for way, make in makes.items():
            batch = 32 if way == "large" else 4
            an_epoch = len(data.x) // batch
            at = [round((i + 1) * 5 * an_epoch / _LOOKS) for i in range(_LOOKS)]
            torch.manual_seed(seed)
            model = network(6, 64, make)
            training = steps(model, data.x, data.y, batch=batch, epochs=5)
            seen = [share(model, data.test_x, data.test_y) for step in training if step in at]
            found["epochs"][way] = [step / an_epoch for step in at]
            found["accuracy"][way].append(seen)
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Accuracy on the way, of the layers that are to be compared."""
    names = {
        "large": ("BatchNorm1d, batches of 32", "other"),
        "slow renorm": ("BatchRenorm1d, batches of 4", "with"),
        "slow": ("BatchNorm1d, batches of 4", "without"),
    }
    series = tuple(
        over_seeds(name, found["epochs"][way], found["accuracy"][way], role=role)  # type: ignore[arg-type]
        for way, (name, role) in names.items()
    )
    return {
        "on-the-way": Chart(
            "Trained in batches of 4, a network with BatchRenorm comes near batches of 32, with batch norm it does not",
            "Lines are means of five seeds, bands go from the lowest to the highest; momentum 0.01 at batches of 4. "
            "BatchRenorm's limits open between steps 300 and 900, which are epochs 1 and 3.",
            (Lines(Axis("epochs", bounds=(0, 5)), Axis(ACCURACY.title, percent=True, bounds=(0, 1)), series),),
        )
    }


def said(found: Found) -> dict[str, str]:
    """The table."""
    rows = [
        (name, percents([one[-1] for one in found["accuracy"][way]], bold=way == "slow renorm"))
        for way, name in WAYS.items()
    ]
    return {"table": table(("6 x 64, learning rate 0.02, 5 epochs", "accuracy"), rows)}
