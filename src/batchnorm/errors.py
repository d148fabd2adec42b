"""The errors that `batchnorm` raises on purpose: each message says what was expected, what came, and what to do."""

from __future__ import annotations


class BatchnormError(Exception):
    """The root: catch it to catch everything this package raises on purpose outside the layers."""


class DataError(BatchnormError, ValueError):
    """A table, an array or a row cannot be used as it is."""


class SettingsError(BatchnormError, ValueError):
    """An option or a combination of options makes no sense."""


class ModelFileError(BatchnormError, ValueError):
    """A model file is truncated, altered, foreign, newer than this package, or holds impossible values."""


class CheckpointError(BatchnormError, ValueError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class OutputError(BatchnormError, OSError):
    """Something could not be written: the message says what, and that the last good file is still there."""


class StatisticsWarning(UserWarning):
    """Batch statistics were not used as they came: the message names the layer's channels and the reason."""
