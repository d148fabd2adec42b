"""Memory of layers' results, kept from one call to the next instead of going back to the system.

A layer's output and its input's gradient are new tensors at every call. Memory for large ones glibc gets from the
system, zeroed and page by page, and gives back at once: over tensors of 50 MB that costs more than the layer. So
where a layer's call is one step (`batchnorm env` says), blocks of 8 MiB and more that no tensor uses any longer
wait for the next result of their size (from 16 MiB on if nobody will differentiate them), up to a limit: 512 MiB,
or a sixteenth of the machine's memory where that is less. `BATCHNORM_KEEP_BYTES` or `keep_memory` sets another; 0
keeps nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from batchnorm.errors import SettingsError, quoted
from batchnorm.kernels import choice

VARIABLE = "BATCHNORM_KEEP_BYTES"
USUAL_LIMIT = 512 << 20
_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class KeptMemory:
    """What is kept and what for.

    Attributes:
        limit: bytes kept at most; 0 keeps nothing.
        held: bytes kept now, none of them in a tensor's use.
        asked: how many results that are large enough asked for memory, in this process; none while the limit is 0.
        again: how many of them were given memory that was kept.
    """

    limit: int
    held: int
    asked: int
    again: int


def kept_memory() -> KeptMemory:
    """What is kept now; nothing where this torch has no layer's call in one step.

    >>> kept_memory().held <= kept_memory().limit
    True
    """
    choice.current()  # the first time of all, the environment is read
    module = choice.layer_module()
    return KeptMemory(0, 0, 0, 0) if module is None else KeptMemory(*module.kept_memory())


def keep_memory(limit: int) -> KeptMemory:
    """Keep at most so many bytes from now on, in the whole process, and free what is kept above that.

    Memory that a tensor uses is never touched; it is freed, not kept, once the last tensor of it is gone. Where a
    layer's call is not one step, nothing is kept whatever the limit.

    Args:
        limit: bytes; 0 keeps nothing.

    Raises:
        SettingsError: not a whole number of bytes.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit < 1 << 63:
        raise SettingsError(f"limit expected a number of bytes, 0 or more; got {quoted(limit)}", setting="limit")
    global _begun
    module = choice.layer_module()
    if module is not None:
        module.keep_memory(limit)
        _begun = True
    return kept_memory()


_begun = False  # whether there is a limit yet


def begin(module: ModuleType) -> None:
    """Set the limit that the environment or the machine asks for, the first time that the module is loaded.

    Raises:
        SettingsError: BATCHNORM_KEEP_BYTES is not a number of bytes.
    """
    global _begun
    if not _begun:
        module.keep_memory(_usual_limit())
        _begun = True


def _usual_limit() -> int:
    text = os.environ.get(VARIABLE, "")
    if text:
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            said = f"{VARIABLE} expected a number of bytes, such as 0 or 536870912; got {quoted(text)}"
            raise SettingsError(said, setting=VARIABLE)
        return int(text)
    return min([USUAL_LIMIT, *(size // 16 for size in _memory_there_is())])


def _memory_there_is() -> list[int]:
    """Bytes that the machine has and that its container allows, as far as the system says."""
    found = []
    with suppress(AttributeError, OSError, ValueError):  # no such question on this system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CONTAINER:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # else "max"
            found.append(int(text))
    return [size for size in found if size > 0]
