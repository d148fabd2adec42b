"""A module's forward as graphs: all that it can be, whatever the input, its optional arguments and the mode.

torch.fx runs a forward once, with stand-ins for tensors, and writes down what happens to them. What Python decides on
the way is written down nowhere, so everything that Python could decide by is tried, or looked for and refused.
"""

from __future__ import annotations

import copy
import dis
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FrameType, ModuleType
from typing import Any

import torch
from torch import fx, nn

from batchnorm.randomness import Drawn, same_randomness
from batchnorm.surgery.patterns import IN_PLACE

_MOST_OPTIONS = 3  # optional arguments, each of which doubles the number of traces
_MOST_WAYS, _MOST_QUESTIONS = 64, 12  # traces by the answers to a forward's questions, and questions in one of them


class UnprovenError(Exception):
    """Why a forward is more than its graphs, or may be."""


@dataclass(frozen=True)
class Traces:
    """The graphs of a module's forward, one node for each call of a child.

    Attributes:
        graphs: all that it can be.
        several: why the first of them cannot stand for the forward; None where all are alike.
    """

    graphs: tuple[fx.Graph, ...]
    several: str | None


def traces(module: nn.Module, *, every_way: bool = False) -> Traces:
    """Trace in training and at test time, with and without gradients, each optional argument given and not given.

    Args:
        module: whose forward it is; stays as it is.
        every_way: whether a forward may ask for the type of a value and whether something is true: it is then traced
            with each answer; a type is a tensor's, a list's, or neither.

    Raises:
        UnprovenError: the forward looks at the type of a tensor, at its numbers or its sizes; draws random numbers in
            Python; changes the module; makes tensors; switches gradients or autocast.
    """
    options = _optional_arguments(module)
    graphs = []
    for training, grad in itertools.product((True, False), (True, False)):
        for left_out in itertools.product((False, True), repeat=len(options)):
            absent = {name: default for (name, default), out in zip(options.items(), left_out, strict=True) if out}
            stand_in = _without_numbers(module)
            stand_in.train(training)  # whose result is None where somebody's own train() forgets it
            with torch.set_grad_enabled(grad):
                graphs += _traced_every_way(stand_in, absent) if every_way else [_traced(stand_in, absent)]
    several = None
    if options:
        several = f"its forward has an optional argument, {next(iter(options))}"
    elif len({graph.python_code("self").src for graph in graphs}) > 1:
        several = "its forward does otherwise in training than at test time, or without gradients"
    return Traces(tuple(graphs), several)


def _optional_arguments(module: nn.Module) -> dict[str, Any]:
    """Those of the forward, with their defaults."""
    forward = type(module).forward
    if "forward" in vars(module) or hasattr(forward, "__wrapped__"):
        raise UnprovenError("its forward is wrapped or set on the object")
    if type(module).__call__ is not nn.Module.__call__ and not _is_plain_graph(module):
        raise UnprovenError("it is called in a way of its own")
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    if any(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        raise UnprovenError("its forward has arguments that are not fixed in number or go by name alone")
    options = {p.name: p.default for p in parameters if p.default is not p.empty}
    if len(options) > _MOST_OPTIONS:
        raise UnprovenError(f"its forward has {len(options)} optional arguments")
    return options


def _is_plain_graph(module: nn.Module) -> bool:
    """Whether it is of torch.fx, whose class for each graph calls as any module does, with words for a traceback."""
    if not isinstance(module, fx.GraphModule):
        return False
    kind: Any = type(module)
    called, base = getattr(kind.__call__, "__code__", None), super(kind, module).__call__
    is_made = any(called is code for code in fx.GraphModule.recompile.__code__.co_consts)
    return is_made and kind._wrapped_call.cls_call is None and base.__func__ is nn.Module.__call__


def _without_numbers(module: nn.Module) -> nn.Module:
    """A deep copy whose parameters and buffers have shapes alone: nothing that a forward does to them is felt."""
    memo: dict[int, Any] = {}
    try:
        for p in module.parameters():
            memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for b in module.buffers():
            memo[id(b)] = torch.empty_like(b, device="meta")
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever a user's module raises
        raise UnprovenError(f"it cannot be copied: {error}") from error


def _traced_every_way(module: nn.Module, absent: dict[str, Any]) -> list[fx.Graph]:
    """One graph for each way in which the forward's questions could be answered; none for a way that it refuses."""
    graphs: list[fx.Graph] = []
    waiting: list[tuple[Any, ...]] = [()]
    for _ in range(_MOST_WAYS):
        answers = _Answers(waiting.pop())
        try:
            graphs.append(_traced(module, absent, answers))
        except UnprovenError as error:
            if not _is_refusal(error.__cause__):
                raise
        for position in range(len(answers.given), len(answers.alternatives)):
            before = tuple(answers.chosen[:position])
            waiting += [(*before, other) for other in answers.alternatives[position][1:]]
        if not waiting:
            break
    else:
        raise UnprovenError("it asks many questions of its values")
    if not graphs:
        raise UnprovenError("its forward refuses whatever it is traced with")
    return graphs


def _is_refusal(error: BaseException | None) -> bool:
    """Whether somebody's forward itself raised this, by `raise` or `assert`: such a call has no result."""
    trace = None if error is None else error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0] in ("torch", "batchnorm"):
        return False
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


