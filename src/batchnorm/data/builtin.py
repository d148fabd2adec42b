"""Real data sets that come with scikit-learn, by name; scikit-learn is imported when one is asked for."""

from __future__ import annotations

import numpy as np

from batchnorm.data.table import Table
from batchnorm.data.target import as_target

BUILTIN = ("digits", "wine", "breast_cancer", "diabetes")
"""1,797 scanned digits (10 classes), 178 wines (3), 569 breast tumours (2), 442 diabetes patients (a number)."""


def read_builtin(name: str) -> Table:
    """One of `BUILTIN` as a Table with its own feature names, in the units it was measured in.

    >>> len(read_builtin("wine"))
    178
    """
    from sklearn import datasets  # type: ignore[import-untyped]

    if name == "diabetes":
        bunch = datasets.load_diabetes(scaled=False)
        target = bunch.target
    else:
        bunch = getattr(datasets, f"load_{name}")()
        target = bunch.target if name == "digits" else np.asarray(bunch.target_names)[bunch.target]
    return Table(
        name,
        tuple(map(str, bunch.feature_names)),
        np.ascontiguousarray(bunch.data),
        as_target(target),
        {"digits": "digit", "wine": "cultivar", "breast_cancer": "tumour", "diabetes": "progression"}[name],
    )
