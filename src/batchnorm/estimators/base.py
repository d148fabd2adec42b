"""What both estimators share: their parameters, fitting, going on, scores, the model file."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.utils import check_random_state  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted, validate_data  # type: ignore[import-untyped]

from batchnorm.data.column import Label
from batchnorm.estimators import choices
from batchnorm.estimators.fitting import Fitted, Patience, fit_anew, fit_further
from batchnorm.estimators.rows import are_counts, canonical, set_aside, weighed
from batchnorm.estimators.trained import Trained
from batchnorm.model_file import ModelFile
from batchnorm.predictor import Predictor
from batchnorm.training.examples import Examples, counted
from batchnorm.training.experiment import versions
from batchnorm.training.objective import Task

_COMPLAINTS = {
    "interrupted": "Training interrupted by user.",
    "all epochs": "Maximum iterations (max_iter={max_iter}) reached and training hasn't converged yet.",
    "diverged": "Training diverged: the epoch with the best validation score was kept.",
}


class BatchNormEstimator(BaseEstimator, ABC):  # type: ignore[misc]
    """All of an estimator but what its targets are."""

    _task: ClassVar[Task]
    _trained: Trained

    def __init__(
        self,
        hidden_layer_sizes: Any = (100, 100),
        activation: str = "relu",
        *,
        norm: str | None = "batch",
        placement: str = "before",
        momentum: float = 0.1,
        eps: float = 1e-5,
        input_norm: bool = True,
        dropout: float = 0.0,
        solver: str = "adam",
        alpha: float = 0.0,
        batch_size: int | str = "auto",
        learning_rate_init: float | None = None,
        max_iter: int = 200,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        verbose: bool | int = False,
        warm_start: bool = False,
        device: str = "cpu",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.norm = norm
        self.placement = placement
        self.momentum = momentum
        self.eps = eps
        self.input_norm = input_norm
        self.dropout = dropout
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose
        self.warm_start = warm_start
        self.device = device

    @abstractmethod
    def _numbered(self, y: NDArray[Any]) -> NDArray[Any]:
        """Targets as class numbers or float64."""

    @abstractmethod
    def _class_labels(self) -> tuple[Label, ...]:
        """The classes as a model file keeps them; none in regression."""

    @abstractmethod
    def _outputs(self) -> int:
        """Neurons of the head: classes, or 1."""

    @abstractmethod
    def _class_weights(self, examples: Examples, *, streaming: bool) -> tuple[float, ...] | None:
        """How much a row of each class weighs, by class number; None in regression, or where all weigh the same."""

    @property
    def _goes_on(self) -> bool:
        """Whether fit trains the network of the last fit on."""
        return bool(self.warm_start) and hasattr(self, "network_")

    def _fit(self, x: Any, y: Any, sample_weight: Any) -> None:
        parameters = self._checked()
        before = self._trained if self._goes_on else None
        examples = self._examples(x, y, sample_weight, anew=before is None)
        most = choices.AUTO_ROWS if choices.is_auto(self.batch_size) else int(self.batch_size)
        is_one_batch = examples.count <= most
        if is_one_batch:
            examples = canonical(examples)
        seed = self._seed(going_on=before is not None)
        class_weight = self._class_weights(examples, streaming=False)
        train, valid = examples, None
        if self.early_stopping:
            train, valid = set_aside(
                examples,
                float(self.validation_fraction),
                seed=seed,
                stratified=self._task == "classification",
                by_copy=is_one_batch and are_counts(examples),
            )
            valid = weighed(valid, class_weight)
        settings = choices.settings_of(parameters, rows=len(train), seed=seed, class_weight=class_weight)
        patience = Patience(float(self.tol), int(self.n_iter_no_change), bool(self.verbose))
        if before is None:
            fitted = fit_anew(train, valid, settings, patience, task=self._task, outputs=self._outputs())
        else:
            fitted = fit_further(before, train, valid, settings, patience)
        self._keep(fitted, anew=before is None)
        if fitted.ending in _COMPLAINTS:
            text = _COMPLAINTS[fitted.ending].format(max_iter=self.max_iter)
            warnings.warn(text, UserWarning if fitted.ending == "interrupted" else ConvergenceWarning, stacklevel=3)

    def _partial_fit(self, x: Any, y: Any, sample_weight: Any) -> None:
        parameters = self._checked()
        before = self._trained if hasattr(self, "network_") else None
        train = self._examples(x, y, sample_weight, anew=before is None)
        settings = choices.settings_of(
            parameters,
            rows=len(train),
            seed=self._seed(going_on=before is not None),
            class_weight=self._class_weights(train, streaming=True),
            epochs=1,
        )
        patience = Patience(float(self.tol), int(self.n_iter_no_change), bool(self.verbose))
        if before is None:
            fitted = fit_anew(train, None, settings, patience, task=self._task, outputs=self._outputs())
        else:
            before = before.rescaled(train)
            if train.count < 2 and settings.norm is not None and settings.hidden:
                self._trained, self.network_ = before, before.network
                warnings.warn(
                    "partial_fit expected at least two rows, got n_samples=1: one row has no variance to normalize by; "
                    "it counts in the scales of inputs and targets, but no step was taken",
                    stacklevel=3,
                )
                return
            fitted = fit_further(before, train, None, settings, patience, take_up_optimizer=True)
        self._keep(fitted, anew=before is None)
        if fitted.ending == "interrupted":
            warnings.warn(_COMPLAINTS["interrupted"], stacklevel=3)

    def _checked(self) -> dict[str, Any]:
        parameters: dict[str, Any] = self.get_params(deep=False)
        choices.check(parameters)
        return parameters

    def _examples(self, x: Any, y: Any, sample_weight: Any, *, anew: bool) -> Examples:
        is_number = self._task == "regression"
        x, y = validate_data(self, x, y, dtype=(np.float64, np.float32), reset=anew, y_numeric=is_number)
        weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        x = np.require(x, requirements="W")  # torch warns of memory that it may not write to, even to read it
        # A row of weight 0 is as good as not there: not even its class counts.
        rows = counted(Examples(x, np.asarray(y), weights))
        return Examples(rows.x, self._numbered(rows.y), rows.weights)

    def _seed(self, *, going_on: bool) -> int:
        # scikit-learn's None draws from NumPy's global state and so changes it; ours leaves it alone.
        state = np.random.RandomState() if self.random_state is None else check_random_state(self.random_state)
        seed = int(state.randint(2**32, dtype=np.uint64))
        # An integer random_state must not shuffle each further batch as it did the last.
        return (seed + (len(self.loss_curve_) if going_on else 0)) % 2**32

    def _keep(self, fitted: Fitted, *, anew: bool) -> None:
        self._trained, self.network_ = fitted.trained, fitted.trained.network
        self.loss_curve_: list[float] = [*([] if anew else self.loss_curve_), *fitted.losses]
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else math.nan
        self.n_iter_ = len(fitted.losses)
        self.t_: int = (0 if anew else self.t_) + fitted.rows
        if self.early_stopping:
            earlier = [] if anew else self.validation_scores_ or []
            self.validation_scores_: list[float] | None = [*earlier, *fitted.scores]
            self.best_validation_score_: float | None = max(self.validation_scores_, default=math.nan)
            self.best_loss_: float | None = None
        else:
            self.validation_scores_ = self.best_validation_score_ = None
            self.best_loss_ = min(self.loss_curve_, default=math.nan)
        self.n_outputs_ = self._outputs()
        self.out_activation_ = "softmax" if self._task == "classification" else "identity"
        self.n_layers_ = len(fitted.trained.settings.hidden) + 2

    def _rows(self, x: Any) -> NDArray[Any]:
        rows: NDArray[Any] = validate_data(self, x, dtype=(np.float64, np.float32), reset=False)
        return rows

    def _predictor(self) -> Predictor:
        check_is_fitted(self)
        return self._trained.predictor()

    @property
    def model_file(self) -> ModelFile:
        """The trained network with its columns and its target: what `batchnorm.save` writes.

        Columns have the names of `feature_names_in_`; x0, x1, ... where fit had none.

        Raises:
            NotFittedError: before fit.
            ModelFileError: a class is neither a text nor a number nor a truth.
        """
        check_is_fitted(self)
        settings = self._trained.settings
        notes = {
            "estimator": type(self).__name__,
            "settings": settings.to_dict(),
            "epochs": len(self.loss_curve_),
            "metrics": {"train_loss": self.loss_ if math.isfinite(self.loss_) else None},
            "seed": settings.seed,
            "versions": versions(),
        }
        return self._trained.model_file(getattr(self, "feature_names_in_", None), self._class_labels(), notes)


def can_stream(estimator: BatchNormEstimator) -> bool:
    """True; for `available_if`, which asks whether there is a partial_fit."""
    if estimator.early_stopping:
        raise AttributeError("partial_fit expected early_stopping=False: a stream has no epochs to stop between")
    return True


@contextmanager
def all_or_nothing(estimator: BatchNormEstimator) -> Iterator[None]:
    """Leave `estimator` exactly as it was where the body raises: a fit that fails costs no earlier one.

    It holds because fitting puts new objects in the place of old ones and changes none.
    """
    before = dict(estimator.__dict__)
    try:
        yield
    except BaseException:
        estimator.__dict__.clear()
        estimator.__dict__.update(before)
        raise