class _Answers:
    """What is said of values: the first alternative, where nothing else is given, in the order of the questions."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        self.given = given
        self.chosen: list[Any] = []
        self.alternatives: list[tuple[Any, ...]] = []
        self._kinds: dict[fx.Node, type] = {}

    def kind(self, node: fx.Node) -> type:
        """What type a value is of: a tensor, a list, or something else; the same whenever it is asked."""
        if node not in self._kinds:
            self._kinds[node] = self._choose((torch.Tensor, list, _StandIn))
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


def _traced(module: nn.Module, absent: dict[str, Any], answers: _Answers | None = None) -> fx.Graph:
    before, drawn = _attributes(module), Drawn.so_far()
    with same_randomness():
        try:
            graph = _StrictTracer(answers).trace(module, absent or None)
        except UnprovenError:
            raise
        except Exception as error:  # whatever a user's forward raises when it is handed stand-ins
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnprovenError(f"its forward cannot be traced: {reason}") from error
        if Drawn.so_far() != drawn:
            raise UnprovenError("its forward draws random numbers in Python")
    own = before.keys() | before["_parameters"].keys() | before["_buffers"].keys() | before["_modules"].keys()
    if any(node.op == "get_attr" and str(node.target).split(".")[0] not in own for node in graph.nodes):
        raise UnprovenError("its forward makes tensors that a trace would keep as they are")
    if _attributes(module) != before:
        raise UnprovenError("its forward changes the module itself")
    return graph


class _StrictTracer(fx.Tracer):
    """Children are nodes; what a graph cannot say is an error."""

    def __init__(self, answers: _Answers | None = None) -> None:
        super().__init__()
        self._switches, self.answers = _switches(), answers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _StandIn(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return super().to_bool(obj) if self.answers is None else self.answers.truth()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _switches() != self._switches:
            raise UnprovenError("it switches gradients or autocast on or off")
        return super().create_node(*args, **kwargs)


class _StandIn(fx.Proxy):
    """Says what it is to torch alone: a forward that asks decides by the answer."""

    @property  # type: ignore[misc]  # of object it can be set, too
    def __class__(self) -> Any:
        asker = sys._getframe(1)
        if asker.f_globals.get("__name__", "").split(".")[0] == "torch" and asker.f_code.co_name != "is_tensor":
            return _StandIn
        doing = _in_progress(asker)
        if _is_torchs(doing):
            return _StandIn
        tracer: Any = self.tracer
        answers: _Answers | None = tracer.answers
        if answers is None or doing not in ("__class__", isinstance):
            raise UnprovenError("it asks for the type of a value")
        return answers.kind(self.node)


def _in_progress(frame: FrameType) -> Any:
    """What a frame is doing: "__class__" where it looks at a type itself, or what the call in progress begins with.

    That is isinstance for isinstance(x, T), the module torch for torch.arange(x); None where it is not to be seen.
    Functions in C ask, too, and torch's read the memory of whatever says that it is a tensor.
    """
    instructions = {instruction.offset: instruction for instruction in dis.get_instructions(frame.f_code)}
    now = instructions[frame.f_lasti]
    if now.argval == "__class__" or now.opname == "MATCH_CLASS" or frame.f_code.co_name == "__instancecheck__":
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


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[_StandIn, Any], fx.Proxy]:
    def method(self: _StandIn, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


# torch.fx would write x = x + y for x += y, and whoever else holds x would not see the change.
for _function in IN_PLACE:
    setattr(_StandIn, f"__{_function.__name__}__", _in_place(_function))


def _switches() -> tuple[bool, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")),
    )


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds, by identity, containers one level deep."""
    return {name: _identity(value) for name, value in vars(module).items()}


def _identity(value: Any) -> Any:
    kind = type(value)  # stand-ins answer to no other question
    if issubclass(kind, Mapping):
        return {key: id(v) for key, v in value.items()}
    return [id(v) for v in value] if issubclass(kind, (list, set)) else id(value)
