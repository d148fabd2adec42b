"""What the suites of other projects are pointed at: change a name here and they examine something else.

The suites read these names when a test runs, not when it is imported, so that a test may put a broken layer in their
place and see the suites fail (`test_suites_can_fail.py`).
"""

from __future__ import annotations

import torch

from batchnorm.functional import batch_norm
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, InputNorm

__all__ = ["LAYERS", "InputNorm", "batch_norm", "statistics_dtype"]

LAYERS = {"BatchNorm1d": BatchNorm1d, "BatchNorm2d": BatchNorm2d, "BatchNorm3d": BatchNorm3d}


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the running statistics of a layer whose parameters are of `dtype`: ours stay float32 or wider."""
    return torch.promote_types(dtype, torch.float32)
