"""Memory kept for results: never while anything uses it, never above the limit, and the results are the same."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import batchnorm
from batchnorm.errors import SettingsError
from batchnorm.kernels import choice, keep_memory, kept_memory, memory, using

MIB = 1 << 20
SHAPE = (16, 64, 32, 72)  # 9 MiB of float32
TEST_TIME = (32, *SHAPE[1:])

choice.current()  # what runs is found when it is first asked for
needs_call = pytest.mark.skipif(choice.layer_call is None, reason="a layer's call is not one step here")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """A limit of its own for each test, and nothing kept when it begins."""
    before = kept_memory().limit
    gc.collect()
    keep_memory(0)
    keep_memory(256 * MIB)
    yield
    keep_memory(before)


@pytest.fixture
def layer() -> batchnorm.BatchNorm2d:
    return batchnorm.BatchNorm2d(SHAPE[1], activation="relu")


def step(layer: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's output and its input's gradient."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    return y, x.grad


@needs_call
def test_memory_of_results_that_are_gone_is_given_again(layer: batchnorm.BatchNorm2d) -> None:
    x = torch.randn(SHAPE)
    step(layer, x)
    held, before = kept_memory().held, kept_memory()
    assert held >= 2 * x.nbytes
    for _ in range(5):
        step(layer, x)
    after = kept_memory()
    assert after.held == held
    assert after.again - before.again == after.asked - before.asked == 10


@needs_call
def test_smaller_batch_finds_memory_of_a_somewhat_larger_one(layer: batchnorm.BatchNorm2d) -> None:
    layer(torch.randn(SHAPE))
    again = kept_memory().again
    layer(torch.randn(SHAPE)[:, :, :, :-1].contiguous())
    assert kept_memory().again == again + 1


@needs_call
def test_small_results_and_brief_ones_are_the_heaps(layer: batchnorm.BatchNorm2d) -> None:
    """What is soon gone goes to a neighbour while a cache still holds it."""
    asked = kept_memory().asked
    step(layer, torch.randn(2, *SHAPE[1:]))
    layer.eval()(torch.randn(SHAPE).requires_grad_(False)).detach()
    with torch.no_grad():
        layer(torch.randn(SHAPE))
        assert kept_memory().asked == asked + 1  # the one that could still be differentiated
        layer(torch.randn(TEST_TIME))
    assert kept_memory().asked == asked + 2


HOLDERS: dict[str, Callable[[Tensor], object]] = {
    "itself": lambda y: y,
    "view": lambda y: y[1:, 2:5],
    "detached": lambda y: y.detach(),
    "array": lambda y: y.detach().numpy(),
    "storage": lambda y: y.untyped_storage(),
    "exported": lambda y: np.from_dlpack(y.detach()),
}


@needs_call
@pytest.mark.parametrize("of", list(HOLDERS))
def test_memory_in_use_is_never_given_again(layer: batchnorm.BatchNorm2d, of: str) -> None:
    """Whatever holds on to a result keeps its values, however many results come after it."""
    y = layer(torch.randn(SHAPE, requires_grad=True))
    expected = y.detach().clone()
    held = HOLDERS[of](y)
    del y
    gc.collect()
    for k in range(4):
        step(layer, torch.full(SHAPE, float(k)))
    if isinstance(held, torch.UntypedStorage):
        held = torch.empty(0).set_(held).view(SHAPE)  # type: ignore[call-overload]
    got = torch.as_tensor(held)
    assert torch.equal(got, expected[1:, 2:5] if of == "view" else expected)


@needs_call
def test_memory_saved_for_a_backward_pass_is_never_given_again() -> None:
    x = torch.randn(SHAPE, requires_grad=True)

    def gradient(*, between: bool) -> Tensor:
        y = batchnorm.BatchNorm2d(SHAPE[1], activation="relu")(x)
        loss = (y * y).sum()
        del y
        for k in range(4 * between):
            step(batchnorm.BatchNorm2d(SHAPE[1]), torch.full(SHAPE, float(k)))
        return torch.autograd.grad(loss, x)[0]

    assert torch.equal(gradient(between=True), gradient(between=False))


@needs_call
def test_threads_never_share_memory() -> None:
    """Each thread's results are what its own batch says, while all take and give back the same sizes."""
    wrong: list[str] = []

    def work(number: int) -> None:
        layer = batchnorm.BatchNorm2d(SHAPE[1]).eval().requires_grad_(False)
        held: list[Tensor] = []
        for k in range(40):
            value = float(1000 * number + k)
            held.append(layer(torch.full(TEST_TIME, value)))
            if len(held) > 3:
                held.pop(0)
            for kept, said in zip(held, range(k - len(held) + 1, k + 1), strict=True):
                expected = (1000 * number + said) / (1 + layer.eps) ** 0.5
                if not bool(((kept - expected).abs() <= 1e-6 * max(1, expected)).all()):
                    wrong.append(f"thread {number}, call {said}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert kept_memory().again > 0


@needs_call
def test_limit_holds_and_the_oldest_goes_first(layer: batchnorm.BatchNorm2d) -> None:
    one = torch.randn(SHAPE)
    keep_memory(30 * MIB)
    results = [layer(one) for _ in range(8)]
    assert kept_memory().held == 0
    del results
    assert 18 * MIB < kept_memory().held <= 30 * MIB
    layer(torch.randn(64, *SHAPE[1:]))  # more than the limit by itself
    assert kept_memory().held <= 30 * MIB
    keep_memory(10 * MIB)
    assert 0 < kept_memory().held <= 10 * MIB


@needs_call
def test_nothing_is_kept_when_switched_off(layer: batchnorm.BatchNorm2d) -> None:
    y = layer(torch.randn(SHAPE))
    asked = keep_memory(0).asked
    del y
    step(layer, torch.randn(SHAPE))
    assert kept_memory().held == kept_memory().limit == 0
    assert kept_memory().asked == asked


@needs_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_results_are_the_same_bits_with_and_without(dtype: torch.dtype) -> None:
    x = torch.randn(SHAPE).to(dtype)
    answers = []
    for limit in (0, 256 * MIB, 256 * MIB):
        keep_memory(limit)
        layer = batchnorm.BatchNorm2d(SHAPE[1], activation="relu", dtype=torch.promote_types(dtype, torch.float32))
        answers.append([t.clone() for t in step(layer, x)])
    for other in answers[1:]:
        for expected, got in zip(answers[0], other, strict=True):
            assert torch.equal(expected, got)


@needs_call
def test_result_may_grow_shrink_and_be_shared(layer: batchnorm.BatchNorm2d) -> None:
    """What torch does to a tensor's memory, it does to these."""
    y = layer(torch.randn(SHAPE)).detach()
    expected = y.clone()
    y.resize_(2 * SHAPE[0], *SHAPE[1:])
    assert torch.equal(y[: SHAPE[0]], expected)
    y = layer(torch.randn(SHAPE)).detach()
    expected = y.clone()
    lazily = torch._lazy_clone(y)
    lazily.add_(1)
    assert torch.equal(y, expected)
    assert torch.equal(lazily, expected + 1)
    y.share_memory_()
    assert torch.equal(y, expected)
    assert y.is_shared()


@needs_call
def test_profiler_sees_what_is_asked_for(layer: batchnorm.BatchNorm2d) -> None:
    x = torch.randn(SHAPE)
    layer(x)
    with torch.profiler.profile(profile_memory=True) as profile:
        y = layer(x)
        del y
    memory = [event.cpu_memory_usage for event in profile.events() if event.name == "[memory]"]
    assert x.nbytes in memory
    assert -x.nbytes in memory


@needs_call
def test_child_process_takes_and_gives_back() -> None:
    """A fork does not inherit a lock that nobody will open."""
    code = (
        "import os, threading, torch, batchnorm\n"
        "torch.set_num_threads(1)\n"
        f"layer = batchnorm.BatchNorm2d({SHAPE[1]})\n"
        f"x = torch.randn{SHAPE}\n"
        "stop = threading.Event()\n"
        "def busy():\n"
        "    while not stop.is_set(): layer(x)\n"
        "threads = [threading.Thread(target=busy) for _ in range(3)]\n"
        "for t in threads: t.start()\n"
        "for _ in range(20):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        layer(x); os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "stop.set()\n"
        "for t in threads: t.join()\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@needs_call
@pytest.mark.parametrize("text", ["-1", "512M", "1.5", "9" * 5000])
def test_variable_that_is_no_number_of_bytes_is_refused_every_time(text: str) -> None:
    code = (
        "import batchnorm.kernels as k\n"
        "for ask in (k.current, k.kept_memory, k.current):\n"
        "    try: print(ask())\n"
        "    except Exception as error: print(type(error).__name__, str(error)[:60])\n"
    )
    environment = {**os.environ, "BATCHNORM_KEEP_BYTES": text}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    said = "SettingsError BATCHNORM_KEEP_BYTES expected a number of bytes"
    assert [line.startswith(said[:60]) for line in ran.stdout.splitlines()] == [True] * 3


@needs_call
def test_container_counts_as_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{160 * MIB}\n")
    (tmp_path / "unlimited").write_text("max\n")
    monkeypatch.setattr(memory, "_CONTAINER", [str(tmp_path / name) for name in ("memory.max", "unlimited", "none")])
    monkeypatch.setattr(memory, "_begun", False)
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    module = choice.layer_module()
    assert module is not None
    memory.begin(module)
    assert kept_memory().limit == 10 * MIB


@needs_call
@pytest.mark.parametrize(("text", "limit"), [("0", 0), ("1048576", MIB)])
def test_variable_sets_the_limit(text: str, limit: int) -> None:
    code = "import batchnorm.kernels as k; print(k.kept_memory().limit)"
    environment = {**os.environ, "BATCHNORM_KEEP_BYTES": text}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(ran.stdout) == limit


@pytest.mark.parametrize("limit", [-1, 1.5, True, "1", None, 1 << 63])
def test_limit_that_is_no_number_of_bytes_is_refused(limit: object) -> None:
    before = kept_memory().limit
    with pytest.raises(SettingsError, match="limit expected a number of bytes"):
        keep_memory(limit)  # type: ignore[arg-type]
    assert kept_memory().limit == before


@needs_call
def test_limit_survives_a_change_of_kernels() -> None:
    keep_memory(5 * MIB)
    with using("spec"):
        assert kept_memory().limit == 5 * MIB
    assert kept_memory().limit == 5 * MIB


@needs_call
def test_results_of_masked_and_of_compiled_layers_are_kept_too() -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    layer = batchnorm.BatchNorm2d(SHAPE[1])
    before = kept_memory().asked
    batchnorm.batch_norm(x, None, None, training=True, mask=torch.ones(SHAPE[0], 1, *SHAPE[2:], dtype=torch.bool))
    assert kept_memory().asked > before
    before = kept_memory().asked
    torch.compile(layer, backend="aot_eager")(x).sum().backward()
    assert kept_memory().asked > before
