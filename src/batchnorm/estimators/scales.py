"""Scales that go on learning: what a stream of batches tells of inputs and targets after the first one."""

from __future__ import annotations

import torch

from batchnorm.moments import Moments
from batchnorm.training.examples import Examples, refuse_huge
from batchnorm.training.network import Network

Scale = tuple[float, float]
"""A mean and a standard deviation."""


def moments_of_targets(examples: Examples) -> Moments:
    """Count, mean and spread of targets, each (); raises DataError where their squares overflow."""
    refuse_huge(examples.y, "y", remedy="change its unit")
    weights = None if examples.weights is None else torch.from_numpy(examples.weights)
    return Moments.of(torch.from_numpy(examples.y).double(), dims=0, weights=weights)


def scale_of(targets: Moments) -> Scale:
    """What targets are standardized by; a constant one by 1."""
    std = float(targets.variance().sqrt())
    return float(targets.mean), std if std > 0 else 1.0


@torch.no_grad()
def rescale_head(network: Network, before: Scale, after: Scale) -> None:
    """Express the head in another target scale; what the network predicts in the user's units stays as it was.

    W' = W s / s',  b' = (b s + m - m') / s'

    Source: van Hasselt, Guez, Hessel, Mnih and Silver, "Learning values across many orders of magnitude", 2016, eq. 3.
    """
    (mean, std), (new_mean, new_std) = before, after
    network.head.weight.mul_(std / new_std)
    network.head.bias.mul_(std).add_(mean - new_mean).div_(new_std)
