"""How a command ends: what the outside sees of an error is one message and an exit code, said here and nowhere else."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from batchnorm.cli.note import note
from batchnorm.errors import BatchnormError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@contextmanager
def one_message() -> Iterator[None]:
    """Within: exit code 2 for anything the user can mend, 130 after Ctrl-C; warnings become notes."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks ends nothing
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(str(message))
        try:
            yield
            sys.stdout.flush()  # a full disk is heard of here, while it can still be said
        except BatchnormError as error:
            sys.stderr.write(f"batchnorm: {error}\n")
            raise SystemExit(2) from error
        except KeyboardInterrupt as error:
            sys.stderr.write("batchnorm: interrupted\n")
            raise SystemExit(INTERRUPTED) from error
        except BrokenPipeError as error:
            # Whoever read our output has gone; nothing is left to say, not even at shutdown.
            _mute()
            raise SystemExit(0) from error
        except OSError as error:
            raise SystemExit(unwritten(error)) from error


def unwritten(error: OSError) -> int:
    """Say that the output had nowhere to go; the exit code."""
    sys.stderr.write(f"batchnorm: the output could not be written: {error.strerror or error}\n")
    _mute()
    return 2


def _mute() -> None:
    """Let what is left in standard output's buffer go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
