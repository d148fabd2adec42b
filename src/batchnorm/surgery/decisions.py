"""What a forward decides by without asking a stand-in: whether it is None or some object, what it matches, modes.

Python answers these itself, so they are watched for while a forward is traced: in every function outside of torch and
the standard library, before each such instruction. What is not seen: a decision by a text made of a value.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from torch import fx, nn

from batchnorm.surgery.stand_ins import StrictTracer, instructions_of, package_of

_OURS = ("torch", "batchnorm", "_pytest", "pluggy")
_STANDARD = str(Path(dis.__file__).parent)
# Functions that see through a stand-in without asking it.
_REVEALING = frozenset({"type", "id", "issubclass", "is_", "is_not", "vars", "is_tensor_like", "tree_leaves"})
_MODES = frozenset(
    {"is_inference_mode_enabled", "is_autocast_enabled", "is_autocast_cpu_enabled", "is_autocast_available"}
)
_MATCHES = ("MATCH_SEQUENCE", "MATCH_MAPPING", "MATCH_KEYS")


@dataclass(frozen=True)
class _Decision:
    """An instruction that decides: names that what is decided by is made of, and what it is compared with."""

    names: tuple[str, ...]
    constant: Any
    is_plain: bool  # a name and a constant, nothing else
    is_match: bool


@contextmanager
def watched(tracer: StrictTracer, known: Mapping[str, Any]) -> Iterator[None]:
    """Look at what is run in the body.

    Args:
        tracer: is told what to refuse.
        known: arguments that are traced with these values too, by name: a look whether they are that is no decision
            that is missed.
    """
    before = sys.gettrace()
    sys.settrace(functools.partial(_entered, tracer, known))
    try:
        yield
    finally:
        sys.settrace(before)


def _entered(tracer: StrictTracer, known: Mapping[str, Any], frame: FrameType, event: str, _: Any) -> Any:
    if _is_elsewhere(frame) or not _concerns(frame):
        return None
    # Nothing is raised in here: an exception of a trace function may come at any place.
    if _catches(frame.f_code):
        tracer.note("it catches exceptions")
    if _MODES & set(frame.f_code.co_names):
        tracer.note("it asks for a mode of torch's")
    if not _decisions(frame.f_code):
        return None
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    return functools.partial(_looked_at, tracer, known)


def _looked_at(tracer: StrictTracer, known: Mapping[str, Any], frame: FrameType, event: str, _: Any) -> Any:
    decision = _decisions(frame.f_code).get(frame.f_lasti) if event == "opcode" else None
    if decision is not None:
        _judge(tracer, known, frame, decision)
    return functools.partial(_looked_at, tracer, known)


def _judge(tracer: StrictTracer, known: Mapping[str, Any], frame: FrameType, decision: _Decision) -> None:
    places = (frame.f_locals, frame.f_globals)
    if decision.is_match or not decision.names:  # by what lies on the stack, where nobody sees it
        if any(_holds_a_stand_in(value) for value in frame.f_locals.values()):
            tracer.note("it matches a value, or asks what it has just computed")
        return
    values = [next((place[name] for place in places if name in place), None) for name in decision.names]
    held = [value for value in values if _holds_a_stand_in(value)]
    if not held:
        return
    first: Any = held[0]
    if decision.is_plain and _is_stand_in(first) and first.node.op == "placeholder":
        name = str(first.node.target)
        if name in known and known[name] is decision.constant:
            return
        if name not in known and decision.constant is None:
            tracer.asks_for_none = name
    tracer.note("it asks whether a value is None, or which object it is")


def _concerns(frame: FrameType) -> bool:
    """Whether a function that begins has stand-ins: others may run at any time, as the garbage collector's do."""
    inside = frame.f_code.co_name.startswith("<")  # a comprehension, whose list is an iterator by now
    return inside or any(_holds_a_stand_in(value) for value in frame.f_locals.values())


def _is_elsewhere(frame: FrameType) -> bool:
    """Whether this is a function of torch's, ours, or of Python's own library: these decide nothing for a forward."""
    file = frame.f_code.co_filename
    is_in_library = file.startswith((_STANDARD, "<frozen")) and "site-packages" not in file
    package = package_of(frame)
    return package in _OURS or (is_in_library and package in sys.stdlib_module_names)


@functools.lru_cache(maxsize=4096)
def _catches(code: CodeType) -> bool:
    """Whether there is an `except`: real values may raise what stand-ins do not."""
    return any(instruction.opname == "CHECK_EXC_MATCH" for instruction in instructions_of(code).values())


def _is_stand_in(value: Any) -> bool:
    return issubclass(type(value), fx.Proxy)


def _holds_a_stand_in(value: Any) -> bool:
    kind = type(value)
    if issubclass(kind, dict):
        return any(_is_stand_in(v) for v in value.values())
    if issubclass(kind, (list, tuple, set, frozenset)):
        return any(_is_stand_in(v) for v in value)
    if issubclass(kind, fx.Proxy):
        return True
    if issubclass(kind, (nn.Module, ModuleType, type)) or not hasattr(value, "__dict__"):
        return False
    return any(_is_stand_in(v) for v in vars(value).values())


@functools.lru_cache(maxsize=4096)
def _decisions(code: CodeType) -> dict[int, _Decision]:
    """By the offsets of their instructions."""
    instructions = instructions_of(code)
    found = {}
    for offset, instruction in instructions.items():
        of_identity = instruction.opname == "IS_OP" or instruction.opname.endswith(("IF_NONE", "IF_NOT_NONE"))
        is_call = instruction.opname.startswith("CALL")
        is_match = instruction.opname in _MATCHES
        if not (of_identity or is_call or is_match):
            continue
        parts = [
            other
            for other in instructions.values()
            if _is_within(other, instruction) and other.opname.startswith("LOAD_")
        ]
        names = [p.argval for p in parts if p.opname not in ("LOAD_CONST", "LOAD_ATTR", "LOAD_METHOD")]
        if is_call and not _REVEALING.intersection(p.argval for p in parts if isinstance(p.argval, str)):
            continue
        constants = [p.argval for p in parts if p.opname == "LOAD_CONST"]
        found[offset] = _Decision(
            tuple(name for name in names if isinstance(name, str)),
            constants[0] if constants else None,
            not is_call and len(names) == 1 and len(parts) == 1 + len(constants) and len(constants) <= 1,
            is_match,
        )
    return found


def _is_within(part: dis.Instruction, whole: dis.Instruction) -> bool:
    """By where their source stands; so it is taken to be where nobody knows that (python -X no_debug_ranges)."""
    a, b = part.positions, whole.positions
    if a is None or b is None:
        return True
    places = (b.lineno, b.col_offset), (a.lineno, a.col_offset), (a.end_lineno, a.end_col_offset)
    known = [
        (line, column) for line, column in (*places, (b.end_lineno, b.end_col_offset)) if line and column is not None
    ]
    return len(known) < 4 or known == sorted(known)
