"""BatchNorm and ReLU, forward and backward, training and evaluation: this package beside torch eager and a copy.

    python -m benchmarks.layers [--quick] [--seconds 2] [--compiled] [--jax]

The answer first: every gradient of ours must be that of torch's layer in float64, before the clock starts. Then all
rivals in random order in one run, medians, ratios; torch eager twice, so that the noise is seen. `copy` is
`y.copy_(x)`, what reading and writing the tensor once costs. Nothing is preallocated: each side pays for its memory,
ours as users have it (docs/decisions/0012-memory-of-results.md; BATCHNORM_KEEP_BYTES=0 is without).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from benchmarks.clock import medians
from benchmarks.machine import append_row, line
from torch import Tensor, nn

import batchnorm
from batchnorm.kernels import choice, kept_memory


class Case(NamedTuple):
    """One tensor, and how many times faster than torch eager a training step is to be; None: not below 0.95."""

    shape: tuple[int, ...]
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    reach: float | None = None

    @property
    def name(self) -> str:
        dtype = "" if self.dtype == torch.float32 else f" {str(self.dtype).removeprefix('torch.')}"
        return f"{self.shape}{' channels-last' if self.channels_last else ''}{dtype}"

    def tensor(self) -> Tensor:
        x = torch.randn(self.shape).to(self.dtype)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


TABLE = (
    Case((32, 64, 56, 56), reach=4.5),
    Case((32, 64, 56, 56), channels_last=True, reach=2.0),
    Case((32, 256, 14, 14), reach=3.5),
    Case((32, 256, 14, 14), channels_last=True, reach=1.8),
    Case((32, 512, 7, 7), reach=3.5),
    Case((16, 3, 224, 224), reach=3.5),
    Case((65536, 64), reach=2.0),
    Case((1024, 1024), reach=1.6),
    Case((256, 512), reach=2.2),
    Case((64, 100), reach=0.95),
    Case((32, 64, 56, 56), dtype=torch.bfloat16, reach=2.5),
)
ELSEWHERE = (
    Case((2, 10)),
    Case((8, 1000)),
    Case((4096, 7)),
    Case((10, 33, 129)),
    Case((64, 16, 32, 32)),
    Case((1, 128, 64, 64)),
    Case((4, 2048, 7, 7)),
    Case((8, 3, 64, 64), channels_last=True),
    Case((128, 32, 8, 8), channels_last=True),
    Case((256, 64, 56, 56)),
    Case((2, 32, 16, 32, 32)),
    Case((200000, 13)),
    Case((64, 128, 28, 28), dtype=torch.float16),
    Case((128, 256), dtype=torch.float64),
)
OTHERS = ("torch.compile", "jax.jit", "ours compiled")
QUICK = (TABLE[0], TABLE[4], TABLE[6], TABLE[9])


def main() -> None:
    """Print the table and keep a CSV row per case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four cases")
    parser.add_argument("--seconds", type=float, default=2.0, help="per case and mode")
    parser.add_argument("--compiled", action="store_true", help="torch.compile as a rival, and ours under it")
    parser.add_argument("--jax", action="store_true", help="jax.jit as a rival")
    args = parser.parse_args()
    print(line())
    print(f"kernels: {choice.current()}, a layer's call in one step: {choice.layer_call is not None}")
    print(f"memory of ours' results kept: {kept_memory().limit >> 20} MiB at most\n")
    print("training step of BatchNorm + ReLU; eager / ours, after torch eager against itself")
    gains = []
    for case in QUICK if args.quick else (*TABLE, *ELSEWHERE):
        found = training(case, seconds=args.seconds, compiled=args.compiled, jax=args.jax)
        gain = found["eager"] / found["ours"]
        gains += [gain] if case in TABLE else []
        asked = f"reach {case.reach}" if case.reach else "at least 0.95"
        others = "".join(f"  {name} {found[name] / found['ours']:5.2f}x" for name in OTHERS if name in found)
        print(
            f"  {case.name:38s} control {found['eager again'] / found['eager']:4.2f}  eager/copy "
            f"{found['eager'] / found['copy']:5.1f}  ours/copy {found['ours'] / found['copy']:5.2f}  forward/copy "
            f"{found['forward'] / found['copy']:5.2f}  {gain:5.2f}x ({asked}){others}",
            flush=True,
        )
        row = {"mode": "training step", "case": case.name, "reach": case.reach or 0.95, "eager / ours": round(gain, 3)}
        ratios = {f"{name} / copy": round(found[name] / found["copy"], 3) for name in ("eager", "ours", "forward")}
        row |= {**ratios, "control": round(found["eager again"] / found["eager"], 3)}
        if others:
            extra = {f"{n} / ours": round(found[n] / found["ours"], 3) if n in found else "" for n in OTHERS}
            append_row("layers_others", {"case": case.name, **extra})
        append_row("layers", row)
    print(f"  geometric mean over the table: {math.exp(sum(map(math.log, gains)) / len(gains)):.2f}x (2.3, goal 3)")
    print("\nevaluation forward; eager / ours: alone (at least 1.0), with ReLU (at least 1.5)")
    for case in QUICK if args.quick else (*TABLE, *ELSEWHERE):
        found = evaluation(case, seconds=args.seconds)
        alone, with_relu = found["eager"] / found["ours"], found["eager relu"] / found["ours relu"]
        control = found["eager again"] / found["eager"]
        print(f"  {case.name:38s} control {control:4.2f}  alone {alone:5.2f}x  with ReLU {with_relu:5.2f}x", flush=True)
        row = {"mode": "evaluation", "case": case.name, "control": round(control, 3)}
        append_row("layers_evaluation", {**row, "alone": round(alone, 3), "with ReLU": round(with_relu, 3)})


