"""The order of the course, and the experiments that it is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chapter:
    """A part of the course; pages: names of experiments, one page each; note: what the index says below them."""

    title: str
    pages: tuple[str, ...]
    note: str = ""


COURSE = (
    Chapter("Normalizing the inputs", ("inputs",)),
    Chapter(
        "Normalizing the activations",
        ("linear_middle", "identity", "bias"),
        "All of it on one page, with the slips that circulate: [formulas](formulas.md).",
    ),
    Chapter("Fitting it into a network", ("placement",)),
    Chapter("What it does for training", ("speed", "robustness", "depth")),
    Chapter("Why it works", ("drift", "downstream", "scale", "landscape", "propagation")),
    Chapter("Noise and regularization", ("noise",)),
    Chapter("Test time", ("test_time",)),
    Chapter("What goes wrong", ("dropout", "batch_size", "shift")),
)

PAGES = tuple(page for chapter in COURSE for page in chapter.pages)
