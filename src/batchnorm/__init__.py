"""Batch normalization, completely: for PyTorch models, and for people with only a table.

The names below are imported when first used, so that `import batchnorm` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchnorm.estimators import BatchNormClassifier, BatchNormRegressor
    from batchnorm.functional import batch_norm
    from batchnorm.model_file import save
    from batchnorm.moments import Moments
    from batchnorm.nn import (
        BatchNorm1d,
        BatchNorm2d,
        BatchNorm3d,
        BatchRenorm1d,
        BatchRenorm2d,
        BatchRenorm3d,
        GhostBatchNorm1d,
        GhostBatchNorm2d,
        GhostBatchNorm3d,
        InputNorm,
        SyncBatchNorm1d,
        SyncBatchNorm2d,
        SyncBatchNorm3d,
        half_life,
    )
    from batchnorm.predictor import load
    from batchnorm.statistics import adapt, average, recalibrate
    from batchnorm.surgery import convert, drop_redundant_bias, fold, freeze, insert, revert, thaw

__version__ = "0.1.0"

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormClassifier",
    "BatchNormRegressor",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "InputNorm",
    "Moments",
    "SyncBatchNorm1d",
    "SyncBatchNorm2d",
    "SyncBatchNorm3d",
    "adapt",
    "average",
    "batch_norm",
    "convert",
    "drop_redundant_bias",
    "fold",
    "freeze",
    "half_life",
    "insert",
    "load",
    "recalibrate",
    "revert",
    "save",
    "thaw",
]

_HOME = {
    "BatchNorm1d": "batchnorm.nn",
    "BatchNorm2d": "batchnorm.nn",
    "BatchNorm3d": "batchnorm.nn",
    "BatchNormClassifier": "batchnorm.estimators",
    "BatchNormRegressor": "batchnorm.estimators",
    "BatchRenorm1d": "batchnorm.nn",
    "BatchRenorm2d": "batchnorm.nn",
    "BatchRenorm3d": "batchnorm.nn",
    "GhostBatchNorm1d": "batchnorm.nn",
    "GhostBatchNorm2d": "batchnorm.nn",
    "GhostBatchNorm3d": "batchnorm.nn",
    "InputNorm": "batchnorm.nn",
    "Moments": "batchnorm.moments",
    "SyncBatchNorm1d": "batchnorm.nn",
    "SyncBatchNorm2d": "batchnorm.nn",
    "SyncBatchNorm3d": "batchnorm.nn",
    "adapt": "batchnorm.statistics",
    "average": "batchnorm.statistics",
    "batch_norm": "batchnorm.functional",
    "convert": "batchnorm.surgery",
    "drop_redundant_bias": "batchnorm.surgery",
    "fold": "batchnorm.surgery",
    "freeze": "batchnorm.surgery",
    "half_life": "batchnorm.nn",
    "insert": "batchnorm.surgery",
    "load": "batchnorm.predictor",
    "recalibrate": "batchnorm.statistics",
    "revert": "batchnorm.surgery",
    "save": "batchnorm.model_file",
    "thaw": "batchnorm.surgery",
}


def __getattr__(name: str) -> Any:
    if name == "lab":
        return importlib.import_module("batchnorm.lab")
    if name not in _HOME:
        raise AttributeError(f"module 'batchnorm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
