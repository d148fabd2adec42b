"""scikit-learn estimators: a batch-normalized network behind fit and predict."""

from batchnorm.estimators.classifier import BatchNormClassifier
from batchnorm.estimators.regressor import BatchNormRegressor

__all__ = ["BatchNormClassifier", "BatchNormRegressor"]
