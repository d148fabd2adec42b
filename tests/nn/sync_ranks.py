"""What each process does in test_sync: every case on its own rows, answers into a file."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from batchnorm.kernels import choice
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d

CHANNELS = 3
SYNCHRONIZED = {2: SyncBatchNorm1d, 3: SyncBatchNorm1d, 4: SyncBatchNorm2d, 5: SyncBatchNorm3d}
PLAIN = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}


@dataclass(frozen=True)
class Case:
    """One layer on one batch that is spread over processes.

    Attributes:
        rows: how many each process has; () stands for a split that has an empty process and one with a single row.
        positions: the shape after (N, C).
    """

    positions: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    activation: str | None = None
    residual: bool = False
    masked: bool = False
    affine: bool = True
    momentum: float | None = 0.1
    debias: bool = False
    channels_last: bool = False
    mean: float = 3.0
    kernel: str = "auto"

    def split(self, world: int) -> list[int]:
        return list(self.rows[:world]) if self.rows else {2: [5, 1], 4: [3, 0, 1, 4]}[world]


CASES = {
    "rows": Case(),
    "an empty process": Case(rows=(6, 0, 5, 0)),
    "by the specification": Case(kernel="spec", activation="tanh", residual=True),
    "float64": Case(dtype=torch.float64, activation="gelu", residual=True),
    "bfloat16": Case(dtype=torch.bfloat16, positions=(4, 4)),
    "sequences": Case(positions=(5,), activation="relu"),
    "images": Case(positions=(4, 3), residual=True),
    "images channels-last": Case(positions=(4, 3), activation="silu", residual=True, channels_last=True),
    "volumes": Case(positions=(2, 2, 3)),
    "masked": Case(positions=(5,), masked=True, activation="sigmoid", residual=True),
    "masked rows of no residual": Case(masked=True, rows=(4, 3, 5, 2)),
    "without gamma and beta": Case(affine=False),
    "plain average": Case(momentum=None),
    "debiased": Case(debias=True, momentum=0.01),
    "large mean": Case(mean=1e4),
}


def layer_of(case: Case, kinds: dict[int, Any]) -> nn.Module:
    layer = kinds[2 + len(case.positions)](
        CHANNELS, affine=case.affine, momentum=case.momentum, activation=case.activation, debias=case.debias
    )
    if case.affine:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, -1.5, 2.0]))
            layer.bias.copy_(torch.tensor([0.25, 0.0, -0.5]))
    return layer.to(case.dtype)


def whole_batch(case: Case, world: int) -> dict[str, Tensor]:
    """x, dy, residual and mask of all processes' rows."""
    generator = torch.Generator().manual_seed(7)
    shape = (sum(case.split(world)), CHANNELS, *case.positions)
    drawn = {name: torch.randn(shape, generator=generator).to(case.dtype) for name in ("x", "dy", "residual")}
    drawn["x"] = (drawn["x"] * 2 + case.mean).to(case.dtype)
    if case.channels_last:
        drawn = {name: t.contiguous(memory_format=torch.channels_last) for name, t in drawn.items()}
    mask = torch.rand((shape[0], 1, *case.positions), generator=generator) < 0.7
    mask.view(-1)[-1] = mask.view(-1)[0] = True
    return drawn | {"mask": mask}


