"""Threads: the same bits however many there are, no more than torch was told to use, and one pool for both."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.kernels.cases import BF16, F32, F64, Case, given
from tests.kernels.parity import answer, kernels

from batchnorm.functional import batch_norm
from batchnorm.kernels import choice

NATIVE = kernels()[1:]

# Each is divided in another way: columns, chunks of rows, channels, chunks of few channels. Less wakes no thread.
DIVIDED = [
    ((130, 2050), False),
    ((520, 1030), False),
    ((250, 1100), False),
    ((140_001, 2), False),
    ((8051, 33), False),
    ((3, 2, 45_000), False),
    ((1, 1, 270_000), False),
    ((9, 64, 457), False),
    ((6, 24, 43, 45), True),
    ((3, 33, 7, 21, 19), True),
]

linux_only = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux does")


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_as_before")
@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize(("shape", "last"), DIVIDED, ids=str)
def test_bits_are_the_same_for_any_number_of_threads(shape: tuple[int, ...], last: bool, kernel: str) -> None:
    for dtype, (activation, weights) in itertools.product((F32, BF16, F64), ((None, None), ("silu", "counts"))):
        case = Case(shape, dtype, activation, last, weights is not None, weights, draw="uneven")
        torch.set_num_threads(1)
        expected = answer(case, kernel).tensors()
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            found = answer(case, kernel).tensors()
            assert [name for name in expected if not torch.equal(found[name], expected[name])] == [], (case, threads)


@pytest.mark.usefixtures("threads_as_before")
@pytest.mark.parametrize(("shape", "last"), DIVIDED, ids=str)
def test_gradients_are_the_same_for_any_number_of_threads(shape: tuple[int, ...], last: bool) -> None:
    """The whole way through autograd, as a layer goes; torch's own channels-last gradients differ."""
    found = given(Case(shape, F32, last=last))

    def gradients(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        x, gamma, beta = (t.clone().requires_grad_() for t in (found.x, found.gamma, found.beta))
        y = batch_norm(x, None, None, gamma, beta, training=True, activation="relu")
        return [y.detach(), *torch.autograd.grad(y, (x, gamma, beta), found.dy)]

    expected = gradients(1)
    for threads in (2, 3, 4):
        assert all(map(torch.equal, gradients(threads), expected)), threads


RUN = """
import json, os, sys, threading
import torch
torch.set_num_threads({threads})
import batchnorm
from batchnorm.kernels import choice

x = torch.randn(16, 32, 28, 28)
batches = [x.contiguous(memory_format=o).requires_grad_() for o in (torch.contiguous_format, torch.channels_last)]
dy = torch.ones_like(x)

def train():
    before = len(os.listdir("/proc/self/task"))
    for batch in batches:
        batchnorm.batch_norm(batch, None, None, training=True).backward(dy)
    said.append(len(os.listdir("/proc/self/task")) - before)

said = []
{run}
print(json.dumps([said[0], choice.current().kernel]))
"""
HERE, ELSEWHERE = "train()", "thread = threading.Thread(target=train); thread.start(); thread.join()"


@linux_only
@pytest.mark.parametrize("run", [HERE, ELSEWHERE], ids=["main thread", "another thread"])
@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_threads_run_than_torch_was_told(threads: int, run: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    code = RUN.format(threads=threads, run=run)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    more, kernel = json.loads(done.stdout)
    assert more <= threads - 1
    if kernel == "native" and run == ELSEWHERE:  # in the main thread torch has had them already
        assert more == threads - 1


@linux_only
def test_torch_and_the_kernels_share_one_openmp() -> None:
    """Two would each have a pool, and their threads would get in each other's way."""
    code = (
        "import json, torch\nfrom batchnorm.kernels import choice\nchoice.current()\n"
        "from batchnorm.cli.env import environment\nprint(json.dumps(environment()['openmp']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)) == 1


@pytest.mark.skipif(choice.use("auto").kernel != "native", reason="the native kernels were not built here")
def test_a_forked_child_computes_what_its_parent_does() -> None:
    """After a fork OpenMP's threads are gone; torch's rule, one thread in the child, holds here as well."""
    code = (
        "import os, torch, batchnorm\n"
        "x = torch.randn(64, 32, 28, 28)\n"
        "expected = batchnorm.batch_norm(x, None, None, training=True)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(1)\n"
        "    same = torch.equal(batchnorm.batch_norm(x, None, None, training=True), expected)\n"
        "    os._exit(0 if same else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
