"""Whether a function is the one that was read when its replacement was written, whatever its comments and spacing."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def fingerprint(function: Callable[..., Any]) -> str:
    """A short hash of a function's arguments and statements; of nothing, where its source cannot be read.

    Annotations, the docstring, comments and spacing do not count.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        return ""
    body = definition.body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    text = "\n".join([ast.unparse(definition.args), *(ast.unparse(statement) for statement in body)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
