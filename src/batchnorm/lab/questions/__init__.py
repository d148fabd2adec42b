"""One file, one question. The name of the file is the experiment's; its docstring is what is shown of the claim."""

from __future__ import annotations

from importlib.resources import files

_COURSE = (
    *("inputs", "speed", "robustness", "depth", "linear_middle", "identity", "bias", "placement", "drift"),
    *("downstream", "landscape", "scale", "propagation", "noise", "dropout", "batch_size", "test_time", "shift"),
)


def names() -> tuple[str, ...]:
    """All experiments, in the order a course would have them."""
    there = {entry.name.removesuffix(".py") for entry in files("batchnorm.lab.questions").iterdir()}
    return tuple(name for name in _COURSE if name in there)
