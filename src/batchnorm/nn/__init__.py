"""Modules: parameters, buffers and mode. They compute nothing themselves."""

from batchnorm.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.nn.ghost import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from batchnorm.nn.half_life import half_life
from batchnorm.nn.input_norm import InputNorm
from batchnorm.nn.renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d, Ramp
from batchnorm.nn.sync import SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "InputNorm",
    "Ramp",
    "SyncBatchNorm1d",
    "SyncBatchNorm2d",
    "SyncBatchNorm3d",
    "half_life",
]
