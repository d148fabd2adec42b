"""Which kernels run: the compiled ones where they are there, or the specification's own operations.

`BATCHNORM_KERNEL`, or `use()` at any time, forces one: native, spec, or an instruction set of the native kernels
(x86-64-v4, x86-64-v3, x86-64-v2, plain). `auto`, the default, takes the best that this processor has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from batchnorm.errors import SettingsError, quoted

VARIABLE = "BATCHNORM_KERNEL"


@dataclass(frozen=True)
class Choice:
    """What was asked for and what runs.

    Attributes:
        asked: auto, native, spec or an instruction set.
        kernel: native or spec.
        instruction_set: of the native kernels; None for spec.
        why: one sentence.
    """

    asked: str
    kernel: str
    instruction_set: str | None
    why: str


_native: ModuleType | None = None  # the compiled module, while it is what runs
# A layer's whole call against torch's C++ autograd, while the compiled kernels run and it was built for this torch.
layer_call: Callable[..., Any] | None = None
result_like: Callable[[Any], Any] | None = None  # an empty tensor in memory that is kept, where there is such memory
_choice: Choice | None = None  # None until a kernel is first needed: importing reads no environment


def use(name: str) -> Choice:
    """Take these kernels from now on, in the whole process. What was compiled before keeps the kernels it has.

    Args:
        name: auto, native, spec, or an instruction set: x86-64-v4, x86-64-v3, x86-64-v2, plain.

    Raises:
        SettingsError: another name, or what was asked for cannot run here; what ran before goes on.

    >>> with using("spec") as choice:
    ...     choice.kernel
    'spec'
    """
    global _native, _choice, layer_call, result_like
    found, problem = _compiled()
    call, like = (
        (None, None) if found is None or name == "spec" else _layer_call()
    )  # may refuse; what ran before goes on
    sets = [] if found is None else [_public(s) for s in found.instruction_sets()]
    if name == "spec":
        _native, _choice = None, Choice(name, "spec", None, "asked for")
    elif name == "auto" and found is None:
        _native, _choice = None, Choice(name, "spec", None, problem)
    elif name not in ("auto", "native", *_KNOWN_SETS):
        known = ", ".join(("auto", "native", "spec", *_KNOWN_SETS))
        raise SettingsError(f"kernel expected one of {known}; got {quoted(name)}", setting="kernel")
    elif found is None:
        said = f"kernel {name!r} cannot run: {problem}. Use spec, or auto for the best that can"
        raise SettingsError(said, setting="kernel")
    else:
        wanted = sets[0] if name in ("auto", "native") else name
        if not found.choose(wanted.replace("-", "_")):
            said = f"kernel {name!r} cannot run on this processor, which has {', '.join(sets)}"
            raise SettingsError(said, setting="kernel")
        why = "asked for" if name == wanted else "the best that this processor has"
        _native, _choice = found, Choice(name, "native", wanted, why)
    layer_call, result_like = call, like
    return _choice


def current() -> Choice:
    """What runs; the first call of all reads BATCHNORM_KERNEL."""
    if _choice is None:
        asked = os.environ.get(VARIABLE, "auto") or "auto"
        try:
            return use(asked)
        except SettingsError as error:
            raise error.called(VARIABLE) if error.setting == "kernel" else error from None
    return _choice


def native() -> ModuleType | None:
    """The compiled kernels where they are what runs."""
    if _choice is None:
        current()
    return _native


def built() -> ModuleType | None:
    """The compiled kernels, whether or not they are what runs."""
    return _compiled()[0]


@contextmanager
def using(name: str) -> Iterator[Choice]:
    """`use` for the length of a block."""
    before = current().asked
    try:
        yield use(name)
    finally:
        use(before)


_KNOWN_SETS = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "plain")


def _public(instruction_set: str) -> str:
    return instruction_set.replace("_", "-")


def _compiled() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and why not. torch comes first: the kernels share its threads."""
    import torch  # noqa: F401

    try:
        from batchnorm.kernels import _native as module  # type: ignore[attr-defined]
    except ImportError as error:
        return None, f"the native kernels were not built when batchnorm was installed ({error})"
    if not module.instruction_sets():
        return None, "this processor has none of the instruction sets that the native kernels are built for"
    return module, ""


def layer_module() -> ModuleType | None:
    """The module of a layer's call in one step, where it was built for this very torch."""
    import torch

    try:
        from batchnorm.kernels import _torch_layer as module  # type: ignore[attr-defined]
    except ImportError:
        return None
    return module if module.built_for == torch.__version__.split("+")[0] else None


def _layer_call() -> tuple[Callable[..., Any] | None, Callable[[Any], Any] | None]:
    module = layer_module()
    if module is None:
        return None, None
    from batchnorm.kernels.autograd import unusual_backward
    from batchnorm.kernels.memory import begin

    begin(module)
    module.set_unusual_backward(unusual_backward)
    return module.batch_norm, module.result_like
