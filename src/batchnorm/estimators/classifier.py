"""BatchNormClassifier: a batch-normalized network for classes, as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin  # type: ignore[import-untyped]
from sklearn.utils import compute_class_weight  # type: ignore[import-untyped]
from sklearn.utils.metaestimators import available_if  # type: ignore[import-untyped]
from sklearn.utils.multiclass import check_classification_targets  # type: ignore[import-untyped]

from batchnorm.data.column import Label
from batchnorm.data.naming import listing
from batchnorm.errors import DataError, ModelFileError, SettingsError, quoted
from batchnorm.estimators.base import BatchNormEstimator, all_or_nothing, can_stream
from batchnorm.training.examples import Examples
from batchnorm.training.objective import Task


class BatchNormClassifier(ClassifierMixin, BatchNormEstimator):  # type: ignore[misc]
    """A network for classes: InputNorm -> [Linear -> BatchNorm -> activation -> dropout] x L -> Linear -> softmax.

    Args:
        hidden_layer_sizes: neurons per hidden layer; () is logistic regression.
        activation: relu, leaky_relu, sigmoid (also "logistic"), tanh, gelu, silu.
        norm: "batch", or None for the same network without (then with biases).
        placement: normalization "before" the activation or "after" it.
        momentum: of batch normalization: the weight of the new batch in the running statistics. MLPClassifier's
            momentum, the optimizer's, is solver="momentum" here, with 0.9.
        eps: of batch normalization.
        input_norm: normalize inputs by the training rows' mean and standard deviation, so that no scaler is needed.
        dropout: share of each hidden layer's outputs dropped in training.
        solver: "adam", "sgd" (plain gradient descent), "momentum" (0.9), "rmsprop".
        alpha: weight decay, on weights only: never on gamma, beta or biases, and not divided by the number of rows as
            in MLPClassifier. With "adam" it is decoupled from the gradient (AdamW).
        batch_size: rows per step; "auto" is min(200, n_samples). Where all rows fit into one batch, each counted as
            often as a whole-number weight says, the result depends neither on their order nor on whether rows are
            weighted or repeated.
        learning_rate_init: None is the solver's usual one: 0.003 adam, 0.1 sgd, 0.02 momentum, 0.001 rmsprop.
        max_iter: epochs at most.
        early_stopping: set `validation_fraction` of the rows aside, stratified, stop when their accuracy no longer
            rises nor, at the same accuracy, their loss falls, and keep the best epoch. Without, stop when the training
            loss no longer falls and keep the last epoch.
        n_iter_no_change, tol: stop after more than so many epochs in a row without an improvement of at least `tol`.
        class_weight: None, "balanced" (each class weighs the same), or a dict from classes to weights; in the loss and
            in validation_scores_, not in the statistics of batches.
        random_state: an integer reproduces a fit bit by bit. None draws a seed from the system; NumPy's and torch's
            global random states are neither used nor changed.
        verbose: print a line after each epoch.
        warm_start: fit goes on with the network of the last fit, whose scale of the inputs it keeps.
        device: to train on: "cpu", "auto" (a GPU where there is one), or a torch device; network_ is back on the CPU.

    Attributes:
        classes_: (K,), sorted. n_features_in_, feature_names_in_: as usual in scikit-learn.
        network_: the trained torch module, in evaluation mode; predictions follow it if you change it.
        loss_curve_, loss_, best_loss_: mean cross-entropy of each epoch; the last; the least, None with early_stopping.
        validation_scores_, best_validation_score_: accuracies with early_stopping, else None.
        n_iter_: epochs of the last fit; t_: rows that training went through in all.
        n_outputs_, n_layers_, out_activation_: classes; layers with input and output; "softmax".

    Training runs in float32 where X is float32, else in float64; predictions are computed in float64, by the same code
    as those of a saved model.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = BatchNormClassifier((16,), early_stopping=True, max_iter=1000, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    _task: ClassVar[Task] = "classification"

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
        class_weight: str | Mapping[Any, float] | None = None,
        random_state: Any = None,
        verbose: bool | int = False,
        warm_start: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            norm=norm,
            placement=placement,
            momentum=momentum,
            eps=eps,
            input_norm=input_norm,
            dropout=dropout,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            random_state=random_state,
            verbose=verbose,
            warm_start=warm_start,
            device=device,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Train the network; a fit that fails leaves an earlier one as it was.

        Args:
            X: (N, F) numbers: an array, a pandas or polars frame.
            y: (N,) classes: texts, numbers or truths, at least two different ones.
            sample_weight: (N,) >= 0. A whole number counts its row so many times, in the statistics of batches and
                inputs and in the loss; 0 leaves it out. Fractional weights say only how rows compare.

        Raises:
            ValueError: rows, classes or parameters that cannot be trained on, or training diverged.
        """
        with all_or_nothing(self):
            if not self._goes_on:
                self.__dict__.pop("classes_", None)
            self._fit(X, y, sample_weight)
        return self

    @available_if(can_stream)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """One pass over some rows, in mini-batches, going on from where the last call or fit ended.

        Optimizer and running statistics go on. The scale of the inputs learns from each call. Not to be had with
        early_stopping=True: a stream has no epochs to stop between.

        Args:
            X, y, sample_weight: as in fit; not all classes need be there.
            classes: (K,) all that will ever come; needed in the first call.

        Raises:
            ValueError: as in fit; no classes in the first call, others later, or a class that is not among them.
        """
        with all_or_nothing(self):
            self._declare(classes)
            self._partial_fit(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """The most probable class of each row, (N,)."""
        scores = self._predictor().decision_scores(self._rows(X))
        labels: NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Probabilities (N, K) in the order of `classes_`."""
        return self._predictor().predict_proba(self._rows(X))

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Their logarithms, exact also where a probability is too small to be held."""
        scores = self._predictor().decision_scores(self._rows(X))
        below = scores - scores.max(axis=1, keepdims=True)
        with np.errstate(under="ignore"):
            logarithms: NDArray[np.float64] = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
        return logarithms

    def _declare(self, classes: ArrayLike | None) -> None:
        if classes is None:
            if not hasattr(self, "classes_"):
                raise SettingsError("classes must be passed on the first call to partial_fit: all that will ever come")
            return
        declared = np.unique(np.asarray(classes))
        if not hasattr(self, "classes_"):
            self.classes_: NDArray[Any] = declared
        elif not np.array_equal(declared, self.classes_):
            known, other = listing(self.classes_.tolist()), listing(declared.tolist())
            raise SettingsError(f"classes expected {known} as in the first call, got {other}")

    def _numbered(self, y: NDArray[Any]) -> NDArray[Any]:
        try:
            found, which = np.unique(y, return_inverse=True)
        except TypeError as error:
            raise DataError(f"y expected classes of one kind, texts or numbers, got several ({error})") from error
        check_classification_targets(y)
        if not hasattr(self, "classes_"):
            self.classes_ = found
        if len(self.classes_) < 2:
            raise DataError(f"y expected at least two classes, got one class: {listing(self.classes_.tolist())}")
        numbers = {label: number for number, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in found.tolist() if label not in numbers]
        if unknown:
            known = self.classes_.tolist()
            raise DataError(
                f"y expected classes among {listing(known)}, got {listing(unknown)}: fit anew to add classes"
            )
        return np.array([numbers[label] for label in found.tolist()], dtype=np.int64)[which]

    def _class_labels(self) -> tuple[Label, ...]:
        labels = [label.item() if isinstance(label, np.generic) else label for label in self.classes_.tolist()]
        for label in labels:
            if self.classes_.dtype.kind not in "biufUO" or type(label) not in (str, int, float, bool):
                raise ModelFileError(
                    f"a model file expected classes that are texts, numbers or truths, got {quoted(label)}"
                )
        return tuple(labels)

    def _class_weights(self, examples: Examples, *, streaming: bool) -> tuple[float, ...] | None:
        given = self.class_weight
        if given is None:
            return None
        if isinstance(given, Mapping):
            return tuple(compute_class_weight(dict(given), classes=self.classes_, y=self.classes_).tolist())
        if streaming:
            raise SettingsError(
                "class_weight expected a dict in partial_fit, got 'balanced': how frequent each class of a stream is "
                "cannot be known; sklearn.utils.class_weight.compute_class_weight computes weights from all of y"
            )
        counts = np.bincount(examples.y, examples.weights, minlength=len(self.classes_))
        return tuple((examples.count / (len(counts) * np.where(counts > 0, counts, np.inf))).tolist())

    def _outputs(self) -> int:
        return len(self.classes_)
