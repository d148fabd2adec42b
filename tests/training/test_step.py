"""The step written out by hand against autograd on the network itself, in float64, over every option."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from batchnorm.errors import StatisticsWarning
from batchnorm.kernels import choice
from batchnorm.training import compiled, products, tape
from batchnorm.training.network import Network
from batchnorm.training.objective import Objective, Task
from batchnorm.training.settings import ACTIVATIONS, Settings
from batchnorm.training.step import Step

INPUTS, CLASSES, ROWS = 5, 3, 8
PLAIN = Settings(hidden=(7, 4), activation="tanh", dropout=0.0)


class Batch(NamedTuple):
    """One mini-batch: (N, inputs), (N,), and how often and how much each row counts, (N,)."""

    x: Tensor
    y: Tensor
    counts: Tensor | None
    weights: Tensor | None


def batch(task: Task, *, counted: bool, weighted: bool, rows: int = ROWS) -> Batch:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(rows, INPUTS, generator=random, dtype=torch.float64)
    if task == "classification":
        y = torch.randint(0, CLASSES, (rows,), generator=random)
    else:
        y = torch.randn(rows, generator=random, dtype=torch.float64)
    # A row that counts 0 times in the statistics weighs nothing in the loss, as training has it.
    counts = torch.tensor([2.0, 1, 0, 3, 1, 1, 2, 1], dtype=torch.float64)[:rows]
    weights = torch.tensor([0.5, 2, 0, 1, 3, 0.1, 1, 1], dtype=torch.float64)[:rows]
    if counted and not weighted:
        weights, weighted = counts, True
    return Batch(x, y, counts if counted else None, weights if weighted else None)


def network(settings: Settings, task: Task) -> Network:
    built = Network(INPUTS, CLASSES if task == "classification" else 1, settings).double().train()
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():  # gamma, beta and the biases off 1 and 0
        for parameter in built.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) * 0.3)
    return built


def assert_step_equals_autograd(settings: Settings, task: Task, given: Batch) -> None:
    objective = Objective(task)
    by_hand, by_autograd = network(settings, task), network(settings, task)

    step = Step(by_hand, objective)
    torch.manual_seed(9)  # of dropout
    loss = step.gradients(given.x, given.y, counts=given.counts, weights=given.weights)

    torch.manual_seed(9)
    expected = objective.loss(
        by_autograd.body(given.x, None if given.counts is None else given.counts[:, None]), given.y, given.weights
    )
    expected.backward()

    assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-12)
    for (name, mine), theirs in zip(by_hand.named_parameters(), by_autograd.parameters(), strict=True):
        assert mine.grad is not None, name
        assert theirs.grad is not None, name
        assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")
    for (name, statistic), theirs in zip(by_hand.named_buffers(), by_autograd.buffers(), strict=True):
        assert_close(statistic, theirs, rtol=1e-12, atol=1e-14, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(params=["auto", "spec"])
def kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """The compiled step where it can be, and torch's own operations."""
    with choice.using(request.param):
        yield


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_equal_autograd(
    activation: str, placement: str, norm: str | None, dropout: float, task: Task
) -> None:
    settings = replace(PLAIN, activation=activation, placement=placement, norm=norm, dropout=dropout)
    for counted, weighted in itertools.product([False, True], repeat=2):
        assert_step_equals_autograd(settings, task, batch(task, counted=counted, weighted=weighted))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("hidden", [(), (1,), (6, 5, 4, 3)], ids=str)
def test_gradients_equal_autograd_at_any_depth(hidden: tuple[int, ...], task: Task) -> None:
    assert_step_equals_autograd(replace(PLAIN, hidden=hidden), task, batch(task, counted=True, weighted=True))


@pytest.mark.usefixtures("kernel")
def test_gradients_of_two_rows_equal_autograd() -> None:
    given = batch("classification", counted=False, weighted=False, rows=2)
    assert_step_equals_autograd(replace(PLAIN, eps=1e-3), "classification", given)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_momentum_reaches_the_running_statistics(momentum: float) -> None:
    given = batch("classification", counted=False, weighted=False)
    assert_step_equals_autograd(replace(PLAIN, momentum=momentum), "classification", given)


