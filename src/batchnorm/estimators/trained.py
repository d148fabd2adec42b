"""What training leaves in an estimator: all that it takes to predict, to save and to go on, and none of the rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.data.column import Column, Label, Target
from batchnorm.data.schema import Schema
from batchnorm.estimators.live import LivePredictor
from batchnorm.estimators.scales import Scale, moments_of_targets, rescale_head, scale_of
from batchnorm.model_file import ModelFile
from batchnorm.moments import Moments
from batchnorm.predictor import Predictor
from batchnorm.training.assemble import network_spec, network_tensors
from batchnorm.training.examples import Examples
from batchnorm.training.network import Network
from batchnorm.training.run import Run
from batchnorm.training.settings import Settings


@dataclass(frozen=True)
class InputMeans:
    """The mean of each feature over the rows seen so far: what stands in for a missing number in a model file.

    Attributes:
        count: of rows.
        mean: (F,) float64.
    """

    count: float
    mean: NDArray[np.float64]

    @staticmethod
    def of(examples: Examples) -> InputMeans:
        """Of some rows."""
        x = np.asarray(examples.x, dtype=np.float64)
        weights = None if examples.weights is None else np.asarray(examples.weights, dtype=np.float64)
        return InputMeans(examples.count, np.average(x, axis=0, weights=weights))

    def merge(self, other: InputMeans) -> InputMeans:
        """Of the rows of both."""
        count = self.count + other.count
        return InputMeans(count, self.mean + (other.mean - self.mean) * (other.count / count))


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with all that belongs to it.

    Attributes:
        network: on the CPU, in evaluation mode, without gradients.
        settings: that it was built and last trained with.
        inputs: means of the training rows.
        targets: of the training rows in regression; None in classification.
        scale: mean and standard deviation that the network takes targets to be standardized by; None in classification.
        optimizer: torch's state by parameter, on the CPU.
    """

    network: Network
    settings: Settings
    inputs: InputMeans
    targets: Moments | None
    scale: Scale | None
    optimizer: Mapping[int, Mapping[str, Any]]
    _live: LivePredictor = field(default_factory=LivePredictor, init=False)

    def rescaled(self, further: Examples) -> Trained:
        """A copy that has learnt from further rows how inputs and targets are scaled.

        Inputs are normalized by the statistics of all rows so far, as if a scaler had been fitted on; the head is
        rescaled so that predictions stay as they were.
        """
        network, targets, scale = copy.deepcopy(self.network), self.targets, self.scale
        if network.input_norm is not None and self.settings.divide_by is None:
            network.input_norm.partial_fit(further.x, sample_weight=further.weights)
        if targets is not None and scale is not None:
            targets = targets.merge(moments_of_targets(further))
            rescale_head(network, scale, scale_of(targets))
            scale = scale_of(targets)
        return replace(
            self, network=network, inputs=self.inputs.merge(InputMeans.of(further)), targets=targets, scale=scale
        )

    def predictor(self) -> Predictor:
        """Ready to give scores, from the network as it now is; its classes are class numbers."""
        classes = tuple(range(self.network.head.out_features)) if self.scale is None else ()
        return self._live.of(self.network, lambda: Predictor(self.model_file(None, classes, {})))

    def model_file(
        self, names: Sequence[str] | None, classes: tuple[Label, ...], notes: Mapping[str, Any]
    ) -> ModelFile:
        """As a file keeps it.

        Args:
            names: of the features; None where they have none.
            classes: none in regression.
            notes: on how it was trained.
        """
        header = names is not None and len(set(names)) == len(names)
        known = tuple(map(str, names)) if names is not None and header else numbered_names(len(self.inputs.mean))
        means = self.inputs.mean.tolist()
        columns = tuple(Column(name, "number", fill=mean) for name, mean in zip(known, means, strict=True))
        target = "y"
        while target in known:
            target += "_"
        schema = Schema(columns, Target(target, "class" if classes else "number", classes), header=header)
        tensors = network_tensors(self.network, self.scale)
        return ModelFile(tensors, network_spec(self.network, self.settings), schema, notes)


def numbered_names(features: int) -> tuple[str, ...]:
    """What features without names are called: x0, x1, ..."""
    return tuple(f"x{number}" for number in range(features))


def settled(network: Network) -> Network:
    """`network` on the CPU, in evaluation mode, its gradients given up."""
    for parameter in network.parameters():
        parameter.grad = None
    return network.cpu().eval()


def optimizer_state(run: Run) -> dict[int, dict[str, Any]]:
    """A copy of what the optimizer remembers, on the CPU."""
    state = run.optimizer.state_dict()["state"]
    return {
        index: {k: v.detach().cpu().clone() if isinstance(v, Tensor) else v for k, v in of_one.items()}
        for index, of_one in state.items()
    }


def take_up(run: Run, trained: Trained) -> None:
    """Let the run's fresh optimizer remember what the last one knew, where it is of the same kind."""
    now, before = run.settings, trained.settings
    if now.optimizer == before.optimizer and (now.weight_decay > 0) == (before.weight_decay > 0):
        groups = run.optimizer.state_dict()["param_groups"]
        # torch takes tensors over as they are: without the copy the last fit's would be changed.
        run.optimizer.load_state_dict({"state": copy.deepcopy(dict(trained.optimizer)), "param_groups": groups})


def is_finite(network: Network) -> bool:
    """Whether every weight and statistic is."""
    return all(bool(torch.isfinite(t).all()) for t in network.state_dict().values())
