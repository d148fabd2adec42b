"""Every real set that may lie beside the repository loads in one call, as itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchnorm.data import Schema, prepare, read_features

SHARED = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the real data sets are not beside the repository ({SHARED})"
)

NUMBERED: dict[str, Any] = {"target": "last", "header": False, "na": ["?"]}
SETS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "housing": ("california_housing/housing.csv", {"target": "median_house_value"}, 20640, 14, 0),
    "red": ("wine_quality/winequality-red.csv", NUMBERED, 1599, 11, 6),
    "white": ("wine_quality/winequality-white.csv", NUMBERED, 4898, 11, 7),
    "fashion": (
        "fashion_mnist_sample/sprite900-images-idx3-ubyte.gz",
        {"labels": SHARED / "fashion_mnist_sample" / "sprite900-labels-idx1-ubyte.gz"},
        900,
        784,
        10,
    ),
    **{
        name: (f"uci_small/{name}.csv", NUMBERED, rows, features, classes)
        for name, rows, features, classes in (
            ("abalone", 4177, 10, 0),
            ("banknote_authentication", 1372, 4, 2),
            ("breast-cancer-wisconsin", 699, 10, 2),
            ("breast-cancer", 286, 39, 2),
            ("ecoli", 336, 7, 8),
            ("glass", 214, 9, 6),
            ("haberman", 306, 3, 2),
            ("ionosphere", 351, 34, 2),
            ("iris", 150, 4, 3),
            ("new-thyroid", 215, 5, 3),
            ("sonar", 208, 60, 2),
            ("wheat-seeds", 210, 7, 3),
            ("wine", 178, 13, 3),
        )
    },
}


@pytest.mark.parametrize("name", SETS)
def test_real_set_loads_in_one_call(name: str) -> None:
    path, options, rows, features, classes = SETS[name]
    data = prepare(SHARED / path, **options)
    assert len(data.x_train) + len(data.x_valid) + len(data.x_test) == rows
    assert data.x_train.shape[1] == len(data.schema.feature_names) == features
    assert len(data.schema.classes) == classes
    assert all(np.isfinite(x).all() for x in (data.x_train, data.x_valid, data.x_test))
    schema = Schema.from_dict(json.loads(json.dumps(data.schema.to_dict())))
    records = [data.test_table.record(row) for row in range(20)]
    np.testing.assert_array_equal(schema.encode_records(records), data.x_test[:20])
    again = read_features(SHARED / path, schema, labels=options.get("labels"))
    assert len(again.x) == rows
    assert again.notes == ()


def test_housing_has_its_missing_rooms_and_its_rare_island() -> None:
    data = prepare(SHARED / "california_housing" / "housing.csv", target="median_house_value")
    assert data.schema.feature_names[-6:] == (
        "median_income",
        "ocean_proximity=<1H OCEAN",
        "ocean_proximity=INLAND",
        "ocean_proximity=NEAR BAY",
        "ocean_proximity=NEAR OCEAN",
        "ocean_proximity=other",
    )
    missing = data.schema.feature_names.index("total_bedrooms is missing")
    assert sum(x[:, missing].sum() for x in (data.x_train, data.x_valid, data.x_test)) == 207


def test_breast_cancer_texts_lose_their_quotes() -> None:
    data = prepare(SHARED / "uci_small" / "breast-cancer.csv", **NUMBERED)
    assert data.schema.classes == ("no-recurrence-events", "recurrence-events")
    assert "0=40-49" in data.schema.feature_names
    assert {"4 is missing", "7 is missing"}.issubset(data.schema.feature_names)


def test_mnist_loads_with_its_labels_and_its_test_set() -> None:
    folder = SHARED / "mnist"
    data = prepare(folder / "train-images-idx3-ubyte.gz", test=folder / "t10k-images-idx3-ubyte.gz")
    assert data.x_train.shape == (54000, 784)
    assert data.x_test.shape == (10000, 784)
    assert data.x_train.dtype == np.float32
    assert data.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.x_train.max() == 255.0
