"""SyncBatchNorm in four real processes of 2 rows each: 6 x 64 ReLU, SGD 0.02 with momentum 0.9, 5 epochs, five seeds.

gloo on one machine, DistributedDataParallel, process 0 evaluated; beside it one process with all 8 rows.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from docs.guide.shown import ACCURACY, Found, Page, percents, table

from batchnorm.lab.charts import Axis, Chart, Lines, over_seeds

PAGE: Page = "small_batches"
WAYS = {"own": "each by its own 2 rows", "sync": "`SyncBatchNorm1d`: by all 8", "one": "one process, by all 8"}
_PROCESSES, _BATCH, _LOOKS = 4, 8, 20


def measure() -> Found:
    """Accuracies on the way, (seeds, 20), and the epochs at which they were taken."""
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (folder,), nprocs=_PROCESSES)
        found: Found = json.loads((Path(folder) / "found.json").read_text())
    found["accuracy"]["one"] = _trained("one", 0)["accuracy"]
    return found


def _process(rank: int, folder: str) -> None:
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=_PROCESSES)
    found = {way: _trained(way, rank) for way in ("own", "sync")}
    if rank == 0:
        accuracy = {way: one["accuracy"] for way, one in found.items()}
        (Path(folder) / "found.json").write_text(json.dumps({"epochs": found["own"]["epochs"], "accuracy": accuracy}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _trained(way: str, rank: int) -> Found:
    """One way for every seed; in a group of processes each has its own part of every batch."""
    import torch
    from docs.guide.digits import SEEDS, digits, network, share
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    from batchnorm.nn import BatchNorm1d, SyncBatchNorm1d

    layer = SyncBatchNorm1d if way == "sync" else BatchNorm1d
    mine = slice(None) if way == "one" else slice(rank * _BATCH // _PROCESSES, (rank + 1) * _BATCH // _PROCESSES)
    found: Found = {"epochs": [], "accuracy": []}
    for seed in SEEDS:
        data = digits(seed)
        torch.manual_seed(seed)
        model = network(6, 64, lambda width: layer(width, activation="relu"))
        shared = model if way == "one" else DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
        an_epoch = len(data.x) // _BATCH
        at = [round((i + 1) * 5 * an_epoch / _LOOKS) for i in range(_LOOKS)]
        step, seen = 0, []
        for _ in range(5):
            for rows in torch.randperm(len(data.x)).split(_BATCH)[:an_epoch]:
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(shared(data.x[rows[mine]]), data.y[rows[mine]]).backward()
                optimizer.step()
                step += 1
                if step in at:
                    seen.append(share(model, data.test_x, data.test_y))
                    model.train()
        found["epochs"] = [step / an_epoch for step in at]
        found["accuracy"].append(seen)
    return found


def charts(found: Found) -> dict[str, Chart]:
    """Accuracy on the way."""
    accuracy, epochs = found["accuracy"], found["epochs"]
    series = (
        over_seeds("SyncBatchNorm1d, four processes", epochs, accuracy["sync"], role="with"),
        over_seeds("one process, by all 8 rows", epochs, accuracy["one"]),
        over_seeds("BatchNorm1d, four processes", epochs, accuracy["own"], role="without"),
    )
    return {
        "four-processes": Chart(
            "Four processes of 2 rows each: normalizing by the rows of all they learn, each by itself they do not",
            "Lines are means of five seeds, bands go from the lowest to the highest. With `SyncBatchNorm1d` four "
            "processes learn what one with all 8 rows learns; between the two lies rounding, which training magnifies.",
            (Lines(Axis("epochs", bounds=(0, 5)), Axis(ACCURACY.title, percent=True, bounds=(0, 1)), series),),
        )
    }


def said(found: Found) -> dict[str, str]:
    """The table."""
    rows = [
        (name, percents([one[-1] for one in found["accuracy"][way]], bold=way == "sync")) for way, name in WAYS.items()
    ]
    return {"table": table(("6 x 64, four processes of 2 rows, learning rate 0.02, 5 epochs", "accuracy"), rows)}