def solve(layer: nn.Module, case: Case, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """y and every gradient, and the statistics after two calls."""
    x, residual = batch["x"].clone().requires_grad_(), batch["residual"].clone().requires_grad_()
    given = {"residual": residual} if case.residual else {}
    if case.masked:
        given["mask"] = batch["mask"]
    y = layer(x, **given)
    y.backward(batch["dy"])
    answers = {"y": y.detach(), "x": x.grad}
    if case.residual:
        answers["residual"] = residual.grad
    answers |= {name: p.grad for name, p in layer.named_parameters()}
    layer(x.detach() * 2 + 1, **given)
    return answers | {name: b.clone() for name, b in layer.named_buffers()}


def part(batch: dict[str, Tensor], sizes: list[int], rank: int) -> dict[str, Tensor]:
    """This process's rows."""
    return {name: t.split(sizes)[rank] for name, t in batch.items()}


def network(kind: Any) -> nn.Module:
    """Two layers to train, the same in every process."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6, bias=False), kind(6, activation="relu"), nn.Linear(6, 2, bias=False), kind(2))


def train(model: nn.Module, batches: list[tuple[Tensor, Tensor]], scale: float) -> dict[str, Tensor]:
    """SGD on the sum of squares times `scale`: parameters and buffers at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, target in batches:
        optimizer.zero_grad()
        (((model(x) - target) ** 2).sum() * scale).backward()
        optimizer.step()
    return {name.removeprefix("module."): t.detach().clone() for name, t in model.state_dict().items()}


def training_batches(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(11)
    rows = sum(sizes)
    return [
        (torch.randn(rows, 4, generator=generator) + 1, torch.randn(rows, 2, generator=generator)) for _ in range(3)
    ]


def work(rank: int, world: int, folder: str) -> None:
    """All cases in one process of `world`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        sizes = case.split(world)
        with choice.using(case.kernel):
            found[name] = solve(layer_of(case, SYNCHRONIZED), case, part(whole_batch(case, world), sizes, rank))
    found["trained"] = _trained(rank, world)
    found["checkpointed"] = _checkpointed(rank, world)
    found["compiled"] = _compiled(rank, world)
    found["one value"] = _refused(rank)
    found["group"] = _in_a_group(rank, world)
    dist.barrier()
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def _trained(rank: int, world: int) -> dict[str, Tensor]:
    sizes = CASES["rows"].split(world)
    model = DistributedDataParallel(network(SyncBatchNorm1d))
    batches = [(x.split(sizes)[rank], t.split(sizes)[rank]) for x, t in training_batches(sizes)]
    # DDP takes the mean over processes of sums over their rows.
    return train(model, batches, world / sum(sizes))


def _checkpointed(rank: int, world: int) -> dict[str, Tensor]:
    case = CASES["rows"]
    batch = part(whole_batch(case, world), case.split(world), rank)
    layer, x = layer_of(case, SYNCHRONIZED), batch["x"].clone().requires_grad_()
    checkpoint(layer, x, use_reentrant=False).backward(batch["dy"])
    return {"x": x.grad, "counted": layer.num_batches_tracked}


def _compiled(rank: int, world: int) -> dict[str, Tensor]:
    case = CASES["rows"]
    batch = part(whole_batch(case, world), case.split(world), rank)
    layer, x = layer_of(case, SYNCHRONIZED), batch["x"].clone().requires_grad_()
    torch.compile(layer, backend="aot_eager")(x).backward(batch["dy"])
    return {"x": x.grad, "running_var": layer.running_var}


def _refused(rank: int) -> str:
    try:
        SyncBatchNorm1d(CHANNELS)(torch.ones(1 if rank == 0 else 0, CHANNELS))
    except ValueError as error:
        return str(error)
    return ""


def _in_a_group(rank: int, world: int) -> dict[str, Any]:
    """The first process by itself, the others together; and a layer of another group than the process's own."""
    groups = [dist.new_group([0]), dist.new_group(list(range(1, world)))]
    case = CASES["rows"]
    batch = part(whole_batch(case, world), [2] * (world - 1) + [sum(case.split(world)) - 2 * (world - 1)], rank)
    own, other = (groups[0], groups[1]) if rank == 0 else (groups[1], groups[0])
    layer = copy.deepcopy(SyncBatchNorm1d(CHANNELS, process_group=own))
    layer(batch["x"])
    layer.process_group = other
    try:
        layer(batch["x"])
    except ValueError as error:
        return {"x": batch["x"], "running_mean": layer.running_mean, "said": str(error)}
    return {}
