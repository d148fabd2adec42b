"""Predictions from a model file: folded to one affine map and one activation per layer, NumPy alone, no torch."""

from __future__ import annotations

from batchnorm.predictor.predictor import Predictions, Predictor, load

__all__ = ["Predictions", "Predictor", "load"]
