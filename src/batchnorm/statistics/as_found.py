"""A model in other hands for a while: mode, momentum, buffers, forward and random numbers come back as they were."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from batchnorm.randomness import same_randomness


@contextmanager
def as_found(model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[None]:
    """Everything in eval mode and without gradients in the body; afterwards as it was, also when the body raises.

    Modes are set one by one and never by train() or eval(): models override these, to merge weights for example.

    Args:
        layers: those whose buffers, parameters, settings and forward the body may exchange; they have copies of their
            buffers meanwhile.
    """
    modes = [(module, module.training) for module in model.modules()]
    before = [(vars(layer), dict(vars(layer)), dict(layer._buffers), dict(layer._parameters)) for layer in layers]
    with ExitStack() as stack:
        stack.enter_context(same_randomness())
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # a compiled model would be compiled again for what is put into it
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, _ in modes:
                module.training = False
            for own, _, buffers, _ in before:  # a layer may write into its buffers, whatever else it keeps there
                own["_buffers"].update({name: None if t is None else t.clone() for name, t in buffers.items()})
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for own, attributes, buffers, parameters in before:
                training = own["training"]
                own.clear()
                own.update(attributes, training=training)
                own["_buffers"].update(buffers)
                own["_parameters"].update(parameters)
