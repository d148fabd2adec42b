"""Writing a file so that at any moment, a kill -9 or a full disk included, its name holds the old content or the new.

The bytes go to a file beside the target, reach the disk (fsync), and take the target's name in one step (rename); then
the folder reaches the disk too. What a killed process left beside the target is removed by the target's next writing.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from batchnorm.errors import OutputError

_NO_FAULT = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}  # some folders cannot be opened or synced


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, wholly or not at all; a symbolic link is followed, its target replaced.

    Raises:
        OutputError: it could not be written; whatever was at `path` before is still there.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> atomic_write(folder / "notes", b"all or nothing")
        >>> (folder / "notes").read_bytes(), len(list(folder.iterdir()))
        (b'all or nothing', 1)
    """
    name = os.fspath(path)
    try:
        target = Path(os.path.realpath(name))
        if os.path.lexists(target) and not target.is_file():  # renaming over a device, /dev/null say, would destroy it
            raise OSError(errno.EINVAL, "that is a folder or a device, not a file")
        part = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
        _remove_leftovers(target)
        try:
            _write_through(part, data)
            os.replace(part, target)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kept = "the last good file is still there, unchanged" if _is_file(name) else "no part of it was written"
        raise OutputError(f"cannot write {name!r}: {reason}; {kept}; {_remedy(error)}") from error
    _sync_folder(target.parent, name)


def _write_through(part: Path, data: bytes) -> None:
    """Write a new file and return only when its bytes are on the disk."""
    with open(part, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path, name: str) -> None:
    """Make the rename itself survive a power cut."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FAULT:
            raise OutputError(
                f"{name!r} was written, but the disk did not confirm it ({error.strerror}): check the disk, write again"
            ) from error


def _remove_leftovers(target: Path) -> None:
    """Remove the part files of `target` whose process is no more."""
    if os.name != "posix":  # elsewhere asking whether a process lives may end it
        return
    opening = f".{target.name}."
    with suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if entry.name.startswith(opening) and entry.name.endswith(".part"):
                pid = entry.name[len(opening) :].partition("-")[0]
                if pid.isascii() and pid.isdigit() and not _is_running(int(pid)):
                    with suppress(OSError):
                        os.unlink(entry.path)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_file(name: str) -> bool:
    try:
        return os.path.isfile(name)
    except ValueError:
        return False


def _remedy(error: OSError | ValueError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return "free some space or choose another folder"
    if number == errno.ENOENT:
        return "create the folder first or choose another"
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "choose a folder you may write to"
    return "choose another path"