@pytest.mark.usefixtures("kernel")
def test_gradients_are_replaced_in_place_at_every_step() -> None:
    built = network(PLAIN, "classification")
    step = Step(built, Objective("classification"))
    given = batch("classification", counted=False, weighted=False)
    step.gradients(given.x, given.y, counts=None, weights=None)
    first = [(p.grad.data_ptr(), p.grad.clone()) for p in built.parameters()]
    step.gradients(given.x, given.y, counts=None, weights=None)
    for (place, value), parameter in zip(first, built.parameters(), strict=True):
        assert parameter.grad.data_ptr() == place
        assert_close(parameter.grad, value, rtol=0, atol=0)


@pytest.mark.usefixtures("kernel")
def test_rows_given_are_left_as_they_were() -> None:
    built = network(PLAIN, "classification")
    given = batch("classification", counted=True, weighted=True)
    before = [t.clone() for t in given]
    Step(built, Objective("classification")).gradients(given.x, given.y, counts=given.counts, weights=given.weights)
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


@pytest.mark.usefixtures("kernel")
def test_float32_step_equals_autograd_to_its_rounding() -> None:
    given = batch("classification", counted=False, weighted=False)
    objective, x = Objective("classification"), given.x.float()
    by_hand, by_autograd = (network(PLAIN, "classification").float() for _ in range(2))
    Step(by_hand, objective).gradients(x, given.y, counts=None, weights=None)
    objective.loss(by_autograd.body(x), given.y).backward()
    for mine, theirs in zip(by_hand.parameters(), by_autograd.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(by_hand.buffers(), by_autograd.buffers(), strict=True):
        assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_step_with_torchs_products_equals_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs where the library's products of large matrices are the faster."""
    monkeypatch.setattr(tape, "WORTH_ASKING", 0)
    monkeypatch.setattr("batchnorm.training.step.faster", lambda *_: "torch")
    for norm in ("batch", None):
        settings = replace(PLAIN, norm=norm, dropout=0.3)
        assert_step_equals_autograd(settings, "classification", batch("classification", counted=True, weighted=True))


def test_rows_of_a_source_give_the_gradients_of_the_same_rows_given() -> None:
    given, rows = batch("classification", counted=True, weighted=True), torch.tensor([5, 0, 3, 3])
    built = network(PLAIN, "classification")
    step = Step(built, Objective("classification"), source=compiled.Batch(*given))
    loss = step.gradients_of(rows).clone()
    of_source = [p.grad.clone() for p in built.parameters()]
    assert given.counts is not None
    assert given.weights is not None
    taken = step.gradients(given.x[rows], given.y[rows], counts=given.counts[rows], weights=given.weights[rows])
    assert float(taken) == float(loss)
    for parameter, gradient in zip(built.parameters(), of_source, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert float(step.gradients_of(rows)) == float(loss)


def test_step_has_the_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 200, generator=random), torch.randint(0, 3, (90,), generator=random)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("batchnorm.training.step.threads_worth", lambda *_, threads=threads: threads)
        built = Network(200, 3, replace(PLAIN, hidden=(120, 70))).train()
        Step(built, Objective("classification")).gradients(x, y, counts=None, weights=None)
        found.append([p.grad for p in built.parameters()])
    for gradients in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients, found[0], strict=True))


def test_running_statistics_that_refuse_a_batch_say_so_once() -> None:
    given = batch("classification", counted=False, weighted=False)
    built = network(replace(PLAIN, hidden=(7,)), "classification").float()
    step, x = Step(built, Objective("classification")), given.x.float().fill_(3e38)
    x[0] = -3e38
    with pytest.warns(StatisticsWarning, match=r"BatchNorm1d\(7\)"):
        step.gradients(x, given.y, counts=None, weights=None)
    step.gradients(x, given.y, counts=None, weights=None)


def test_library_is_taken_only_for_the_same_answer_in_clearly_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module = choice.native()
    if module is None:
        pytest.skip("needs the compiled kernels")
    assert products.faster(module, 10, 10, 10, torch.float32) == "native"  # not worth asking
    times = iter([1.0] * 5 + [0.5] * 5 + [1.0] * 5 + [0.9] * 5)

    def clock(work: Callable[[], object]) -> float:
        work()
        return next(times)

    monkeypatch.setattr(products, "_seconds", clock)
    assert products.faster(module, 300, 400, 400, torch.float32) == "torch"
    assert products.faster(module, 300, 400, 400, torch.float32) == "native"
    times = iter([1.0] * 5 + [0.1] * 5)
    monkeypatch.setattr(torch, "mm", lambda a, b, out: out.fill_(7))
    assert products.faster(module, 300, 400, 400, torch.float32) == "native"
