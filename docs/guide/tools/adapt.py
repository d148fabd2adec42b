"""adapt with and without its guard: digits at contrast x 0.3 and sorted by label, test batches of 64, five seeds.

6 x 64 ReLU and 3 x 100 sigmoid, trained well on usual batches. The last batch of a stream has 28 rows.
"""

from __future__ import annotations

from docs.guide.shown import Found, Page, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "adapt"
NETWORKS = {"relu": "6 x 64 ReLU", "sigmoid": "3 x 100 sigmoid"}
STREAMS = ("clean", "contrast", "sorted")
WAYS = ("source", "off 16", "off 0", "on 16", "on 0")
"""Not adapted; adapted with the guard off or on, at prior 16 or 0."""
_BATCH, _CONTRAST = 64, 0.3


def measure() -> Found:
    """Right answers in each batch of each stream, by network and way: (seeds, batches), and the sizes of batches."""
    import torch
    from docs.guide.digits import SEEDS, digits, usual

    from batchnorm.statistics import adapting

    found: Found = {"sizes": []} | {n: {s: {w: [] for w in WAYS} for s in STREAMS} for n in NETWORKS}
    for network in NETWORKS:
        for seed in SEEDS:
            data, model = digits(seed), usual(seed, network)
            shuffled = torch.randperm(len(data.test_x), generator=torch.Generator().manual_seed(seed))
            by_label = torch.argsort(data.test_y, stable=True)
            for stream in STREAMS:
                order = by_label if stream == "sorted" else shuffled
                x, y = (_CONTRAST if stream == "contrast" else 1.0) * data.test_x[order], data.test_y[order]
                found["sizes"] = [len(rows) for rows in x.split(_BATCH)]
                for way in WAYS:
                    guard, _, prior = way.partition(" ")
                    predict = model if way == "source" else adapting(model, prior=float(prior), guard=guard == "on")
                    with torch.no_grad():
                        pairs = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
                        right = [int((predict(rows).argmax(1) == labels).sum()) for rows, labels in pairs]
                    found[network][stream][way].append(right)
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Batch after batch, at prior 16 and in the ReLU network."""
    batches = range(len(found["sizes"]))
    panels = []
    for stream, label in (("contrast", "Contrast x 0.3, in random order"), ("sorted", "Clean, sorted by label")):
        ways = found["relu"][stream]
        series = (
            over_seeds("adapted, guarded", batches, _shares(found, ways["on 16"]), role="with"),
            over_seeds("not adapted", batches, _shares(found, ways["source"]), role="without"),
            over_seeds("adapted, guard off", batches, _shares(found, ways["off 16"])),
        )
        axis = Axis("test batch, of 64 rows", names=tuple(str(i + 1) for i in batches))
        accuracy = Axis("accuracy in the batch", percent=True, bounds=(0.0, 1.02))
        panels.append(Lines(axis, accuracy, series, marked=True, label=label))
    return {
        "batch-after-batch": Chart(
            "Adapting repairs a shift and ruins a sorted stream; the guard tells them apart from the third batch on",
            "6 x 64 ReLU, prior 16; lines are means of five seeds, bands go from the lowest to the highest. With the "
            "guard the first two batches are predicted by the source statistics, because nobody can know yet.",
            tuple(panels),
        )
    }


def _shares(found: Found, rights: list[list[int]]) -> list[list[float]]:
    return [[right / size for right, size in zip(one, found["sizes"], strict=True)] for one in rights]


def said(found: Found) -> dict[str, str]:
    """A table for each network."""
    lines = (
        ("clean", "clean", 16),
        ("contrast, prior 16", "contrast", 16),
        ("contrast, prior 0", "contrast", 0),
        ("sorted, prior 16", "sorted", 16),
        ("sorted, prior 0", "sorted", 0),
    )
    words = {}
    for network, name in NETWORKS.items():
        rows = []
        for line, stream, prior in lines:
            ways = found[network][stream]
            source, off = _percent(found, ways["source"]), _percent(found, ways[f"off {prior}"])
            first = _percent(found, ways[f"on {prior}"], slice(2))
            later = _percent(found, ways[f"on {prior}"], slice(2, None))
            shifted = stream != "clean"
            rows.append(
                (
                    line,
                    source,
                    f"**{off}**" if stream == "contrast" else off,
                    first,
                    f"**{later}**" if shifted else later,
                )
            )
        head = (name, "source", "adapted, no guard", "guarded: first two batches", "from the third on")
        words[f"table {network}"] = table(head, rows)
    return words


def _percent(found: Found, rights: list[list[int]], batches: slice = slice(None)) -> str:
    """Of all rows of these batches, over the seeds."""
    shares = [sum(one[batches]) / sum(found["sizes"][batches]) for one in rights]
    return f"{100 * sum(shares) / len(shares):.1f}"
