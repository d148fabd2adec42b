"""Steps against the same network in torch.nn's layers, with autograd and torch.optim: no line shared with the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.training.small import Examples, assembled, changed, clouds, differing, plane, state, turned
from torch import Tensor, nn
from torch.testing import assert_close

from batchnorm.training.assemble import Assembly
from batchnorm.training.batches import order
from batchnorm.training.objective import Task

DECAY = 0.01
STEPS = 12
REFERENCES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "gd": lambda groups: torch.optim.SGD(groups, lr=0.05),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.05, alpha=0.9),
    "adam": lambda groups: torch.optim.AdamW(groups, lr=0.05),
}


class Plain(nn.Module):
    """One hidden layer in torch.nn's own words, with an assembly's first weights and its normalized rows."""

    def __init__(self, assembly: Assembly, train: Examples, task: Task) -> None:
        super().__init__()
        first = state(assembly)
        inputs, hidden, outputs = train.x.shape[1], 8, assembly.network.head.out_features
        self.linear, self.head = nn.Linear(inputs, hidden, bias=False), nn.Linear(hidden, outputs)
        self.norm = nn.BatchNorm1d(hidden)
        self.double()
        self.linear.load_state_dict({"weight": first["layers.0.linear.weight"]})
        self.head.load_state_dict({k: first[f"head.{k}"] for k in ("weight", "bias")})
        x = torch.from_numpy(train.x)
        self.x = (x - x.mean(0)) / x.std(0, correction=0)
        self.y = torch.from_numpy(train.y)
        if task == "regression":
            self.y = (self.y - self.y.mean()) / self.y.std(correction=0)
        self.task = task

    def loss(self, rows: Tensor) -> Tensor:
        scores = self.head(torch.tanh(self.norm(self.linear(self.x[rows]))))
        if self.task == "classification":
            return F.cross_entropy(scores, self.y[rows])
        return F.mse_loss(scores[:, 0], self.y[rows])


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("name", REFERENCES)
def test_training_equals_torch_optim_on_torch_nn(name: Any, decay: float, task: Task) -> None:
    train = clouds(40) if task == "classification" else plane(40)
    settings = changed(
        hidden=(8,), optimizer=name, learning_rate=0.05, weight_decay=decay, batch_size=10, steps=STEPS, epochs=99
    )
    assembly = assembled(settings, task=task, train=train, dtype=torch.float64)
    plain = Plain(assembly, train, task)
    weights = [plain.linear.weight, plain.head.weight]
    others = [plain.norm.weight, plain.norm.bias, plain.head.bias]
    optimizer = REFERENCES[name](
        [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
    )
    for step in range(STEPS):
        rows = order(40, seed=settings.seed, epoch=step // 4, device=torch.device("cpu"))[step % 4 * 10 :][:10]
        optimizer.zero_grad()
        plain.loss(rows).backward()
        optimizer.step()
    found = state(turned(assembly))
    expected = {f"layers.0.{k}": v for k, v in plain.state_dict().items() if not k.startswith("head")}
    expected |= {f"head.{k}": v for k, v in plain.head.state_dict().items()}
    for key, value in expected.items():
        # torch.nn keeps running statistics in the model's float64, ours too.
        assert_close(
            found[key], value.to(found[key].dtype), rtol=1e-7, atol=1e-9, msg=lambda text, k=key: f"{k}: {text}"
        )


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("name", REFERENCES)
def test_weight_decay_pulls_on_weights_and_never_on_gamma_beta_or_biases(name: Any, norm: Any) -> None:
    """One step from the same place with and without: only what is decayed may differ."""
    first, second = (
        state(turned(assembled(changed(optimizer=name, weight_decay=decay, norm=norm, steps=1))))
        for decay in (0.0, DECAY)
    )
    assert differing(first, second) == {"layers.0.linear.weight", "layers.1.linear.weight", "head.weight"}


def test_weight_decay_in_gradient_descent_shrinks_by_rate_times_decay() -> None:
    options: dict[str, Any] = {"optimizer": "gd", "learning_rate": 0.1, "steps": 1}
    began = state(assembled(changed(**options)))
    without, decayed = (state(turned(assembled(changed(**options, weight_decay=d)))) for d in (0.0, 0.5))
    for name in ("layers.0.linear.weight", "head.weight"):
        assert_close(decayed[name], without[name] - 0.1 * 0.5 * began[name], rtol=1e-5, atol=1e-7)
