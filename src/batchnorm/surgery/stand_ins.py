"""What stands for a tensor while a forward is traced: it goes into the graph, and answers no question of Python's.

A forward that asks is refused, or is answered once in each way (`Answers`). Refusals are also written down: a forward
may catch the exception.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FrameType, ModuleType
from typing import Any, NoReturn

import torch
from torch import fx, nn

from batchnorm.surgery.patterns import IN_PLACE

_MOST_QUESTIONS = 12  # in one trace
_LOOK_FOR_TYPES = ("abc", "typing", "typing_extensions")  # modules whose checks end in a look at the value's type


class UnprovenError(Exception):
    """Why a forward is more than its graphs, or may be."""


class Answers:
    """What is said of values: the first alternative, where nothing else is given, in the order of the questions."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        self.given = given
        self.chosen: list[Any] = []
        self.alternatives: list[tuple[Any, ...]] = []
        self._kinds: dict[fx.Node, type] = {}

    def kind(self, node: fx.Node) -> type:
        """What type a value is of: a tensor, a collection, or something else; the same whenever it is asked."""
        if node not in self._kinds:
            self._kinds[node] = self._choose((torch.Tensor, list, tuple, dict, StandIn))
        return self._kinds[node]

    def truth(self) -> bool:
        """Whether a value is true."""
        return bool(self._choose((True, False)))

    def _choose(self, alternatives: tuple[Any, ...]) -> Any:
        number = len(self.chosen)
        if number == _MOST_QUESTIONS:
            raise UnprovenError("it asks many questions of its values")
        self.alternatives.append(alternatives)
        self.chosen.append(self.given[number] if number < len(self.given) else alternatives[0])
        return self.chosen[-1]


class StrictTracer(fx.Tracer):
    """Children are nodes; what a graph cannot say is an error.

    Attributes:
        answers: to what a forward may ask; None where it may ask nothing.
        refused: what else it has asked, whether or not it went on from there.
        asks_for_none: an argument that it must be given, and asks whether it is None.
    """

    def __init__(self, answers: Answers | None = None) -> None:
        super().__init__()
        self._switches, self.answers = _switches(), answers
        self.refused: str | None = None
        self.asks_for_none: str | None = None

    def refuse(self, reason: str) -> NoReturn:
        """Raise UnprovenError, and remember that."""
        self.refused = self.refused or reason
        raise UnprovenError(reason)

    def ask(self, question: Callable[[Answers], Any], what: str) -> Any:
        """The answer, where there are answers."""
        if self.answers is None:
            self.refuse(what)
        try:
            return question(self.answers)
        except UnprovenError as error:
            self.refuse(str(error))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return StandIn(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.ask(Answers.truth, "it asks whether a value is true"))

    def iter(self, obj: fx.Proxy) -> Any:
        self.refuse("it goes through a value, whose length nobody knows")

    def keys(self, obj: fx.Proxy) -> Any:
        self.refuse("it asks for the keys of a value")

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _switches() != self._switches:
            self.refuse("it switches gradients or autocast on or off")
        return super().create_node(*args, **kwargs)


class StandIn(fx.Proxy):
    """Says what it is to torch alone: a forward that asks decides by the answer."""

    tracer: StrictTracer

    @property  # type: ignore[misc]  # of object it can be set, too
    def __class__(self) -> Any:
        asker = sys._getframe(1)
        by_torchs_parameter = asker.f_code.co_name == "__instancecheck__" and _is_of(asker, "torch")
        if by_torchs_parameter:  # isinstance(x, nn.Parameter): who asks that?
            asker = sys._getframe(2)
        if _is_of(asker, "torch") and asker.f_code.co_name != "is_tensor":
            return StandIn
        doing = _in_progress(asker)
        if _is_torchs(doing):
            return StandIn
        looks = doing in ("__class__", isinstance) or (
            asker.f_code.co_name == "__instancecheck__" and _is_of(asker, *_LOOK_FOR_TYPES)
        )
        if by_torchs_parameter or not looks:
            self.tracer.refuse("it asks for the type of a value")
        return self.tracer.ask(lambda answers: answers.kind(self.node), "it asks for the type of a value")

    def __hash__(self) -> int:
        """For torch.fx; a forward that looks a value up decides by what it finds."""
        if not _is_of(sys._getframe(1), "torch", "batchnorm"):
            self.tracer.refuse("it looks for a value in a set or a dictionary")
        return id(self)


def _number(name: str) -> Callable[[StandIn], NoReturn]:
    def method(self: StandIn) -> NoReturn:
        if _is_torchs(_in_progress(sys._getframe(1))):  # which then takes the value for what it is
            raise TypeError(f"a value in a trace has no {name}")
        self.tracer.refuse("it asks for the number that a value is, or for how many it holds")

    return method


# Python's own error for what is no number could be caught, and the forward go another way.
for _name in ("__int__", "__float__", "__complex__", "__index__", "__len__"):
    setattr(StandIn, _name, _number(_name))


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[StandIn, Any], fx.Proxy]:
    def method(self: StandIn, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


# torch.fx would write x = x + y for x += y, and whoever else holds x would not see the change.
for _function in IN_PLACE:
    setattr(StandIn, f"__{_function.__name__}__", _in_place(_function))


def _is_of(frame: FrameType, *names: str) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".")[0] in names


def _in_progress(frame: FrameType) -> Any:
    """What a frame is doing: "__class__" where it looks at a type itself, or what the call in progress begins with.

    That is isinstance for isinstance(x, T), the module torch for torch.arange(x); None where it is not to be seen.
    Functions in C ask, too, and torch's read the memory of whatever says that it is a tensor.
    """
    instructions = {instruction.offset: instruction for instruction in dis.get_instructions(frame.f_code)}
    now = instructions[frame.f_lasti]
    if now.argval == "__class__" or now.opname == "MATCH_CLASS":
        return "__class__"
    for instruction in instructions.values():
        if instruction.opname.startswith("LOAD_") and _start(instruction) == _start(now) != (None, None):
            known = (frame.f_locals, frame.f_globals, frame.f_builtins)
            return next((names[instruction.argval] for names in known if instruction.argval in names), None)
    return None


def _start(instruction: dis.Instruction) -> tuple[int | None, int | None]:
    """Line and column where an instruction's source begins; None without them (python -X no_debug_ranges)."""
    where = instruction.positions
    return (None, None) if where is None else (where.lineno, where.col_offset)


def _is_torchs(called: Any) -> bool:
    """Whether this is a module of torch's or a function of its in C."""
    kind = type(called)  # a stand-in answers to nothing else
    if kind not in (ModuleType, BuiltinFunctionType):
        return False
    return str(called.__name__ if kind is ModuleType else called.__module__).split(".")[0] == "torch"


def _switches() -> tuple[bool, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")),
    )
