"""BatchNormRegressor: a batch-normalized network for a number, as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin  # type: ignore[import-untyped]
from sklearn.utils.metaestimators import available_if  # type: ignore[import-untyped]

from batchnorm.data.column import Label
from batchnorm.estimators.base import BatchNormEstimator, all_or_nothing, can_stream
from batchnorm.training.examples import Examples
from batchnorm.training.objective import Task


class BatchNormRegressor(RegressorMixin, BatchNormEstimator):  # type: ignore[misc]
    """A network for a number: InputNorm -> [Linear -> BatchNorm -> activation -> dropout] x L -> Linear.

    Targets are standardized in training; predictions are in the user's units.

    Args:
        hidden_layer_sizes, ..., device: as in BatchNormClassifier, which has a class_weight besides; its page also says
            where `alpha` and `momentum` are not what MLPRegressor calls so. early_stopping judges by R2.

    Attributes:
        loss_curve_, loss_, best_loss_: as in BatchNormClassifier, of the mean squared error of standardized targets, so
            that `tol` means the same whatever the units; MLPRegressor has half the squared error in the user's.
        validation_scores_, best_validation_score_: R2 with early_stopping, else None.
        n_outputs_, out_activation_: 1, "identity". All others as in BatchNormClassifier.

    >>> import numpy as np
    >>> X = np.linspace(0.0, 1.0, 100).reshape(-1, 1)
    >>> y = 1000.0 * X[:, 0] ** 2
    >>> model = BatchNormRegressor((16,), random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    _task: ClassVar[Task] = "regression"

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Train the network; a fit that fails leaves an earlier one as it was.

        Args:
            X: (N, F) numbers: an array, a pandas or polars frame.
            y: (N,) numbers.
            sample_weight: (N,) >= 0, as in BatchNormClassifier.fit.

        Raises:
            ValueError: rows or parameters that cannot be trained on, or training diverged.
        """
        with all_or_nothing(self):
            self._fit(X, y, sample_weight)
        return self

    @available_if(can_stream)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803
        """One pass over some rows, in mini-batches, going on from where the last call or fit ended.

        Optimizer and running statistics go on. The scales of inputs and targets learn from each call, the head rescaled
        so that predictions stay. Not to be had with early_stopping=True.

        Args:
            X, y, sample_weight: as in fit.

        Raises:
            ValueError: as in fit.
        """
        with all_or_nothing(self):
            self._partial_fit(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """The number predicted for each row, (N,)."""
        return self._predictor().predict(self._rows(X))

    def _numbered(self, y: NDArray[Any]) -> NDArray[Any]:
        return y.astype(np.float64)

    def _class_labels(self) -> tuple[Label, ...]:
        return ()

    def _class_weights(self, examples: Examples, *, streaming: bool) -> tuple[float, ...] | None:
        return None

    def _outputs(self) -> int:
        return 1
