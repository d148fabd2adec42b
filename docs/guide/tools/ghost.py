"""GhostBatchNorm in full batches: 3 x 64 ReLU, SGD 0.1 with momentum 0.9, groups of 8 to 32 and none, five seeds.

1257 rows with 30 % of the labels drawn anew at random, for 60 epochs; and 256 rows with clean labels, for 150.
"""

from __future__ import annotations

from docs.guide.shown import Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "small_batches"
GROUPS = ("8", "16", "32", "whole batch")
_NOISY = 0.3


def measure() -> Found:
    """By group: test accuracy with noisy and with clean labels, share of wrong labels learnt by heart; (seeds,)."""
    import torch
    from docs.guide.digits import SEEDS, digits, network, share, steps
    from torch import nn

    from batchnorm.nn import BatchNorm1d, GhostBatchNorm1d

    def made(group: str) -> nn.Module:
        def layer(width: int) -> nn.Module:
            if group == "whole batch":
                return BatchNorm1d(width, activation="relu")
            return GhostBatchNorm1d(width, virtual_batch_size=int(group), activation="relu")

        return network(3, 64, layer)

    found: Found = {what: {group: [] for group in GROUPS} for what in ("noisy", "by heart", "clean")}
    for seed in SEEDS:
        data, generator = digits(seed), torch.Generator().manual_seed(seed)
        drawn_anew = torch.rand(len(data.y), generator=generator) < _NOISY
        labels = torch.where(drawn_anew, torch.randint(10, data.y.shape, generator=generator), data.y)
        wrong = labels != data.y
        for group in GROUPS:
            torch.manual_seed(seed)
            model = made(group)
            for _ in steps(model, data.x, labels, batch=len(data.x), epochs=60, rate=0.1):
                pass
            found["noisy"][group].append(share(model, data.test_x, data.test_y))
            found["by heart"][group].append(share(model, data.x[wrong], labels[wrong]))
            torch.manual_seed(seed)
            model = made(group)
            for _ in steps(model, data.x[:256], data.y[:256], batch=256, epochs=150, rate=0.1):
                pass
            found["clean"][group].append(share(model, data.test_x, data.test_y))
    return found


def charts(found: Found) -> dict[str, Chart]:
    """What is learnt by heart, and what that costs; by the rows of a group."""
    groups = Axis("rows that are normalized together", names=GROUPS)

    def by_group(what: str) -> list[list[float]]:
        return [list(one) for one in zip(*(found[what][group] for group in GROUPS), strict=True)]

    heart = Lines(
        groups,
        Axis("wrong labels learnt by heart", percent=True, bounds=(0, 1)),
        (over_seeds("30 % of labels random", range(4), by_group("by heart"), role="without"),),
        marked=True,
        label="What is learnt of the noise",
    )
    accuracy = Lines(
        groups,
        Axis("test accuracy", percent=True, bounds=(0.6, 1)),
        (
            over_seeds("30 % of labels random", range(4), by_group("noisy"), role="without"),
            over_seeds("clean labels", range(4), by_group("clean")),
        ),
        marked=True,
        label="What it costs",
    )
    return {
        "groups": Chart(
            "Full batches normalized in groups: the smaller the group, the less of the noise is learnt by heart",
            "Means of five seeds, bands from the lowest to the highest. With clean labels there is nothing to gain.",
            (heart, accuracy),
        )
    }


def said(found: Found) -> dict[str, str]:
    """The table."""
    head = (
        "3 x 64, full batch, learning rate 0.1",
        "1257 rows, 30 % of labels random, 60 epochs",
        "256 rows, labels clean, 150 epochs",
    )
    names = {group: f"groups of {group}" for group in GROUPS} | {"whole batch": "`BatchNorm1d`"}
    rows = [(names[group], percents(found["noisy"][group]), percents(found["clean"][group])) for group in GROUPS[::-1]]
    return {
        "table": table(head, rows),
        "heart whole": percents(found["by heart"]["whole batch"]),
        "heart 8": percents(found["by heart"]["8"]),
        "spread": f"{100 * max(max(one) - min(one) for one in found['clean'].values()):.1f}",
    }
