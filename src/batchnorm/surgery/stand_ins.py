"""What stands for a tensor while a forward is traced: it goes into the graph, and answers no question of Python's.

A forward that asks is refused, or is answered once in each way (`Answers`). Refusals are also written down: a forward
may catch the exception.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FrameType, ModuleType, UnionType
from typing import Any, NoReturn

import torch
from torch import fx, nn

from batchnorm.surgery.patterns import IN_PLACE

_MOST_QUESTIONS = 12  # in one trace
_LOOK_FOR_TYPES = ("abc", "typing", "typing_extensions")  # modules whose checks end in a look at the value's type
_PROVERS = ("torch", "batchnorm")  # whose questions decide nothing for a forward
_USUAL = (torch.Tensor, list, tuple, dict, str, int, float)  # what their classes may stand for
_NAMES = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FAST_CHECK")
_SILENT = ("CACHE", "PRECALL", "NOP", "EXTENDED_ARG", "PUSH_NULL")  # which put no value together


class UnprovenError(Exception):
    """Why a forward is more than its graphs, or may be."""


class Answers:
    """What is said of values: the first alternative, where nothing else is given, in the order of the questions."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        self.given = given
        self.chosen: list[Any] = []
        self.alternatives: list[tuple[Any, ...]] = []
        self._kinds: dict[fx.Node, type] = {}
        self._denied: dict[fx.Node, set[type]] = {}

    def kind(self, node: fx.Node, asked: tuple[type, ...]) -> type:
        """Which of these types a value is of, or StandIn for none of them; consistent with what was said before."""
        if node not in self._kinds:
            denied = self._denied.setdefault(node, set())
            open_still = [kind for kind in dict.fromkeys(asked) if not any(issubclass(kind, no) for no in denied)]
            tensors_first = sorted(open_still, key=lambda kind: kind is not torch.Tensor)
            chosen = self._choose((*tensors_first, StandIn))
            if chosen is StandIn:
                denied.update(asked)
                return StandIn
            self._kinds[node] = chosen
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

    def note(self, reason: str) -> None:
        """Remember why the trace will not do; the first reason counts."""
        self.refused = self.refused or reason

    def refuse(self, reason: str) -> NoReturn:
        """Raise UnprovenError, and remember that."""
        self.note(reason)
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
        by_torchs_parameter = asker.f_code.co_name == "__instancecheck__" and package_of(asker) == "torch"
        if by_torchs_parameter:  # isinstance(x, nn.Parameter): who asks that?
            asker = sys._getframe(2)
        if package_of(asker) == "torch" and asker.f_code.co_name != "is_tensor":
            return StandIn
        if _is_torchs(_in_progress(asker)):
            return StandIn
        asked = None if by_torchs_parameter else _types_asked_for(asker)
        if asked is None:
            self.tracer.refuse("it asks for the type of a value")
        return self.tracer.ask(lambda answers: answers.kind(self.node, asked), "it asks for the type of a value")

    def __getattr__(self, name: str) -> Any:
        asker = sys._getframe(1)
        if package_of(asker) not in _PROVERS:
            called = _in_progress(asker)  # a stand-in, perhaps, which answers to == by a node
            if called is hasattr or called is getattr:
                self.tracer.refuse("it asks whether a value has an attribute")
        return _Attribute(self, name)

    def __hash__(self) -> int:
        """For torch.fx; a forward that looks a value up decides by what it finds."""
        asker = sys._getframe(1)
        if package_of(asker) not in _PROVERS or asker.f_globals["__name__"] == nn.modules.container.__name__:
            self.tracer.refuse("it looks for a value in a set or a dictionary")
        return id(self)


class _Attribute(StandIn, fx.proxy.Attribute):
    """x.shape, or the method x.view before it is called."""


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


def package_of(frame: FrameType) -> str:
    """To which the function belongs that runs."""
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def _in_progress(frame: FrameType) -> Any:
    """What the call in progress begins with: isinstance for isinstance(x, T), the module torch for torch.arange(x).

    None where that is not to be seen. Functions in C ask, too, and torch's read the memory of whatever says that it is
    a tensor.
    """
    instructions = instructions_of(frame.f_code)
    now = instructions[frame.f_lasti]
    if not now.opname.startswith(("CALL", "PRECALL")):
        return None
    begins = [i for i in instructions.values() if i.opname in _NAMES and _start(i) == _start(now) != (None, None)]
    return _value_of(begins[0], frame) if len(begins) == 1 else None


def _types_asked_for(frame: FrameType) -> tuple[type, ...] | None:
    """T in isinstance(x, T); for abstract classes what they may stand for; None where it is not to be seen."""
    if frame.f_code.co_name == "__instancecheck__" and package_of(frame) in _LOOK_FOR_TYPES:
        return _USUAL
    if _in_progress(frame) is not isinstance:
        return None
    before = [i for i in instructions_of(frame.f_code).values() if i.offset < frame.f_lasti and i.opname not in _SILENT]
    try:
        kinds = tuple(_flat(_expression(before, frame)[0]))
    except (LookupError, AttributeError, TypeError):
        return None
    return kinds if all(issubclass(type(kind), type) for kind in kinds) else None


def _expression(instructions: list[dis.Instruction], frame: FrameType) -> tuple[Any, list[dis.Instruction]]:
    """The value that the last instructions have put together of names, and the instructions before them."""
    *before, last = instructions
    if last.opname in _NAMES or last.opname == "LOAD_CONST":
        return (last.argval if last.opname == "LOAD_CONST" else _value_of(last, frame)), before
    if last.opname == "LOAD_ATTR":
        base, before = _expression(before, frame)
        if not issubclass(type(base), (ModuleType, type)):  # isinstance would ask a stand-in
            raise LookupError(last.argval)
        return getattr(base, last.argval), before
    if last.opname != "BUILD_TUPLE":
        raise LookupError(last.opname)
    parts = []
    for _ in range(last.argval):
        part, before = _expression(before, frame)
        parts.append(part)
    return tuple(parts), before


def _flat(kinds: Any) -> Iterator[Any]:
    if issubclass(type(kinds), UnionType):
        kinds = kinds.__args__
    if issubclass(type(kinds), tuple):
        for kind in kinds:
            yield from _flat(kind)
    else:
        yield kinds


def _value_of(instruction: dis.Instruction, frame: FrameType) -> Any:
    known = (frame.f_locals, frame.f_globals, frame.f_builtins)
    return next((names[instruction.argval] for names in known if instruction.argval in names), None)


@functools.lru_cache(maxsize=1024)
def instructions_of(code: CodeType) -> dict[int, dis.Instruction]:
    """By their offsets."""
    return {instruction.offset: instruction for instruction in dis.get_instructions(code)}


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
