"""The crank: step, look, keep, until the run ends or someone asks it to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from batchnorm.training.progress import Observer
from batchnorm.training.run import Run


def turn(
    run: Run,
    *,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    keep: Callable[[Run], None] | None = None,
    keep_every: float = 5.0,
) -> bool:
    """Train `run` until it ends. Dropout draws from torch's random state: see `own_randomness`.

    Args:
        observer: is told of every step and evaluation.
        should_stop: asked after every step; True ends here, after the step is kept.
        keep: writes a checkpoint: at the end, when stopped, and every `keep_every` seconds.

    Returns:
        True where the run has ended, False where it was stopped.
    """
    watch = Observer() if observer is None else observer
    progress = run.progress
    watch.started(step=progress.step, steps=run.steps)
    kept = time.monotonic()
    run.network.train()
    while progress.ended is None:
        rows = run.step()
        watch.stepped(progress.step, rows)
        if run.is_evaluation_due:
            watch.evaluated(run.evaluate())
        if progress.ended is None and should_stop():
            if keep is not None:
                keep(run)
            watch.ended(step=progress.step, reason="interrupted")
            return False
        if keep is not None and (progress.ended is not None or time.monotonic() - kept >= keep_every):
            keep(run)
            kept = time.monotonic()
    watch.ended(step=progress.step, reason=progress.ended)
    return True


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """torch's random state seeded for this block alone."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
