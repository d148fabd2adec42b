"""Rivals timed in one run: in random order, one repeat of each after another, medians."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable


def medians(rivals: dict[str, Callable[[], object]], *, seconds: float, pause: float = 0.0) -> dict[str, float]:
    """Median seconds of one call of each rival, in about `seconds` of measuring all of them.

    Each is called twice before the clock starts. Calls shorter than a tenth of a millisecond are timed in bunches.
    """
    bunches = {}
    for name, call in rivals.items():
        call()
        began = time.perf_counter()
        call()
        bunches[name] = max(1, int(2e-4 / max(time.perf_counter() - began, 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in rivals}
    chance, end = random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(found.values()))) < 5:
        for name, call in chance.sample(sorted(rivals.items()), len(rivals)):
            if pause:
                time.sleep(pause)
            began = time.perf_counter()
            for _ in range(bunches[name]):
                call()
            found[name].append((time.perf_counter() - began) / bunches[name])
    return {name: statistics.median(times) for name, times in found.items()}
