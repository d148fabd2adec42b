"""`batchnorm predict MODEL DATA` without a command-line parser.

That is how a program asks for one row, and importing the parser takes longer than loading the model and answering. Any
other words, an option among them, go to the parser.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def is_direct(arguments: Sequence[str]) -> bool:
    """Whether nothing has to be parsed: `predict` and two arguments that are no options, - for standard input.

    >>> is_direct(["predict", "model.safetensors", "-"]), is_direct(["predict", "model.safetensors", "--help"])
    (True, False)
    """
    return (
        len(arguments) == 3
        and arguments[0] == "predict"
        and all(word == "-" or not word.startswith("-") for word in arguments[1:])
    )


def carry_out(arguments: Sequence[str]) -> int:
    """Predict; returns the exit code."""
    from batchnorm.cli.ending import one_message

    # No product in here is shared among threads, and waiting for OpenBLAS to start some takes longer than the answer.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with one_message():
        from batchnorm.cli.prediction import predict_rows

        return predict_rows(*arguments[1:])
