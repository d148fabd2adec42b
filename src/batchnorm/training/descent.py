"""The update of all parameters, by one native call where the compiled kernels run.

What an optimizer remembers stays in torch.optim's own state, under its own names, so that either can go on from the
other: the compiled kernels write where torch.optim would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from batchnorm.kernels import choice
from batchnorm.training.network import Network
from batchnorm.training.products import threads_worth
from batchnorm.training.settings import Settings
from batchnorm.training.tape import ELEMENTS

_RULES = {"gd": 0, "momentum": 1, "rmsprop": 2, "adam": 3}
# What torch.optim keeps of a parameter: its first and its second memory, and whether it counts the steps.
_MEMORY: dict[str, tuple[tuple[str, ...], bool]] = {
    "gd": ((), False),
    "momentum": (("momentum_buffer",), False),
    "rmsprop": (("square_avg",), True),
    "adam": (("exp_avg", "exp_avg_sq"), True),
}


def build_optimizer(network: Network, settings: Settings) -> torch.optim.Optimizer:
    """Plain gradient descent, momentum, RMSprop or Adam, with weight decay on W alone; fused where torch has it."""
    groups: Any = network.decay_groups(settings.weight_decay)
    rate = settings.rate
    if settings.optimizer == "gd":
        return torch.optim.SGD(groups, lr=rate, fused=True)
    if settings.optimizer == "momentum":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=True)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, alpha=0.9)
    return torch.optim.AdamW(groups, lr=rate, fused=True)


class Descent:
    """Takes the optimizer's steps.

    Args:
        optimizer: of `build_optimizer`, whose parameters have gradients that stay in place.
        name: gd, momentum, rmsprop or adam.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, name: str) -> None:
        self._optimizer, self._name = optimizer, name
        self._parameters: list[Tensor] = []
        self._alive: list[Tensor] = []  # what the program has the addresses of
        self._program: Any = None
        self._by_torch = False
        self._threads, self._most = 1, torch.get_num_threads()
        optimizer.register_load_state_dict_post_hook(self._forget)

    def step(self) -> None:
        """Change every parameter by its gradient."""
        if self._program is None and not self._by_torch:
            self._by_torch = not self._prepare()
        if self._by_torch:
            self._optimizer.step()
            return
        self._program.run(0, self._threads)
        torch._C._increment_version(self._parameters)

    def _forget(self, _: torch.optim.Optimizer) -> None:
        self._program = None

    def _prepare(self) -> bool:
        """Put the program together; False where the compiled kernels do not run or do not cover the parameters."""
        module, groups = choice.native(), self._optimizer.param_groups
        parameters = [p for group in groups for p in group["params"]]
        dtypes = {p.dtype for p in parameters}
        if (
            module is None
            or len(dtypes) != 1
            or not dtypes <= ELEMENTS.keys()
            or not all(_is_plain(p) for p in parameters)
        ):
            return False
        tracked, self._alive = [], []
        for group in groups:
            for p in group["params"]:
                first, second, step = self._memory(p)
                places = (p.detach(), p.grad, first, second, step)
                self._alive += [t for t in places if t is not None]
                addresses = (0 if t is None else t.data_ptr() for t in places)
                tracked.append((p.numel(), *addresses, float(group["weight_decay"])))
        keep, keep_square, eps = _numbers(self._name, groups[0])
        self._program = module.Program()
        self._program.descend(
            ELEMENTS[dtypes.pop()], _RULES[self._name], groups[0]["lr"], keep, keep_square, eps, tracked
        )
        self._parameters = parameters
        self._threads = threads_worth(sum(p.numel() for p in parameters) * 32, self._most)
        return True

    def _memory(self, p: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The tensors that torch.optim keeps of p, as it would begin them."""
        names, counts = _MEMORY[self._name]
        state = self._optimizer.state[p] if names else {}
        if counts:
            state["step"] = state.get("step", torch.zeros(())).float()
        for name in names:
            if state.get(name) is None:
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        first, second = (*(state[name] for name in names), None, None)[:2]
        return first, second, state.get("step")


def _is_plain(p: Tensor) -> bool:
    """Whether p and its gradient are in this machine's memory, value beside value."""
    return p.grad is not None and all(t.is_cpu and t.is_contiguous() and t.dtype == p.dtype for t in (p, p.grad))


def _numbers(name: str, group: dict[str, Any]) -> tuple[float, float, float]:
    """(keep, keep_square, eps) of csrc/descent.hpp."""
    if name == "adam":
        return (*group["betas"], group["eps"])
    if name == "rmsprop":
        return group["alpha"], 0.0, group["eps"]
    return group.get("momentum", 0.0), 0.0, 0.0
