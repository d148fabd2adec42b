"""What is done to a model's running statistics outside a training step."""

from batchnorm.statistics.adapt import AdaptingModel, adapt, adapting
from batchnorm.statistics.adaptation import Adaptation, AdaptedLayer
from batchnorm.statistics.average import average
from batchnorm.statistics.guard import Verdict
from batchnorm.statistics.recalibrate import recalibrate
from batchnorm.statistics.record import Layer, Recalibration

__all__ = [
    "Adaptation",
    "AdaptedLayer",
    "AdaptingModel",
    "Layer",
    "Recalibration",
    "Verdict",
    "adapt",
    "adapting",
    "average",
    "recalibrate",
]
