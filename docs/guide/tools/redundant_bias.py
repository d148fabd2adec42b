"""Biases before batch norm, and drop_redundant_bias: 6 x 64 ReLU with biases, SGD 0.02, batches of 32, 5 epochs.

Gradients are of one batch of 32 training rows at the trained weights; outputs are of all test rows; five seeds.
"""

from __future__ import annotations

from docs.guide.shown import Found, Page

from batchnorm.lab.charts import Axis, Chart, Lines, Points, Series, over_seeds

PAGE: Page = "insert"
_SHOWN = 20  # rows whose outputs are kept: ten numbers each


def measure() -> Found:
    """Root mean square gradients by layer, (seeds, 6); parameters; outputs of some rows before and after, seed 0."""
    import torch
    from docs.guide.digits import SEEDS, digits, network, steps
    from torch import nn

    from batchnorm import drop_redundant_bias
    from batchnorm.nn import BatchNorm1d

    found: Found = {"weights": [], "biases": [], "parameters": [], "before": [], "after": [], "apart": []}
    for seed in SEEDS:
        data = digits(seed)
        torch.manual_seed(seed)
        model = network(6, 64, lambda width: BatchNorm1d(width, activation="relu"), bias=True)
        for _ in steps(model, data.x, data.y, batch=32, epochs=5):
            pass
        model.train().zero_grad()
        nn.functional.cross_entropy(model(data.x[:32]), data.y[:32]).backward()
        linears = [layer for layer in model if isinstance(layer, nn.Linear)][:-1]
        for kind, of in (("weights", "weight"), ("biases", "bias")):
            found[kind].append([float(getattr(one, of).grad.square().mean().sqrt()) for one in linears])
        model.zero_grad()
        with torch.no_grad():
            before = model.eval()(data.test_x)
            counted = sum(p.numel() for p in model.parameters())
            drop_redundant_bias(model)
            after = model(data.test_x)
        found["parameters"] = [counted, sum(p.numel() for p in model.parameters())]
        found["apart"].append(float((after - before).abs().max() / before.abs().max()))
        if seed == 0:
            found["before"] = before[:_SHOWN].flatten().tolist()
            found["after"] = after[:_SHOWN].flatten().tolist()
    return found


def charts(found: Found) -> dict[str, Chart]:
    """The gradients, and the outputs without the biases against those with them."""
    layers = range(6)
    gradients = Lines(
        Axis("hidden layer", names=tuple(str(i + 1) for i in layers)),
        Axis("gradient, root mean square", log=True),
        (
            over_seeds("weights", layers, found["weights"]),
            over_seeds("biases before batch norm", layers, found["biases"], role="without"),
        ),
        marked=True,
        label="What training tells them",
    )
    outputs = Points(
        Axis("output with the biases"),
        Axis("output without them"),
        (Series("", tuple(found["before"]), tuple(found["after"]), "with"),),
        label="What the network answers",
    )
    return {
        "before-and-after": Chart(
            "A bias before batch norm learns nothing, and the answers do not need it",
            "Left: gradients at the trained weights, means of five seeds in bands from the lowest to the highest; the "
            "biases' are rounding. Right: ten outputs for each of 20 test digits, seed 0: after "
            "`drop_redundant_bias` each is what it was.",
            (gradients, outputs),
        )
    }


def said(found: Found) -> dict[str, str]:
    """How small the gradients are, and what is saved."""
    seeds = zip(found["weights"], found["biases"], strict=True)
    ratio = [bias / weight for one in seeds for weight, bias in zip(*one, strict=True)]
    with_them, without = found["parameters"]
    return {
        "ratio": f"{max(ratio):.0e}",
        "parameters": f"{with_them - without} of {with_them}",
        "apart": f"{max(found['apart']):.0e}",
    }
