"""The native update against torch.optim on the same gradients: same parameters, same memory, in turns too."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.training.small import changed
from torch import Tensor
from torch.testing import assert_close

from batchnorm.kernels import choice
from batchnorm.training.descent import Descent, build_optimizer
from batchnorm.training.network import Network
from batchnorm.training.settings import LEARNING_RATES

RULES = list(LEARNING_RATES)
DTYPES = [torch.float32, torch.float64]


class Descending:
    """A network with made-up gradients, and who updates it."""

    def __init__(self, name: Any, dtype: torch.dtype, decay: float, *, hidden: tuple[int, ...] = (9, 5)) -> None:
        settings = changed(optimizer=name, learning_rate=0.05, weight_decay=decay, hidden=hidden)
        self.network = Network(7, 3, settings).to(dtype)
        self.optimizer = build_optimizer(self.network, settings)
        self.descent = Descent(self.optimizer, name)
        for p in self.network.parameters():
            p.grad = torch.zeros_like(p)

    def step(self, seed: int, *, by_torch: bool = False) -> None:
        random = torch.Generator().manual_seed(seed)
        for p in self.network.parameters():
            assert p.grad is not None
            p.grad.copy_(torch.randn(p.shape, generator=random, dtype=torch.float64) * 0.1)
        self.optimizer.step() if by_torch else self.descent.step()

    def parameters(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.network.parameters()]


@pytest.fixture(params=["native", "spec"], autouse=True)
def kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    pytest.importorskip("batchnorm.kernels._native")
    with choice.using(request.param):
        yield


def assert_near(first: Any, second: Any, dtype: torch.dtype) -> None:
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert_close(first, second, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", RULES)
def test_parameters_and_memory_equal_torch_optim(name: str, decay: float, dtype: torch.dtype) -> None:
    mine, theirs = (Descending(name, dtype, decay) for _ in range(2))
    for seed in range(20):
        mine.step(seed)
        theirs.step(seed, by_torch=True)
    assert_near(mine.parameters(), theirs.parameters(), dtype)
    found, expected = (d.optimizer.state_dict()["state"] for d in (mine, theirs))
    if name == "gd":
        assert not any(v for state in found.values() for v in state.values() if isinstance(v, Tensor))
        return
    assert found.keys() == expected.keys()
    for index, state in expected.items():
        kept = {k: v for k, v in state.items() if v is not None}
        assert found[index].keys() == kept.keys()
        for key, value in kept.items():
            assert_near(found[index][key], value, dtype)


@pytest.mark.parametrize("by_torch_first", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_either_goes_on_for_the_other(name: str, by_torch_first: bool) -> None:
    mine, theirs = (Descending(name, torch.float64, 0.1) for _ in range(2))
    for seed in range(12):
        mine.step(seed, by_torch=(seed < 5) == by_torch_first)
        theirs.step(seed, by_torch=True)
    assert_near(mine.parameters(), theirs.parameters(), torch.float64)


@pytest.mark.parametrize("name", RULES)
def test_memory_that_is_loaded_is_the_one_used(name: str) -> None:
    """The addresses of the memory before would be written to, and what was loaded never looked at."""
    first, second = (Descending(name, torch.float64, 0.1) for _ in range(2))
    for seed in range(6):
        first.step(seed)
    second.step(99)
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.network.load_state_dict(first.network.state_dict())
    for seed in (6, 7):
        first.step(seed)
        second.step(seed)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", RULES)
def test_update_has_the_same_bits_for_any_number_of_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("batchnorm.training.descent.threads_worth", lambda *_, threads=threads: threads)
        descending = Descending(name, torch.float32, 0.1, hidden=(400, 300))
        for seed in range(3):
            descending.step(seed)
        found.append(descending.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_change_is_seen_by_torchs_count_of_changes() -> None:
    if choice.native() is None:
        pytest.skip("torch's own fused update does not count its changes")
    descending = Descending("gd", torch.float32, 0.0)
    before = [p._version for p in descending.network.parameters()]
    descending.step(0)
    assert all(p._version > version for p, version in zip(descending.network.parameters(), before, strict=True))
