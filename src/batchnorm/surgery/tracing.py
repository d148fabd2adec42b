"""A module's forward as graphs: all that it can be, whatever the input, its optional arguments and the mode.

torch.fx runs a forward once, with stand-ins for tensors, and writes down what happens to them. What Python decides on
the way is written down nowhere, so everything that Python could decide by is tried, or looked for and refused: what a
stand-in is asked in `stand_ins`, what is decided without asking it in `decisions`.
"""

from __future__ import annotations

import copy
import dis
import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from batchnorm.randomness import Drawn, same_randomness
from batchnorm.surgery.decisions import watched
from batchnorm.surgery.stand_ins import Answers, StrictTracer, UnprovenError

_MOST_OPTIONS = 3  # optional arguments, each of which doubles the number of traces
_MOST_WAYS = 128  # traces by the answers to a forward's questions


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
    while True:
        try:
            graphs = _traced_with(module, options, every_way=every_way)
            break
        except _AsksForNoneError as asked:
            options[asked.name] = None
            _check_number(options)
    several = None
    if options:
        several = f"its forward has an optional argument, {next(iter(options))}"
    elif len({graph.python_code("self").src for graph in graphs}) > 1:
        several = "its forward does otherwise in training than at test time, or without gradients"
    return Traces(tuple(graphs), several)


def _traced_with(module: nn.Module, options: dict[str, Any], *, every_way: bool) -> list[fx.Graph]:
    graphs = []
    for training in (True, False):
        stand_in = _without_numbers(module)
        stand_in.train(training)  # whose result is None where somebody's own train() forgets it
        for grad, *left_out in itertools.product((True, False), *[(False, True)] * len(options)):
            absent = {name: default for (name, default), out in zip(options.items(), left_out, strict=True) if out}
            with torch.set_grad_enabled(grad):
                if every_way:
                    graphs += _traced_every_way(stand_in, absent, options)
                else:
                    graphs.append(_traced(stand_in, absent, options))
    return graphs


class _AsksForNoneError(UnprovenError):
    """A forward asks whether an argument is None that it must be given: it may be given None."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it asks whether {name} is None")
        self.name = name


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
    _check_number(options)
    return options


def _check_number(options: dict[str, Any]) -> None:
    if len(options) > _MOST_OPTIONS:
        raise UnprovenError(f"its forward has {len(options)} optional arguments")


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


def _traced_every_way(module: nn.Module, absent: dict[str, Any], options: dict[str, Any]) -> list[fx.Graph]:
    """One graph for each way in which the forward's questions could be answered; none for a way that it refuses."""
    graphs: list[fx.Graph] = []
    waiting: list[tuple[Any, ...]] = [()]
    for _ in range(_MOST_WAYS):
        answers = Answers(waiting.pop())
        try:
            graphs.append(_traced(module, absent, options, answers))
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


def _traced(
    module: nn.Module, absent: dict[str, Any], options: dict[str, Any], answers: Answers | None = None
) -> fx.Graph:
    before, drawn, tracer = _attributes(module), Drawn.so_far(), StrictTracer(answers)
    with same_randomness():
        raised = None
        try:
            with watched(tracer, options):
                graph = tracer.trace(module, absent or None)
        except Exception as error:  # whatever a user's forward raises when it is handed stand-ins
            raised = error
        # What was asked counts also where the forward has caught what it got for an answer.
        if tracer.asks_for_none is not None:
            raise _AsksForNoneError(tracer.asks_for_none)
        if tracer.refused is not None:
            raise UnprovenError(tracer.refused)
        if raised is not None:
            reason = str(raised).strip().splitlines()[0] if str(raised).strip() else type(raised).__name__
            raise UnprovenError(f"its forward cannot be traced: {reason}") from raised
        if Drawn.so_far() != drawn:
            raise UnprovenError("its forward draws random numbers in Python")
    own = before.keys() | before["_parameters"].keys() | before["_buffers"].keys() | before["_modules"].keys()
    if any(node.op == "get_attr" and str(node.target).split(".")[0] not in own for node in graph.nodes):
        raise UnprovenError("its forward makes tensors that a trace would keep as they are")
    if _attributes(module) != before:
        raise UnprovenError("its forward changes the module itself")
    return graph


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds, by identity, containers one level deep."""
    return {name: _identity(value) for name, value in vars(module).items()}


def _identity(value: Any) -> Any:
    kind = type(value)  # stand-ins answer to no other question
    if issubclass(kind, Mapping):
        return {key: id(v) for key, v in value.items()}
    return [id(v) for v in value] if issubclass(kind, (list, set)) else id(value)
