"""freeze before fine-tuning: 6 x 64 ReLU trained on all rows, then on the first 64 of them in batches of 4.

SGD 0.001 with momentum 0.9, 5 epochs, five seeds; accuracy on the test rows of the whole.
"""

from __future__ import annotations

from docs.guide.shown import ACCURACY, Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "freeze"
WAYS = {
    "plain": "fine-tuned",
    "eval": "fine-tuned, layers put in eval mode before `model.train()`",
    "frozen": "fine-tuned, frozen",
}
ROWS, BATCH, EPOCHS, RATE = 64, 4, 5, 0.001


def measure() -> Found:
    """Accuracy after every fourth step, the first entry before any: (seeds, looks)."""
    import copy

    import torch
    from docs.guide.digits import SEEDS, digits, share, steps, usual

    from batchnorm import freeze
    from batchnorm.nn import BatchNorm1d

    found: Found = {"steps": [], "accuracy": {way: [] for way in WAYS}}
    for seed in SEEDS:
        data, trained = digits(seed), usual(seed, "relu")
        for way in WAYS:
            model = copy.deepcopy(trained)
            if way == "frozen":
                freeze(model)
            elif way == "eval":
                for layer in model.modules():
                    if isinstance(layer, BatchNorm1d):
                        layer.eval()
            torch.manual_seed(seed)
            training = steps(model, data.x[:ROWS], data.y[:ROWS], batch=BATCH, epochs=EPOCHS, rate=RATE)
            seen = [(0, share(model, data.test_x, data.test_y))]
            seen += [(step, share(model, data.test_x, data.test_y)) for step in training if step % 4 == 0]
            found["steps"] = [step for step, _ in seen]
            found["accuracy"][way].append([accuracy for _, accuracy in seen])
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Accuracy over the steps of fine-tuning."""
    accuracy = found["accuracy"]
    return {
        "fine-tuning": Chart(
            "Fine-tuning on 64 rows in batches of 4: frozen, the network keeps what it could do",
            "Lines are means of five seeds, bands go from the lowest to the highest. That layers were put in eval mode "
            "changes nothing: `model.train()` takes it back, and the two lines are one. The axis does not begin at 0: "
            "what is lost is a point or two.",
            (
                Lines(
                    Axis("steps of fine-tuning", bounds=(0, found["steps"][-1])),
                    ACCURACY,
                    (
                        over_seeds("frozen", found["steps"], accuracy["frozen"], role="with"),
                        over_seeds(
                            "not frozen, or in eval mode before train()",
                            found["steps"],
                            accuracy["plain"],
                            role="without",
                        ),
                    ),
                    marked=True,
                ),
            ),
        )
    }


def said(found: Found) -> dict[str, str]:
    """The table."""
    accuracy = found["accuracy"]
    before = ("before fine-tuning", percents([one[0] for one in accuracy["plain"]]))
    after = [(name, percents([one[-1] for one in accuracy[way]], bold=way == "frozen")) for way, name in WAYS.items()]
    return {"table": table(("", "accuracy"), [before, *after])}
