"""A seed reproduces a run bit by bit, and a run leaves the process as it found it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.training.small import QUICK, assembled, changed, clouds, differing, state, trained, turned

from batchnorm.training.experiment import perform
from batchnorm.training.loop import own_randomness
from batchnorm.training.network import Network
from batchnorm.training.plan import Plan
from batchnorm.training.threads import suited_to

DROPPING = changed(dropout=0.3)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (trained(DROPPING, valid=clouds(30, seed=1)) for _ in range(2))
    assert not differing(state(first), state(second))
    assert [(e.train_loss, e.valid_loss) for e in first.run.progress.curve] == [
        (e.train_loss, e.valid_loss) for e in second.run.progress.curve
    ]


def test_the_same_seed_gives_the_same_bits_in_another_process() -> None:
    code = "from tests.training.test_randomness import *; print(digest(state(trained(DROPPING))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(state(trained(DROPPING)))


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """Of every bit."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors.values())).hexdigest()


@pytest.mark.parametrize("seeds", [(0, 1), (7, 2**32 - 1)])
def test_another_seed_gives_another_run(seeds: tuple[int, int]) -> None:
    first, second = (state(trained(changed(seed=seed))) for seed in seeds)
    assert differing(first, second) >= {"layers.0.linear.weight", "head.weight"}


def test_the_seed_is_all_that_decides_whatever_was_drawn_before() -> None:
    first = state(trained(DROPPING))
    torch.manual_seed(123456)
    torch.rand(1000)
    np.random.default_rng().random(10)
    assert not differing(first, state(trained(DROPPING)))


def test_building_a_network_draws_nothing_from_the_global_generators() -> None:
    """nn.Linear draws weights when it is made, from the generator that the caller's own code goes on with."""
    before = torch.get_rng_state()
    Network(4, 3, QUICK)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_a_whole_experiment_leaves_generators_threads_and_modes_alone(wine: Plan, two_threads: None) -> None:
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert perform(wine) is not None
    assert torch.get_num_threads() == 2
    assert torch.equal(random, torch.get_rng_state())
    assert (numpy_random == np.random.get_state()[1]).all()
    assert torch.is_grad_enabled()


def test_own_randomness_is_undone_when_the_body_raises() -> None:
    def draw_and_fail() -> None:
        with own_randomness(5, torch.device("cpu")):
            torch.rand(3)
            raise RuntimeError("out of luck")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of luck"):
        draw_and_fail()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("hidden", "inside"), [((5,), 1), ((4000, 4000), 2)])
def test_threads_suit_the_products_and_are_restored_even_when_the_body_raises(
    hidden: tuple[int, ...], inside: int, two_threads: None
) -> None:
    def fail_inside() -> None:
        with suited_to(network, 64):
            assert torch.get_num_threads() == inside
            raise RuntimeError("out of luck")

    network = Network(4, 3, changed(hidden=hidden))
    with pytest.raises(RuntimeError, match="out of luck"):
        fail_inside()
    assert torch.get_num_threads() == 2


def test_the_twin_sees_the_same_batches_in_the_same_order() -> None:
    runs = [assembled(changed(norm=norm)).run for norm in ("batch", None)]
    seen: list[list[torch.Tensor]] = [[], []]
    for run, taken in zip(runs, seen, strict=True):
        gradients = run.formulas.gradients_of

        def watch(rows: torch.Tensor, taken=taken, gradients=gradients) -> torch.Tensor:
            taken.append(rows.clone())
            return gradients(rows)

        run.formulas.gradients_of = watch  # type: ignore[method-assign]
        for _ in range(8):
            run.step()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_an_interrupted_turn_leaves_the_callers_generator_alone() -> None:
    before = torch.get_rng_state()
    turned(assembled(DROPPING), after=4)
    assert torch.equal(before, torch.get_rng_state())
