"""Every set that comes with the package, and every one that may lie beside the repository, trains with one command."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.program import batchnorm

SHARED = Path(__file__).parents[3] / "shared" / "data"
UCI = ("--no-header", "--target", "last", "--na", "?")
UCI_NAMES = (
    *("abalone", "banknote_authentication", "breast-cancer", "breast-cancer-wisconsin", "ecoli", "glass", "haberman"),
    *("ionosphere", "iris", "new-thyroid", "sonar", "wheat-seeds", "wine"),
)
REGRESSION = {"diabetes", "housing", "abalone"}
BESIDE: dict[str, tuple[str, ...]] = {
    **{name: (f"uci_small/{name}.csv", *UCI) for name in UCI_NAMES},
    "housing": ("california_housing/housing.csv", "--target", "median_house_value"),
    "red wine": ("wine_quality/winequality-red.csv", *UCI),
    "white wine": ("wine_quality/winequality-white.csv", *UCI),
    "fashion": (
        "fashion_mnist_sample/sprite900-images-idx3-ubyte.gz",
        *("--labels", "fashion_mnist_sample/sprite900-labels-idx1-ubyte.gz"),
    ),
    "mnist": (
        "mnist/train-images-idx3-ubyte.gz",
        *("--labels", "mnist/train-labels-idx1-ubyte.gz", "--test", "mnist/t10k-images-idx3-ubyte.gz"),
        *("--test-labels", "mnist/t10k-labels-idx1-ubyte.gz"),
    ),
}


def train(name: str, *arguments: str) -> float:
    """The test score after a few epochs."""
    answer = batchnorm("train", *arguments, "--steps", "150", "--hidden", "40", "--out", "run", "--json")
    assert (answer.code, answer.err) == (0, "")
    (run,) = answer.json["runs"]
    predicted = batchnorm("predict", "run/model.safetensors", arguments[0], "--json")
    assert (predicted.code, predicted.err) == (0, "")
    metric: float = run["test_R2" if name in REGRESSION else "test_accuracy"]
    return metric


@pytest.mark.parametrize(("name", "least"), [("digits", 0.9), ("wine", 0.9), ("breast_cancer", 0.9), ("diabetes", 0.2)])
def test_built_in_set_trains_with_one_command(name: str, least: float) -> None:
    assert train(name, name) > least


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not beside the repository")
@pytest.mark.parametrize("name", BESIDE)
def test_set_beside_the_repository_trains_with_one_command(name: str) -> None:
    arguments = tuple(str(SHARED / a) if "/" in a else a for a in BESIDE[name])
    assert train(name, *arguments) > (0.3 if name in REGRESSION else 0.4)
