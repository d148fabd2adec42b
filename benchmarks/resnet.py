"""A training step of torchvision's ResNet-18, batch 32 at 128 x 128: `convert(model)` beside the untouched model.

    python -m benchmarks.resnet [--seconds 60]

Same weights, same batch; before the clock the converted model's gradients must be the untouched one's. Random order,
medians, and the untouched model against itself for the noise.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from benchmarks.clock import medians
from benchmarks.machine import append_row, line
from tests.surgery.libraries import loaded
from torch import Tensor, nn

import batchnorm


def main() -> None:
    """Print both layouts and keep a CSV row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="per layout")
    seconds = parser.parse_args().seconds
    print(line())
    for layout, asked in (("contiguous", 1.2), ("channels-last", 1.05)):
        last = torch.channels_last if layout == "channels-last" else torch.contiguous_format
        torch.manual_seed(0)
        untouched = loaded("torchvision").models.resnet18().to(memory_format=last)
        converted = copy.deepcopy(untouched)
        x = torch.randn(32, 3, 128, 128).contiguous(memory_format=last)
        report = batchnorm.convert(converted)
        y = torch.randint(0, 1000, (32,))
        check(untouched, converted, x, y)
        rivals: dict[str, Callable[[], object]] = {
            "untouched": step(untouched, x, y),
            "untouched again": step(untouched, x, y),
            "converted": step(converted, x, y),
        }
        found = medians(rivals, seconds=seconds)
        ratio, control = found["untouched"] / found["converted"], found["untouched again"] / found["untouched"]
        print(f"  {layout:14s} {ratio:.2f}x (asked {asked}), control {control:.2f}; {report.counts}")
        append_row("resnet", {"case": layout, "asked": asked, "ratio": round(ratio, 3), "control": round(control, 3)})


def step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Forward, loss and backward."""

    def run() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()

    return run


def check(untouched: nn.Module, converted: nn.Module, x: Tensor, y: Tensor) -> None:
    """The same gradients, to what float32 keeps through twenty layers."""
    for model in (untouched, converted):
        step(model, x[:8], y[:8])()
    for (name, a), b in zip(untouched.named_parameters(), converted.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        error = float((a.grad - b.grad).norm() / a.grad.norm())
        if not error < 1e-2:
            raise AssertionError(f"{name}: gradients differ by {error:.1e}")


if __name__ == "__main__":
    main()
