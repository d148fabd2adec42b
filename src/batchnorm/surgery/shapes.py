"""Whether both sides of an add have one shape and dtype, as an example shows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from batchnorm.randomness import same_randomness
from batchnorm.surgery.verify import call, copied


def equal_sides(model: nn.Module, example: Any, graphs: Mapping[str, fx.Graph], adds: set[fx.Node]) -> set[fx.Node]:
    """Those of `adds` whose sides are alike whenever the example reaches them.

    Args:
        graphs: of modules' own forwards, by the modules' names in the model.

    Raises:
        ValueError: the model does not run on the example.
    """
    model = copied(model).eval()
    seen: dict[fx.Node, bool] = {}

    def watch(graph: fx.Graph) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
            _Sides(module, graph, adds, seen).run(*bound.args)

        return hook

    for name, graph in graphs.items():
        model.get_submodule(name).register_forward_pre_hook(watch(graph), with_kwargs=True)
    with torch.no_grad(), same_randomness():
        try:
            call(model, example)
        except Exception as error:  # whatever a user's model raises
            raise ValueError(f"example expected an input that the model itself runs on, got: {error}") from error
    return {node for node, alike in seen.items() if alike}


class _Sides(fx.Interpreter):
    """Runs a graph, and looks at what comes to the adds."""

    def __init__(self, module: nn.Module, graph: fx.Graph, adds: set[fx.Node], seen: dict[fx.Node, bool]) -> None:
        super().__init__(module, graph=graph)
        self._adds, self._seen = adds, seen

    def run_node(self, n: fx.Node) -> Any:
        if n in self._adds:
            (a, b), _ = self.fetch_args_kwargs_from_env(n)
            alike = isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype)
            self._seen[n] = self._seen.get(n, True) and alike
        return super().run_node(n)