def training(case: Case, *, seconds: float, compiled: bool = False, jax: bool = False) -> dict[str, float]:
    """Median seconds of a training step (forward and backward), of ours' forward alone, and of a copy."""
    theirs, ours = layers(case, activation="relu")
    check(case, theirs, ours)
    x, dy = case.tensor().requires_grad_(), case.tensor()
    to = torch.empty_like(x, requires_grad=False)

    def eager() -> None:
        x.grad = None
        torch.relu(theirs(x)).backward(dy)

    def step() -> None:
        x.grad = None
        ours(x).backward(dy)

    def forward() -> None:
        with torch.no_grad():
            ours(x)

    rivals: dict[str, Callable[[], object]] = {
        "eager": eager,
        "eager again": lambda: eager(),
        "ours": step,
        "forward": forward,
        "copy": lambda: to.copy_(x.detach()),
    }
    if compiled:
        rivals["torch.compile"] = compiled_step(nn.Sequential(layers(case, activation=None)[0], nn.ReLU()), x, dy)
        rivals["ours compiled"] = compiled_step(ours, x, dy)
    if jax:
        rivals["jax.jit"] = jax_step(case, x.detach(), dy)
    return medians(rivals, seconds=seconds)


def evaluation(case: Case, *, seconds: float) -> dict[str, float]:
    """Median seconds of a forward pass by running statistics, alone and with ReLU."""
    theirs, alone = layers(case, activation=None)
    _, fused = layers(case, activation="relu")
    for layer in (theirs, alone, fused):
        layer.eval()
    x = case.tensor()
    rivals: dict[str, Callable[[], object]] = {
        "eager": lambda: theirs(x),
        "eager again": lambda: theirs(x),
        "eager relu": lambda: torch.relu(theirs(x)),
        "ours": lambda: alone(x),
        "ours relu": lambda: fused(x),
    }
    with torch.inference_mode():
        torch.testing.assert_close(alone(x), theirs(x), rtol=2e-2 if x.dtype.itemsize == 2 else 1e-4, atol=1e-2)
        return medians(rivals, seconds=seconds)


def layers(case: Case, *, activation: str | None) -> tuple[nn.Module, nn.Module]:
    """torch's layer and ours, for a case; parameters in float32 beside narrower values, as people have them."""
    rank = max(1, len(case.shape) - 2)
    dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    theirs = getattr(nn, f"BatchNorm{rank}d")(case.shape[1], dtype=dtype)
    ours = getattr(batchnorm, f"BatchNorm{rank}d")(case.shape[1], dtype=dtype, activation=activation)
    return theirs, ours


def check(case: Case, theirs: nn.Module, ours: nn.Module) -> None:
    """Output and gradients of ours are torch's in float64, to the case's rounding."""
    x, dy = case.tensor(), case.tensor()
    wide, own = x.double().clone().requires_grad_(), x.clone().requires_grad_()
    exact = type(theirs)(case.shape[1], dtype=torch.float64)
    # A value at ReLU's corner takes its whole gradient to whichever side it rounds: of fifty million one may well.
    dy = torch.where(exact(wide).abs() < 1e-6, 0, dy)
    answers = []
    for layer, values in ((exact, wide), (ours, own)):
        y = layer(values)
        (torch.relu(y) if layer is exact else y).backward(dy.to(y.dtype))
        answers.append((values.grad, layer.weight.grad, layer.bias.grad))
    for expected, got in zip(*answers, strict=True):
        # Of two rows the gradients cancel: what is left is measured by what went in.
        size = expected.abs().max().clamp(min=0.1 * float(dy.abs().max()))
        error = float((got.double() - expected).abs().max() / size)
        # A value that rounds to the other side of ReLU's corner takes its whole gradient with it: 16-bit values do.
        if not error < (1e-5 if case.dtype.itemsize >= 4 else 0.2):
            raise AssertionError(f"{case.name}: a gradient is off by {error:.1e} of the largest")


def compiled_step(module: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    """The same training step of a module under torch.compile."""
    compiled = torch.compile(module)

    def step() -> None:
        x.grad = None
        compiled(x).backward(dy)

    return step


def jax_step(case: Case, x: Tensor, dy: Tensor) -> Callable[[], object]:
    """The same training step in JAX, compiled once for this shape."""
    import jax
    import jax.numpy as jnp

    axes = tuple(d for d in range(len(case.shape)) if d != 1)
    view = tuple(-1 if d == 1 else 1 for d in range(len(case.shape)))

    def layer(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return jnp.maximum((x - mean) * jax.lax.rsqrt(var + 1e-5) * gamma.reshape(view) + beta.reshape(view), 0)

    @jax.jit
    def step(x: jax.Array, gamma: jax.Array, beta: jax.Array, dy: jax.Array) -> object:
        y, back = jax.vjp(layer, x, gamma, beta)
        return y, back(dy)

    values = [jnp.asarray(t.float().numpy()) for t in (x, torch.ones(case.shape[1]), torch.zeros(case.shape[1]), dy)]
    return lambda: jax.block_until_ready(step(*values))


if __name__ == "__main__":
    main()
