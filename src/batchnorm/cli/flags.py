"""Options as they are typed: an error of a setting names its flag, `--learning-rate`, and not the setting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from batchnorm.errors import SettingsError

_OTHER_NAMES = {"sample_weight": "--weight", "data": "DATA"}


def flag_of(option: str) -> str:
    """What is typed for the option that is called `option` in Python.

    >>> flag_of("learning_rate"), flag_of("sample_weight"), flag_of("data")
    ('--learning-rate', '--weight', 'DATA')
    """
    return _OTHER_NAMES.get(option, f"--{option.replace('_', '-')}")


@contextmanager
def named_by_flags() -> Iterator[None]:
    """Let errors of settings name the flags.

    >>> with named_by_flags():
    ...     raise SettingsError("batch_size expected at least 2, got 1", setting="batch_size")
    Traceback (most recent call last):
    batchnorm.errors.SettingsError: --batch-size expected at least 2, got 1
    """
    try:
        yield
    except SettingsError as error:
        if error.setting is None:
            raise
        raise error.called(flag_of(error.setting)) from error
