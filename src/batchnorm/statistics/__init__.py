"""What is done to a model's running statistics outside a training step."""

from batchnorm.statistics.average import average
from batchnorm.statistics.recalibrate import recalibrate
from batchnorm.statistics.record import Layer, Recalibration

__all__ = ["Layer", "Recalibration", "average", "recalibrate"]
