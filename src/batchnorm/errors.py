"""The errors that `batchnorm` raises on purpose: each message says what was expected, what came, and what to do.

What came may be anyone's: a cell of a megabyte, a name that holds a terminal's control characters. `quoted`, `legible`
and `clipped` are how it is shown.
"""

from __future__ import annotations

_LONGEST = 40  # characters of what came that a message shows


class BatchnormError(Exception):
    """The root: catch it to catch everything this package raises on purpose outside the layers."""


class DataError(BatchnormError, ValueError):
    """A table, an array or a row cannot be used as it is."""


class SettingsError(BatchnormError, ValueError):
    """An option or a combination of options makes no sense.

    Args:
        message: what was expected, what came, what to do; it begins with `setting` where there is one.
        setting: the option's name in Python. Who offers it under another name can say the message in that name.

    >>> str(SettingsError("batch_size expected at least 2, got 1", setting="batch_size").called("--batch-size"))
    '--batch-size expected at least 2, got 1'
    """

    def __init__(self, message: str = "", *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting

    def called(self, name: str) -> SettingsError:
        """The same error of the same option, which is called `name` where the user sees it."""
        return SettingsError(name + str(self).removeprefix(self.setting or ""), setting=name)


class ModelFileError(BatchnormError, ValueError):
    """A model file is truncated, altered, foreign, newer than this package, or holds impossible values."""


class CheckpointError(BatchnormError, ValueError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class OutputError(BatchnormError, OSError):
    """Something could not be written: the message says what, and that the last good file is still there."""


class StatisticsWarning(UserWarning):
    """Batch statistics were not used as they came: the message names the layer's channels and the reason."""


def quoted(value: object) -> str:
    """`value` as Python writes it, control characters escaped, cut to 40 characters.

    >>> quoted("age"), quoted(3.5), quoted("red \\x1b[31m")
    ("'age'", '3.5', "'red \\\\x1b[31m'")
    >>> quoted("x" * 1_000_000)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'"
    """
    return repr(clipped(value)) if isinstance(value, str) else clipped(repr(value))


def legible(text: str, *, most: int = _LONGEST) -> str:
    """`text` without quotation marks, control characters escaped, cut to `most` characters.

    >>> legible("signup date"), legible("two\\nlines")
    ('signup date', 'two\\\\nlines')
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in clipped(text, most=most))


def clipped(text: str, *, most: int = _LONGEST) -> str:
    """`text` cut to `most` characters, an ellipsis where more were.

    >>> clipped("x" * 1_000_000)
    'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'
    """
    return text if len(text) <= most else f"{text[:most]}…"
